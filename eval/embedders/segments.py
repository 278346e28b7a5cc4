"""How a tagger cuts a clip: whole segments, then what is left; no padding, and nothing of 0.15 s or less.

So AudioCraft does for its KL divergence, where each segment is a sample of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

SHORTEST = 0.15
"""Seconds; a segment must be longer."""


def segments_of(heard: Tensor, sample_rate: int, segment: float) -> list[Tensor]:
    """One clip [C, L] at `sample_rate` Hz -> its segments [C, l] of at most `segment` s."""
    parts = heard.split(round(segment * sample_rate), dim=-1)
    return [part for part in parts if part.shape[-1] > SHORTEST * sample_rate]


def num_segments(num_samples: Tensor, from_rate: int, to_rate: int, segment: float) -> Tensor:
    """Segments of clips of `num_samples` [B] at `from_rate` Hz that a tagger hears at `to_rate` Hz -> [B]"""
    length = num_samples * to_rate // from_rate
    window = round(segment * to_rate)
    return length // window + (length % window > SHORTEST * to_rate).to(torch.int64)
