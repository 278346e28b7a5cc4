"""Conditioners of attributes that are not prose: labels looked up in a table, numbers on a scale."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_audio.batch import length_mask
from lightning_audio.conditioning.augmentation import as_text
from lightning_audio.conditioning.base import Condition, Conditioner


class LabelConditioner(Conditioner):
    """One learned vector for each known label (genre, instrument, ...); a list of labels is a sequence.

    labels: all labels there are; another one is an error.   dim: width of the vectors.
    """

    def __init__(self, *, labels: Sequence[str], dim: int) -> None:
        super().__init__()
        self.row_of = {label: row for row, label in enumerate(labels)}
        if not labels or len(self.row_of) != len(labels):
            raise ValueError(f"want labels, each once, got {list(labels)}")
        self.dim = dim
        self.embed = nn.Embedding(len(labels), dim)

    def prepare(self, values: Sequence[Any], *, rng: random.Random | None = None) -> dict[str, Tensor]:
        """ids, mask [B, S]"""
        return _padded([[self._row(label) for label in _as_list(value)] for value in values])

    def _row(self, label: Any) -> int:
        if label not in self.row_of:
            raise ValueError(f"unknown label {label!r}; known are {list(self.row_of)}")
        return self.row_of[label]

    def forward(self, prepared: dict[str, Tensor]) -> Condition:
        return Condition(self.embed(prepared["ids"]), prepared["mask"])


class HashedLabelConditioner(Conditioner):
    """AudioCraft's look-up table (LUT): a label's vector is found by its hash, with no list of labels.

    num_bins: rows of the table; labels whose sha256 agrees modulo it share one. Row 0 is also the padding's.
    split_words: False looks up the whole text ("noop" tokeniser), True each word of it ("whitespace", there
        with lemmas and without stop words, which would need spaCy: not done here).
    """

    def __init__(self, *, num_bins: int, dim: int, split_words: bool = False) -> None:
        super().__init__()
        self.dim = dim
        self.num_bins = num_bins
        self.split_words = split_words
        self.embed = nn.Embedding(num_bins, dim)

    def prepare(self, values: Sequence[Any], *, rng: random.Random | None = None) -> dict[str, Tensor]:
        """ids, mask [B, S]"""
        texts = [as_text(value) for value in values]
        pieces = [[] if text is None else text.split() if self.split_words else [text] for text in texts]
        return _padded([[sha256_bin(piece, self.num_bins) for piece in row] for row in pieces])

    def forward(self, prepared: dict[str, Tensor]) -> Condition:
        return Condition(self.embed(prepared["ids"]), prepared["mask"])


class NumberConditioner(Conditioner):
    """A number (bpm, loudness, ...) as one vector: sines of its place between `low` and `high`.

    Nearby values get nearby vectors; those outside the range are moved to its end.
    log: the place is that of the logarithm, as suits tempo and pitch.
    """

    def __init__(self, *, low: float, high: float, dim: int = 32, log: bool = False) -> None:
        super().__init__()
        if not low < high or (log and low <= 0) or dim % 2:
            raise ValueError(
                f"want low < high (above 0 with log) and an even dim, got {low=}, {high=}, {dim=}"
            )
        self.low, self.high, self.log, self.dim = low, high, log, dim

    def prepare(self, values: Sequence[Any], *, rng: random.Random | None = None) -> dict[str, Tensor]:
        """place, mask [B, 1]"""
        place = [0.0 if value is None else self._place(float(value)) for value in values]
        mask = [value is not None for value in values]
        return {"place": torch.tensor(place)[:, None], "mask": torch.tensor(mask)[:, None]}

    def _place(self, value: float) -> float:
        if not math.isfinite(value):
            raise ValueError(f"want a finite number, got {value}")
        value = min(max(value, self.low), self.high)
        low, high, value = (
            (map(math.log, (self.low, self.high, value))) if self.log else (self.low, self.high, value)
        )
        return (value - low) / (high - low)

    def forward(self, prepared: dict[str, Tensor]) -> Condition:
        # Half a period over the whole range, up to 2^6 half periods: finer than any label is exact.
        octaves = torch.linspace(0, 6, self.dim // 2, device=prepared["place"].device)
        phase = math.pi * prepared["place"][..., None] * 2**octaves  # [B, 1, D / 2]
        return Condition(torch.cat([phase.cos(), phase.sin()], dim=-1), prepared["mask"])


def sha256_bin(text: str, num_bins: int) -> int:
    return int(hashlib.sha256(text.encode("utf-8")).hexdigest(), 16) % num_bins


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, str) or not isinstance(value, Sequence) else list(value)


def _padded(rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """ids [B, S] padded with 0 to the longest row, of at least one step, and their mask [B, S]."""
    lengths = torch.tensor([len(row) for row in rows])
    longest = max(1, int(lengths.max()))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    for row, values in zip(ids, rows, strict=True):
        row[: len(values)] = torch.tensor(values, dtype=torch.long)
    return {"ids": ids, "mask": length_mask(lengths, longest)}
