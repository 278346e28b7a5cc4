"""Which spans are masked again: those that the model was least sure of, side by side or overlapping.

A score says how doubtful a span or a frame is; what was once kept has the score `KEPT` and stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

KEPT = -1e4
"""The score of what is never masked again."""

Scoring = Callable[[Tensor], Tensor]
"""Probabilities of the drawn codes of spans [B, N, L] -> how doubtful each span is [B, N]."""


def doubt_of_best(probabilities: Tensor) -> Tensor:
    """1 - the largest probability in the span: one code that the model is sure of saves its neighbours."""
    return 1 - probabilities.amax(dim=-1)


def doubt_of_product(probabilities: Tensor) -> Tensor:
    """-log of the product of the probabilities in the span."""
    return -probabilities.log().sum(dim=-1)


SCORINGS: dict[str, Scoring] = {"max": doubt_of_best, "prod": doubt_of_product}


class Arrangement(Protocol):
    """How frames are gathered in spans."""

    def trimmed(self, num_frames: int) -> int:
        """How many frames of so many are decoded."""
        ...

    def num_units(self, num_frames: int, prompt_frames: int) -> int:
        """Of what the mask rate is a share."""
        ...

    def first_scores(self, batch_size: int, num_frames: int, prompt_frames: int) -> Tensor:
        """Everything in doubt but the prompt, on the CPU."""
        ...

    def most_doubtful(self, scores: Tensor, count: int) -> Tensor:
        """[B, T] bool: the frames to mask, so that about `count` units are."""
        ...

    def scores(self, probabilities: Tensor, unknown: Tensor) -> Tensor:
        """Of codes just drawn where `unknown` [B, T].  probabilities [B, T]"""
        ...


@dataclass(frozen=True)
class SeparateSpans:
    """Spans side by side, each masked as a whole. Frames beyond the last whole span are left out."""

    span_length: int
    scoring: Scoring

    def trimmed(self, num_frames: int) -> int:
        return num_frames // self.span_length * self.span_length

    def num_units(self, num_frames: int, prompt_frames: int) -> int:
        return num_frames // self.span_length - prompt_frames // self.span_length

    def first_scores(self, batch_size: int, num_frames: int, prompt_frames: int) -> Tensor:
        scores = torch.zeros(batch_size, num_frames // self.span_length)
        scores[:, : prompt_frames // self.span_length] = KEPT
        return scores

    def most_doubtful(self, scores: Tensor, count: int) -> Tensor:
        chosen = torch.zeros_like(scores, dtype=torch.bool)
        chosen.scatter_(1, scores.topk(count, dim=-1).indices, True)
        return chosen.repeat_interleave(
            self.span_length, dim=-1, output_size=scores.shape[1] * self.span_length
        )

    def scores(self, probabilities: Tensor, unknown: Tensor) -> Tensor:
        spans = (-1, self.span_length)
        drawn = unknown.unflatten(-1, spans).any(dim=-1)
        return self.scoring(probabilities.unflatten(-1, spans)).masked_fill(~drawn, KEPT)


@dataclass(frozen=True)
class OverlappingSpans:
    """Spans that begin at any frame. As many of the worst are masked as cover the wanted number of frames.

    The union of the u worst spans has no formula, so u is searched for by halving, each item its own, on the
    device: the frame that span of rank r is the first to cover is masked for all u > r.
    """

    span_length: int

    def trimmed(self, num_frames: int) -> int:
        return num_frames

    def num_units(self, num_frames: int, prompt_frames: int) -> int:
        return num_frames - prompt_frames

    def first_scores(self, batch_size: int, num_frames: int, prompt_frames: int) -> Tensor:
        scores = torch.zeros(batch_size, num_frames)
        scores[:, :prompt_frames] = KEPT
        return scores

    def most_doubtful(self, scores: Tensor, count: int) -> Tensor:
        span = self.span_length
        # Beside `KEPT` a score is rounded to about 0.001, so there are ties, and torch's own order among them
        # is the original's: a stable sort now and then ends with other codes.
        order = scores.unfold(1, span, 1).sum(dim=-1).argsort(dim=-1, descending=True)
        num_spans = order.shape[1]
        ranks = torch.arange(num_spans, device=scores.device).expand_as(order)
        rank = torch.full_like(order, num_spans).scatter(
            1, order, ranks
        )  # of the span that begins at a frame
        covered_by = torch.full(scores.shape, num_spans, dtype=rank.dtype, device=scores.device)
        for shift in range(span):  # the best rank among the spans that hold a frame
            covered_by[:, shift : shift + num_spans] = covered_by[:, shift : shift + num_spans].minimum(rank)
        return covered_by < self._num_spans(covered_by, max(count, span))[:, None]

    def scores(self, probabilities: Tensor, unknown: Tensor) -> Tensor:
        return (-probabilities.log()).masked_fill(~unknown, KEPT)

    def _num_spans(self, covered_by: Tensor, count: int) -> Tensor:
        """How many spans of each item cover about `count` frames.  [B] int64

        The original's search, step by step, so that it ends where that ends: with the last number it tried.
        """
        fewest, most = count // self.span_length, count - self.span_length + 1
        low = torch.full(covered_by.shape[:1], float(fewest), device=covered_by.device)
        high = torch.full_like(low, float(most))
        middle = tried = (0.5 * (low + high)).round()
        for _ in range(math.ceil(math.log2(max(most - fewest, 1))) + 2):
            running = (middle > low) & (middle < high)
            tried = torch.where(running, middle, tried)
            too_many = (covered_by < middle[:, None]).sum(dim=-1) > count
            high = torch.where(running & too_many, middle, high)
            low = torch.where(running & ~too_many, middle, low)
            middle = (0.5 * (low + high)).round()
        return tried.long()


def separate_spans(span_length: int, scoring: str) -> Arrangement:
    # Single frames: the order is that of -log p, in which the smallest probabilities do not round to one score.
    return SeparateSpans(span_length, SCORINGS["prod" if span_length == 1 else scoring])


def overlapping_spans(span_length: int, scoring: str) -> Arrangement:
    """`scoring` has no say: overlapping spans are always scored by the product."""
    return separate_spans(1, scoring) if span_length == 1 else OverlappingSpans(span_length)


ARRANGEMENTS: dict[str, Callable[[int, str], Arrangement]] = {
    "nonoverlap": separate_spans,
    "stride1": overlapping_spans,
}
