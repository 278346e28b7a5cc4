"""Spans masked in training: how many a mask rate takes, and where they lie.

A rate r = cos(pi u / 2) is drawn for each clip, u uniform. It is reached by u spans of L frames that begin
anywhere and may overlap. Of T frames, u random starts leave one unmasked with the probability
C(T - L, u) / C(T, u), so the mean rate grows with u; the table is that function inverted at whole percents
(arXiv 2401.04577, appendix C).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=16)
def mean_rate_table(num_frames: int, span_length: int) -> tuple[int, ...]:
    """For 0, 1, ... 100 percent the fewest spans whose mean mask rate reaches it: 101 numbers."""
    unmasked = (num_frames - span_length) / num_frames
    rates = [0.0]
    for count in range(1, num_frames):
        rates.append(1 - unmasked)
        unmasked *= (num_frames - span_length - count) / (num_frames - count)
    return tuple(bisect_left(rates, percent / 100.0) for percent in range(101))


def mask_rates(batch_size: int, generator: torch.Generator | None = None) -> Tensor:
    """The share of frames to mask in each clip: small ones are rare.  [B] in (0, 1]"""
    return torch.cos(torch.rand(batch_size, generator=generator) * math.pi * 0.5)


def span_mask(
    rates: Tensor, *, num_frames: int, span_length: int, generator: torch.Generator | None = None
) -> Tensor:
    """A random mask of each rate, one span at least.  rates [B] -> [B, T] bool, True = masked

    Spans that begin near the end are cut off there. Spans of one frame are counted exactly, without the table.
    """
    if num_frames < span_length:
        raise ValueError(f"a span has {span_length} frames, the clip only {num_frames}")
    if span_length == 1:
        count = (num_frames * rates).round().long()
    else:
        table = torch.tensor(mean_rate_table(num_frames, span_length), device=rates.device)
        count = table[(100 * rates).round().long()]
    noise = torch.rand(len(rates), num_frames, generator=generator, device=rates.device)
    starts = noise.argsort(dim=-1) < count.clamp(min=1)[:, None]
    return extended(starts, span_length)


def extended(starts: Tensor, span_length: int) -> Tensor:
    """The frames of the spans that begin where `starts` [B, T] is True."""
    mask = starts.clone()
    for shift in range(1, span_length):
        mask[:, shift:] |= starts[:, :-shift]
    return mask
