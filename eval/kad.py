"""Kernel distance between two sets of embeddings (KAD, Chung et al. 2025): unbiased, and without Gaussians.

The squared maximum mean discrepancy: how much more alike two embeddings are within their set than across the sets,

    mean k(x, x') over x != x'  +  mean k(y, y') over y != y'  -  2 mean k(x, y),

times a scale that makes it legible. An unbiased estimate of zero is negative half of the time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from eval.exact import in_fixed_order

BLOCK = 2048
"""Rows whose kernel with as many others is held at once: 32 MB of float64."""
_BINS = 1 << 16


class Kernel(Protocol):
    """How alike embeddings are."""

    def fitted(self, reference: Tensor) -> Kernel:
        """With what it takes from the reference [M, D], where it takes anything."""
        ...

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """[N, D], [M, D] float64 -> [N, M]"""
        ...


@dataclass(frozen=True)
class GaussianKernel:
    """exp(-|a - b|² / (2 bandwidth²)); the bandwidth is the reference's median distance of two, unless given."""

    bandwidth: float | None = None

    def fitted(self, reference: Tensor) -> GaussianKernel:
        if self.bandwidth is not None:
            return self
        bandwidth = median_distance(reference)
        if bandwidth == 0.0:
            raise ValueError(
                f"kernel distance: over half of the pairs of {len(reference)} reference embeddings are equal; "
                "their median distance, 0, is no bandwidth"
            )
        return replace(self, bandwidth=bandwidth)

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        assert self.bandwidth is not None
        return torch.exp(-squared_distances(a, b) / (2.0 * self.bandwidth**2))


@dataclass(frozen=True)
class PolynomialKernel:
    """(a·b / D + offset)^degree, the kernel of the images' kernel distance (Bińkowski et al. 2018)."""

    degree: int = 3
    offset: float = 1.0

    def fitted(self, reference: Tensor) -> PolynomialKernel:
        return self

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + self.offset) ** self.degree


def kernel_distance(
    embeddings: Tensor, reference: Tensor, *, kernel: Kernel | None = None, scale: float = 1000.0
) -> float:
    """Of embeddings [N, D] to reference [M, D], in float64 and in blocks."""
    if len(embeddings) < 2 or len(reference) < 2:
        raise ValueError(
            f"kernel distance of {len(embeddings)} embeddings to {len(reference)}, needs 2 of each"
        )
    fitted = (kernel or GaussianKernel()).fitted(reference)
    across = math.fsum(float(fitted(a, b).sum()) for a in _blocks(embeddings) for b in _blocks(reference))
    mean_across = across / (len(embeddings) * len(reference))
    return scale * (_within(fitted, embeddings) + _within(fitted, reference) - 2.0 * mean_across)


def _within(kernel: Kernel, rows: Tensor) -> float:
    """Mean over all pairs of unlike rows."""
    total = math.fsum(float(pairs.sum()) for pairs in _pairs(rows, kernel))
    return total / (len(rows) * (len(rows) - 1) / 2)


def _pairs(rows: Tensor, value: Kernel | None = None) -> Iterator[Tensor]:
    """The kernel, or without one the squared distance, of each pair of rows once, in flat blocks."""
    between = value or squared_distances
    for i, a in enumerate(_blocks(rows)):
        upper = torch.triu_indices(len(a), len(a), offset=1, device=rows.device)
        yield between(a, a)[upper[0], upper[1]]
        for b in _blocks(rows[(i + 1) * BLOCK :]):
            yield between(a, b).flatten()


def _blocks(rows: Tensor) -> Iterator[Tensor]:
    return (block.double() for block in rows.split(BLOCK) if len(block))


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """|a - b|² of each row of [N, D] to each of [M, D], about their common middle, where they lose least.  [N, M]"""
    middle = a.mean(0)
    a, b = a - middle, b - middle
    both = a.square().sum(1)[:, None] + b.square().sum(1)
    squares = both - 2.0 * a @ b.T
    return squares.where(squares > 1e-14 * both, 0.0)  # what is less is rounding


def median_distance(rows: Tensor) -> float:
    """Exact median of |a - b| over all pairs of rows [N, D]; the lower of the middle two.

    Twice through all pairs rather than once with all of them in memory: first counted into bins, then only those in
    the bin of the median sorted.
    """
    rank = (len(rows) * (len(rows) - 1) // 2 - 1) // 2
    width = max(float(pairs.max()) for pairs in _pairs(rows)) / _BINS
    if width == 0.0:
        return 0.0
    counts = torch.zeros(_BINS, dtype=torch.int64, device=rows.device)
    for pairs in _pairs(rows):
        counts += _bins(pairs, width).bincount(minlength=_BINS)
    below = counts.cumsum(0)
    chosen = int((below > rank).nonzero()[0])
    inside = torch.cat([pairs[_bins(pairs, width) == chosen] for pairs in _pairs(rows)])
    return math.sqrt(float(inside.sort().values[rank - int(below[chosen] - counts[chosen])]))


def _bins(values: Tensor, width: float) -> Tensor:
    return (values / width).long().clamp(max=_BINS - 1)


class KernelDistance(Metric):
    """Kernel distance of the embeddings given as `reference=False` to those given as `reference=True`.

    scale: makes the number legible, and belongs to it: kadtk, the paper's toolkit, multiplies by 100.
    Every pair of embeddings counts, so they are held, [N, D] in float32, in main memory; their kernel is taken in
    blocks. Rows are brought into a fixed order first, so that the value is the same to the last bit on any number
    of ranks. Rows that are not finite are left out and counted in `num_excluded` [set, reference].
    """

    full_state_update = False
    higher_is_better = False
    generated: list[Tensor]
    references: list[Tensor]
    num_excluded: Tensor

    def __init__(
        self, dim: int, *, kernel: Kernel | None = None, scale: float = 1000.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.dim, self.kernel, self.scale = dim, kernel, scale
        self.add_state("generated", default=[], dist_reduce_fx="cat")
        self.add_state("references", default=[], dist_reduce_fx="cat")
        self.add_state("num_excluded", torch.zeros(2, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, embeddings: Tensor, *, reference: bool) -> None:
        """embeddings [N, D]"""
        if embeddings.ndim != 2 or embeddings.shape[1] != self.dim:
            raise ValueError(f"embeddings are {tuple(embeddings.shape)}, want [N, {self.dim}]")
        usable = embeddings.isfinite().all(1)
        self.num_excluded[int(reference)] += (~usable).sum()
        (self.references if reference else self.generated).append(embeddings[usable].float())

    def compute(self) -> Tensor:
        sets = [self._rows(self.generated), self._rows(self.references)]
        return torch.tensor(kernel_distance(*sets, kernel=self.kernel, scale=self.scale), dtype=torch.float64)

    def _rows(self, state: list[Tensor] | Tensor) -> Tensor:
        rows = dim_zero_cat(state) if len(state) else torch.empty(0, self.dim)
        return in_fixed_order(rows)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        # A rank that saw nothing must still bring tensors of the right shape to the gather.
        for state in (self.generated, self.references):
            if isinstance(state, list) and not state:
                state.append(torch.empty(0, self.dim, device=self.device))
        super().sync(*args, **kwargs)
