"""CLAP: one vector for a sound and one for a text, near each other where the text describes the sound.

arXiv 2211.06687. From a file of LAION's, which the published scores were made with, or from a folder in the form of
transformers. Scores of different files are not to be compared: for one model they were 0.13 and 0.31.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eval.embedders.base import ClipEmbedder, by_length, default_device
from eval.embedders.decibel_mel import DecibelMel
from eval.embedders.hearing import Hearing
from eval.embedders.laion import read_laion_clap
from eval.weights import CLAP_MUSIC, ROBERTA_TOKENIZER, WeightsFile
from lightning_audio.conditioning.clap import ClapConditioner
from lightning_audio.hashing import weights_hash

_RATE = 48_000
_WINDOW = 10 * _RATE
_HOP = 480
_TOKENS = 77


class Clap(ClipEmbedder):
    """One row of length 1 for a clip; `embed_text` gives those of texts.

    A clip shorter than 10 s is repeated as often as it fits whole, then padded with zeros, as LAION does. Of a
    longer one LAION hears 10 s at random; here the mean counts over 10 s from every 10 s and over its last 10 s,
    so that a value is the same each time.
    """

    sample_rate = _RATE

    def __init__(
        self,
        model: Any,
        mel: DecibelMel,
        tokenizer: Any,
        *,
        name: str,
        weights_hash: str,
        hearing: Hearing | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 16,
    ) -> None:
        self.name, self.weights_hash = name, weights_hash
        self.hearing = hearing or Hearing()
        self.device, self.batch_size = default_device(device), batch_size
        self.model = model.to(self.device).eval().requires_grad_(False)
        self.mel, self.tokenizer = mel.to(self.device), tokenizer
        self.dim = model.config.projection_dim
        wanted, known = model.config.text_config.vocab_size, len(tokenizer)
        # Without its files, transformers makes a tokeniser of a handful of tokens and says nothing.
        if known != wanted:
            raise ValueError(
                f"{name}: the tokeniser knows {known:,} tokens, the network {wanted:,}: one is not the other's"
            )

    @classmethod
    def from_laion(
        cls,
        path: str | Path | None = None,
        *,
        weights: WeightsFile = CLAP_MUSIC,
        tokenizer: str | Path | None = None,
        any_weights: bool = False,
        **options: Any,
    ) -> Clap:
        """From a file of LAION's without fusion.

        path: the file, or its folder; by default where `eval.weights` finds `weights`.
        tokenizer: folder of roberta-base's, vocab.json and merges.txt.   options: as of the constructor.
        """
        from transformers import RobertaTokenizer

        found = weights.find(path, any_weights=any_weights)
        words = RobertaTokenizer.from_pretrained(ROBERTA_TOKENIZER.find(tokenizer))
        model, filters = read_laion_clap(found.path)
        mel = DecibelMel(filters, hop=_HOP)
        return cls(model, mel, words, name=weights.name, weights_hash=found.sha256, **options)

    @classmethod
    def from_transformers(
        cls,
        name: str = "laion/larger_clap_music",
        path: str | Path | None = None,
        *,
        dim: int = 512,
        **options: Any,
    ) -> Clap:
        """From a folder in the form of transformers at `path`, or the hub's `name` and its cache.

        dim: of its embeddings.   options: as of the constructor.
        """
        source = ClapConditioner(quantizer=None, dim=dim, name=name, path=None if path is None else str(path))
        extractor = source.processor.feature_extractor
        if extractor.truncation == "fusion":
            raise ValueError(
                f"{path or name} is a CLAP with fusion of long clips; use one without, as the published scores do"
            )
        model: Any = source.clap
        filters = torch.from_numpy(extractor.mel_filters_slaney).float()  # [bins, mels]
        mel = DecibelMel(filters, hop=extractor.hop_length)
        digest = weights_hash(model)
        return cls(
            model, mel, source.processor.tokenizer, name=str(path or name), weights_hash=digest, **options
        )

    @torch.no_grad()
    def rows(self, heard: Sequence[Tensor]) -> Tensor:
        rows = torch.full((len(heard), self.dim), torch.nan)
        for places, wav in by_length(heard, self.batch_size):
            if wav.shape[-1]:
                windows = _windows(wav[:, 0])  # [b, n, 10 s]
                each = self._embedded(windows.flatten(0, 1)).unflatten(0, windows.shape[:2])
                rows[places] = F.normalize(each.mean(dim=1), dim=-1).cpu()
        return rows

    @torch.no_grad()
    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """[N, D], of length 1; a text counts up to 77 tokens."""
        found = [
            self._text_rows(texts[i : i + self.batch_size]) for i in range(0, len(texts), self.batch_size)
        ]
        return torch.cat(found) if found else torch.zeros(0, self.dim)

    def _text_rows(self, texts: Sequence[str]) -> Tensor:
        tokens = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=_TOKENS, return_tensors="pt"
        ).to(self.device)
        made = self.model.get_text_features(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        )
        return F.normalize(_vectors(made), dim=-1).cpu()

    def _embedded(self, windows: Tensor) -> Tensor:
        """[N, 10 s] -> [N, D], of length 1."""
        parts = [self.mel(part.to(self.device))[:, None] for part in windows.split(self.batch_size)]
        made = [_vectors(self.model.get_audio_features(input_features=part)) for part in parts]
        return F.normalize(torch.cat(made), dim=-1)


def _windows(wav: Tensor) -> Tensor:
    """[B, L] -> [B, n, 10 s]"""
    length = wav.shape[-1]
    if length < _WINDOW:
        wav = wav.repeat(1, _WINDOW // length)
        wav = nn.functional.pad(wav, (0, _WINDOW - wav.shape[-1]))
    starts = [*range(0, wav.shape[-1] - _WINDOW, _WINDOW), wav.shape[-1] - _WINDOW]
    return torch.stack([wav[:, start : start + _WINDOW] for start in starts], dim=1)


def _vectors(features: Any) -> Tensor:
    """Newer versions of transformers give an output with the pooled vectors, older ones the vectors."""
    vectors: Tensor = features if isinstance(features, Tensor) else features.pooler_output
    return vectors
