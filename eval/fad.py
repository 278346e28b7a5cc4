"""Fréchet distance between two sets of embeddings, each taken for a Gaussian; lower is better.

With covariances Ca = Fa'Fa and Cb = Fb'Fb, the trace of the root of Ca·Cb is the sum of the roots of the
eigenvalues of the symmetric product Fa·Cb·Fa', which are the singular values of Fa·Fb'. Taking those directly
keeps all digits where a matrix root of a nearly singular product (fewer clips than dimensions) loses half of
them or turns complex, and is several times faster.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from eval.bootstrap import Interval, bootstrap, percentile_interval


def frechet_distance(mean_a: Tensor, covariance_a: Tensor, mean_b: Tensor, covariance_b: Tensor) -> Tensor:
    """|ma - mb|² + tr(Ca + Cb - 2 (Ca Cb)^½), in float64.  means [D], covariances [D, D] -> scalar"""
    return _distance(
        mean_a.double(), _root(covariance_a.double()), mean_b.double(), _root(covariance_b.double())
    )


def mean_and_covariance(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Of one set: mean [D] and unbiased covariance [D, D], in float64.  embeddings [N, D]"""
    embeddings = embeddings.double()
    return embeddings.mean(0), torch.cov(embeddings.T).reshape(embeddings.shape[1], -1)


def _root(covariance: Tensor) -> Tensor:
    """F with F'F = covariance; negative eigenvalues are rounding, and dropped.  [D, D] -> [D, D]"""
    values, vectors = torch.linalg.eigh(covariance)
    return values.clamp(min=0.0).sqrt()[:, None] * vectors.T


def _distance(mean_a: Tensor, root_a: Tensor, mean_b: Tensor, root_b: Tensor) -> Tensor:
    shift = (mean_a - mean_b).square().sum()
    overlap = torch.linalg.svdvals(root_a @ root_b.T).sum()
    return (shift + root_a.square().sum() + root_b.square().sum() - 2.0 * overlap).clamp(min=0.0)


class FrechetDistance(Metric):
    """Fréchet distance of the embeddings given as `reference=False` to those given as `reference=True`.

    Holds counts, sums and sums of outer products in float64, so memory does not grow with the number of clips
    and ranks add up. Rows that are not finite are left out and counted in `num_excluded` [set, reference].
    """

    full_state_update = False
    higher_is_better = False
    count: Tensor
    total: Tensor
    outer: Tensor
    num_excluded: Tensor

    def __init__(self, dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim = dim
        # Index 0 holds the set that is scored, index 1 the reference.
        self.add_state("count", torch.zeros(2, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("num_excluded", torch.zeros(2, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(2, dim, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("outer", torch.zeros(2, dim, dim, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, embeddings: Tensor, *, reference: bool) -> None:
        """embeddings [N, D]"""
        if embeddings.ndim != 2 or embeddings.shape[1] != self.dim:
            raise ValueError(f"embeddings are {tuple(embeddings.shape)}, want [N, {self.dim}]")
        usable = embeddings.isfinite().all(1)
        rows = embeddings[usable].double()
        side = int(reference)
        self.count[side] += len(rows)
        self.num_excluded[side] += (~usable).sum()
        self.total[side] += rows.sum(0)
        self.outer[side] += rows.T @ rows

    def compute(self) -> Tensor:
        for side, name in enumerate(("set", "reference")):
            count, excluded = int(self.count[side]), int(self.num_excluded[side])
            if count < 2:
                raise ValueError(
                    f"Fréchet distance: the {name} has {count} usable embeddings ({excluded} excluded), "
                    "needs 2"
                )
            if count <= self.dim:
                warnings.warn(
                    f"Fréchet distance: the {name} has {count} embeddings for {self.dim} dimensions; the "
                    "value is biased upwards and only comparable at equal counts",
                    stacklevel=2,
                )
        return frechet_distance(*self._moments(0), *self._moments(1))

    def _moments(self, side: int) -> tuple[Tensor, Tensor]:
        count = self.count[side]
        mean = self.total[side] / count
        return mean, (self.outer[side] - count * torch.outer(mean, mean)) / (count - 1)


def bootstrap_frechet(
    embeddings: Tensor,
    reference: Tensor,
    *,
    level: float = 0.95,
    num_resamples: int = 200,
    seed: int = 0,
) -> Interval:
    """Interval of the Fréchet distance over clips: [N, D] resampled against a fixed reference [M, D].

    A resample repeats clips, has a smaller rank, and so lies higher than the value itself, the more so the
    fewer the clips. The spread is right and its place is not: the replicates are moved so that their mean is
    the value. The interval is that of the distance *at this number of clips*.
    """
    rows = embeddings[embeddings.isfinite().all(1)].double().cpu()
    mean_b, covariance_b = mean_and_covariance(reference[reference.isfinite().all(1)].cpu())
    root_b = _root(covariance_b)

    def distance(counts: Tensor) -> Tensor:
        mean = counts @ rows / len(rows)
        root = (counts / (len(rows) - 1)).sqrt()[:, None] * (rows - mean)
        if len(root) > root.shape[1]:
            root = torch.linalg.qr(root, mode="r").R  # the same F'F with fewer rows
        return _distance(mean, root, mean_b, root_b)

    replicates = bootstrap(
        lambda counts: torch.stack([distance(row) for row in counts]),
        len(rows),
        num_resamples=num_resamples,
        seed=seed,
    )
    value = distance(torch.ones(len(rows), dtype=torch.float64))
    return percentile_interval(
        (replicates - replicates.mean() + value).clamp(min=0.0), level=level, seed=seed
    )
