"""AST: a tagger of AudioSet's classes that needs only transformers, for where PaSST's packages cannot be had.

Gong et al., AST: Audio Spectrogram Transformer (arXiv 2104.01778). Divergences by it are not those of the published
tables, which are PaSST's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eval.embedders.base import clips_of, default_device
from eval.embedders.hearing import Hearing
from eval.embedders.segments import num_segments, segments_of
from eval.weights import AST
from lightning_audio.hashing import weights_hash


class Ast:
    """Logits of AudioSet's 527 classes, a row per segment of 10 s.

    path: folder in the form of transformers; by default where `eval.weights` finds it. The network always hears
    10.24 s, so its own front end pads a segment with zeros.
    """

    segment = 10.0

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        hearing: Hearing | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 8,
    ) -> None:
        from transformers import ASTFeatureExtractor, ASTForAudioClassification

        folder = AST.find(path)
        self.front_end = ASTFeatureExtractor.from_pretrained(folder)
        loaded: Any = ASTForAudioClassification.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
        net, info = loaded
        if absent := sorted(info["missing_keys"]):
            raise ValueError(f"{folder} is no AST: it lacks {absent[:3]} ({len(absent)} in all)")
        self.device, self.batch_size = default_device(device), batch_size
        self.net: Any = net.to(self.device).eval().requires_grad_(False)
        self.name, self.weights_hash = "ast", weights_hash(net)
        self.sample_rate: int = self.front_end.sampling_rate
        self.hearing = hearing or Hearing()

    @torch.no_grad()
    def logits(self, wav: Tensor, sample_rate: int, num_samples: Tensor | None = None) -> Tensor:
        """wav [B, C, L] at `sample_rate` Hz, with `num_samples` [B] valid samples -> [N, classes]"""
        heard = [self.hearing(clip, sample_rate, self.sample_rate, 1) for clip in clips_of(wav, num_samples)]
        segments = [part for clip in heard for part in segments_of(clip, self.sample_rate, self.segment)]
        rows = torch.zeros(len(segments), self.net.config.num_labels)
        for start in range(0, len(segments), self.batch_size):
            part = [segment[0].cpu().numpy() for segment in segments[start : start + self.batch_size]]
            features = self.front_end(part, sampling_rate=self.sample_rate, return_tensors="pt")
            made = self.net(features["input_values"].to(self.device)).logits.cpu()
            rows[start : start + self.batch_size] = made
        return rows

    def num_segments(self, num_samples: Tensor, sample_rate: int) -> Tensor:
        """Rows of `logits` of clips of `num_samples` [B] -> [B]"""
        return num_segments(num_samples, sample_rate, self.sample_rate, self.segment)
