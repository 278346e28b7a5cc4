"""Bootstrap intervals over clips: how much a number would move had other clips been drawn.

A resample of N clips is N draws with replacement, here as the count of each clip, so that a mean or a ratio
of sums over all resamples is one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_CHUNK = 1 << 23
"""Counts held at once (64 MB of float64): memory does not grow with resamples times clips."""


@dataclass(frozen=True)
class Interval:
    """Where the middle `level` of the resampled values lie."""

    low: float
    high: float
    level: float = 0.95
    num_resamples: int = 1000
    seed: int = 0


def resample_counts(num_clips: int, *, num_resamples: int = 1000, seed: int = 0) -> Iterator[Tensor]:
    """How often each clip is drawn, in chunks [r, N] float64 whose rows add up to N."""
    if num_clips < 2:
        raise ValueError(f"a bootstrap interval needs at least 2 clips, got {num_clips}")
    generator = torch.Generator().manual_seed(seed)
    rows = max(1, _CHUNK // num_clips)
    for start in range(0, num_resamples, rows):
        shape = (min(rows, num_resamples - start), num_clips)
        drawn = torch.randint(num_clips, shape, generator=generator)
        yield torch.zeros(shape, dtype=torch.float64).scatter_add_(
            1, drawn, torch.ones(shape, dtype=torch.float64)
        )


def bootstrap(
    statistic: Callable[[Tensor], Tensor], num_clips: int, *, num_resamples: int = 1000, seed: int = 0
) -> Tensor:
    """The statistic on every resample.  `statistic` maps counts [r, N] to values [r, ...]; gives [R, ...]."""
    chunks = resample_counts(num_clips, num_resamples=num_resamples, seed=seed)
    return torch.cat([statistic(counts) for counts in chunks])


def percentile_interval(replicates: Tensor, *, level: float = 0.95, seed: int = 0) -> Interval:
    """The middle `level` of the replicates [R]; replicates that are not finite are left out."""
    finite = replicates[replicates.isfinite()]
    if not 0.0 < level < 1.0 or finite.numel() == 0:
        raise ValueError(f"no interval of level {level} from {finite.numel()} finite replicates")
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=finite.dtype)
    low, high = torch.quantile(finite, tails).tolist()
    return Interval(low=low, high=high, level=level, num_resamples=len(replicates), seed=seed)


def bootstrap_mean(
    values: Tensor, *, level: float = 0.95, num_resamples: int = 1000, seed: int = 0
) -> Interval:
    """Interval of the mean of one value per clip.  values [N].

    The values are sorted first: the interval then does not depend on the order in which ranks saw the clips.
    """
    ordered = values.double().cpu().sort().values
    replicates = bootstrap(
        lambda counts: counts @ ordered / len(ordered), len(ordered), num_resamples=num_resamples, seed=seed
    )
    return percentile_interval(replicates, level=level, seed=seed)


def bootstrap_ratio(
    numerators: Tensor,
    denominators: Tensor,
    *,
    level: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> list[Interval]:
    """Intervals of sums over sums, one per column, as for a cross-entropy per token.  Both [N, K]."""
    above, below = numerators.double().cpu(), denominators.double().cpu()
    replicates = bootstrap(
        lambda counts: (counts @ above) / (counts @ below), len(above), num_resamples=num_resamples, seed=seed
    )
    return [percentile_interval(column, level=level, seed=seed) for column in replicates.unbind(1)]
