"""Distances of several sets of clips to one reference set, fed clip by clip."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from eval.bootstrap import Interval
from eval.card import SizeCurve
from eval.clip_scores import clip_number
from eval.extrapolation import ExtrapolatedFrechetDistance
from eval.protocols.ranks import everywhere

_ROWS = 512
"""Embeddings that are given to a metric at once: an update of wide ones costs as much for one as for many."""

JudgedRows = Callable[[Tensor, Tensor, Tensor], Interval | None]
"""Rows [N, D] of the judged set, the clip [N] of each, rows [M, D] of the reference -> interval of the distance."""


@dataclass(frozen=True)
class Distance:
    """A distance between sets of embeddings.

    metric: makes it for a number of dimensions; a `FrechetDistance`, or what is fed like it.
    interval: over clips; it takes the embeddings of both sets, which are then held, in float32. None: no interval.
    canaries: whether it is taken of the canaries as well.
    """

    metric: Callable[[int], Metric]
    meaning: str
    interval: JudgedRows | None = None
    canaries: bool = True


class SetScores:
    """The distances of each of the sets to the reference.  distances, sets: by name."""

    HALVES = "the reference's own halves"
    HALVES_MEANING = (
        "Two halves of the reference against each other: about the least that so few clips can reach"
    )

    def __init__(self, distances: dict[str, Distance], sets: Sequence[str]) -> None:
        self.distances, self.sets = distances, [*sets, self.HALVES]
        self.judged = sets[0]
        self._waiting: dict[tuple[str, bool], list[Tensor]] = {}
        self._metrics: dict[tuple[str, str], Metric] = {}
        self._held: _HeldRows | None = None
        self._width: int | None = None

    def reference(self, rows: Tensor, key: str, place: int) -> None:
        """Embeddings [N, D] of a reference clip; place: its number in the set."""
        for name in self.sets[:-1]:
            self._wait(name, rows, is_reference=True)
        self._wait(self.HALVES, rows, is_reference=place % 2 == 1)
        self._hold(rows, key, is_reference=True)

    def update(self, name: str, rows: Tensor, key: str) -> None:
        """Embeddings [N, D] of a clip of a set."""
        self._wait(name, rows, is_reference=False)
        if name == self.judged:
            self._hold(rows, key, is_reference=False)

    def finish(self) -> None:
        """When all clips were given: on all ranks, also on those that had none."""
        widths = [width for width in everywhere(self._width) if width is not None]
        if not widths:
            raise ValueError("no clip could be embedded")
        self._make(widths[0])
        for name, is_reference in list(self._waiting):
            self._flush(name, is_reference)

    def value(self, label: str, name: str, notes: list[str]) -> float:
        """The distance of a set; NaN, with the reason in `notes`, where it cannot be taken."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                value = float(self._metrics[label, name].compute())
            except ValueError as error:
                notes.append(f"{label} of {name}: {error}")
                return math.nan
        if name == self.judged:
            notes += [
                f"{label}: {warning.message}" for warning in caught if "mbeddings" in str(warning.message)
            ]
        return value

    def counts(self, label: str) -> dict[str, int]:
        """How many clips of the judged set counted."""
        return {} if self._held is None else {self.judged: self._held.num_clips()}

    def interval(self, label: str) -> Interval | None:
        """Of the judged set's distance; None where it has none."""
        interval = self.distances[label].interval
        if interval is None or self._held is None:
            return None
        rows, clips, reference = self._held.compute()
        return interval(rows, clips, reference) if len(clips.unique()) > 1 else None

    def size_curve(self, label: str) -> SizeCurve | None:
        """Of a distance that is extrapolated; only where there is a value."""
        metric = self._metrics[label, self.judged]
        if not isinstance(metric, ExtrapolatedFrechetDistance):
            return None
        found = metric.extrapolation()
        return SizeCurve(found.points, limit=found.value, slope=found.slope, r_squared=found.r_squared)

    def _make(self, width: int) -> None:
        if self._metrics:
            return
        self._width = width
        for label, distance in self.distances.items():
            for name in self.sets if distance.canaries else [self.judged]:
                self._metrics[label, name] = distance.metric(width)
        if any(distance.interval for distance in self.distances.values()):
            self._held = _HeldRows(width)

    def _wait(self, name: str, rows: Tensor, *, is_reference: bool) -> None:
        if self._width is None:
            self._make(rows.shape[1])
        waiting = self._waiting.setdefault((name, is_reference), [])
        waiting.append(rows)
        if sum(map(len, waiting)) >= _ROWS:
            self._flush(name, is_reference)

    def _flush(self, name: str, is_reference: bool) -> None:
        rows = torch.cat(self._waiting.pop((name, is_reference)))
        for label in self.distances:
            if (label, name) in self._metrics:
                self._metrics[label, name].update(rows, reference=is_reference)

    def _hold(self, rows: Tensor, key: str, *, is_reference: bool) -> None:
        if self._held is not None:
            self._held.update(rows, key, reference=is_reference)


class _HeldRows(Metric):
    """The embeddings of the judged set and of the reference, for what is drawn from them."""

    full_state_update = False
    rows: list[Tensor]
    clips: list[Tensor]
    sides: list[Tensor]

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width = width
        for name in ("rows", "clips", "sides"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, rows: Tensor, key: str, *, reference: bool) -> None:
        """rows [N, D] of one clip; those that are not finite are left out."""
        rows = rows[rows.isfinite().all(1)]
        self.rows.append(rows.float())
        self.clips.append(torch.full((len(rows),), clip_number(key), dtype=torch.int64))
        self.sides.append(torch.full((len(rows),), int(reference), dtype=torch.int64))

    def compute(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows and clips of the judged set, and rows of the reference, in an order that no rank decides."""
        rows, clips, sides = (dim_zero_cat(state) for state in (self.rows, self.clips, self.sides))
        order = clips.argsort(stable=True)
        rows, clips, sides = rows[order], clips[order], sides[order]
        return rows[sides == 0], clips[sides == 0], rows[sides == 1]

    def num_clips(self) -> int:
        return len(self.compute()[1].unique())

    def sync(self, *args: Any, **kwargs: Any) -> None:
        # A rank that saw nothing must still bring tensors of the right shape to the gather.
        if isinstance(self.rows, list) and not self.rows:
            self.rows.append(torch.empty(0, self.width))
            self.clips.append(torch.empty(0, dtype=torch.int64))
            self.sides.append(torch.empty(0, dtype=torch.int64))
        super().sync(*args, **kwargs)
