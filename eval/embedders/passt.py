"""PaSST: the tagger behind the KL divergence of AudioCraft's tables, through the package hear21passt.

Koutini et al., Efficient Training of Audio Transformers with Patchout (arXiv 2110.05069). Music is judged by the
model of 20 s, AudioCaps by that of 10 s.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from eval.embedders.base import by_length, clips_of, default_device
from eval.embedders.hearing import Hearing
from eval.embedders.segments import num_segments, segments_of
from eval.weights import PASST_10S, PASST_20S, WeightsFile
from lightning_audio.checkpoints.keymap import load_strict
from lightning_audio.checkpoints.pickles import read_pickle

_RATE = 32_000


class _Published(NamedTuple):
    weights: WeightsFile
    architecture: str  # as hear21passt calls it
    num_frames: int  # of 10 ms


_PUBLISHED = {
    20.0: _Published(PASST_20S, "passt_20sec", 2000),
    10.0: _Published(PASST_10S, "passt_s_swa_p16_128_ap476", 998),
}


class Passt:
    """Logits of AudioSet's 527 classes, a row per segment.

    path: the published file, or its folder; by default where `eval.weights` finds it.
    segment: 20 or 10 s, each with its own file.
    """

    sample_rate = _RATE

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        segment: float = 20.0,
        hearing: Hearing | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 8,
        any_weights: bool = False,
    ) -> None:
        if segment not in _PUBLISHED:
            raise ValueError(f"PaSST hears segments of {list(_PUBLISHED)} s, not of {segment} s")
        published = _PUBLISHED[segment]
        found = published.weights.find(path, any_weights=any_weights)
        self.name, self.weights_hash, self.segment = published.weights.name, found.sha256, segment
        self.hearing = hearing or Hearing()
        self.device, self.batch_size = default_device(device), batch_size
        mel, net = _network(published, found.path)
        self.mel: nn.Module = mel.to(self.device).eval()
        self.net: Any = net.to(self.device).eval()

    @torch.no_grad()
    def logits(self, wav: Tensor, sample_rate: int, num_samples: Tensor | None = None) -> Tensor:
        """wav [B, C, L] at `sample_rate` Hz, with `num_samples` [B] valid samples -> [N, 527]"""
        heard = [self.hearing(clip, sample_rate, _RATE, 1) for clip in clips_of(wav, num_samples)]
        segments = [part for clip in heard for part in segments_of(clip, _RATE, self.segment)]
        rows = torch.zeros(len(segments), self.net.num_classes)
        for places, parts in by_length(segments, self.batch_size):
            spectrogram = self.mel(parts[:, 0].to(self.device))[:, None]
            rows[places] = self.net(spectrogram)[0].cpu()
        return rows

    def num_segments(self, num_samples: Tensor, sample_rate: int) -> Tensor:
        """Rows of `logits` of clips of `num_samples` [B] -> [B]"""
        return num_segments(num_samples, sample_rate, _RATE, self.segment)


def _network(published: _Published, path: Path) -> tuple[nn.Module, Any]:
    try:
        from hear21passt.models.passt import get_model
        from hear21passt.models.preprocess import AugmentMelSTFT
    except ImportError as error:
        raise ValueError(
            f"PaSST needs the packages of the extra `kl` (pip install 'lightning-audio[kl]'): {error}. "
            "The tagger AST needs none of them, but its divergences are not those of the published tables"
        ) from error
    with contextlib.redirect_stdout(io.StringIO()):  # it prints the whole network
        mel = AugmentMelSTFT(
            n_mels=128,
            sr=_RATE,
            win_length=800,
            hopsize=320,
            n_fft=1024,
            fmin_aug_range=10,
            fmax_aug_range=2000,
        )
        net = get_model(arch=published.architecture, pretrained=False, input_tdim=published.num_frames)
    load_strict(net, read_pickle(path))
    return mel, net.requires_grad_(False)
