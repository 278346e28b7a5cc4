"""Fréchet distance between two sets of embeddings, each taken for a Gaussian; lower is better.

With covariances Ca = Fa'Fa and Cb = Fb'Fb, the trace of the root of Ca·Cb is the sum of the roots of the
eigenvalues of the symmetric product Fa·Cb·Fa', which are the singular values of Fa·Fb'. Taking those directly
keeps all digits where a matrix root of a nearly singular product (fewer clips than dimensions) loses half of
them or turns complex, and is several times faster.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from scipy.linalg import lapack
from torch import Tensor
from torchmetrics import Metric

from eval import exact
from eval.bootstrap import Interval, bootstrap, percentile_interval
from eval.clip_scores import ClipMean
from eval.gaussian import Gaussian, gaussian_of


def frechet_distance(mean_a: Tensor, covariance_a: Tensor, mean_b: Tensor, covariance_b: Tensor) -> Tensor:
    """|ma - mb|² + tr(Ca + Cb - 2 (Ca Cb)^½), in float64.  means [D], covariances [D, D] -> scalar"""
    return _distance(
        mean_a.double(), _root(covariance_a.double()), mean_b.double(), _root(covariance_b.double())
    )


def distance_to(reference: Gaussian) -> Callable[[Gaussian], Tensor]:
    """The Fréchet distance to one reference, whose root is taken once."""
    mean_b, root_b = reference.mean.double().cpu(), _root(reference.covariance.double().cpu())
    return lambda other: _distance(other.mean.cpu(), _root(other.covariance.cpu()), mean_b, root_b)


def mean_and_covariance(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Of one set: mean [D] and unbiased covariance [D, D], in float64.  embeddings [N, D]"""
    gaussian = gaussian_of(embeddings)
    return gaussian.mean, gaussian.covariance


def _root(covariance: Tensor) -> Tensor:
    """F with F'F = covariance.  [D, D] -> [rank, D]

    By Cholesky with pivots, several times faster than by eigenvectors. It ends where nothing but rounding is left, as
    with fewer clips than dimensions: the root of what stands for zero there would be a hundred million times larger.
    """
    largest = float(covariance.diagonal().max())
    if largest == 0.0:
        return covariance[:0]
    tolerance = len(covariance) * torch.finfo(covariance.dtype).eps * largest
    factor, pivots, rank, _ = lapack.dpstrf(covariance.cpu().numpy(), tol=tolerance)
    root = torch.zeros_like(covariance[:rank], device="cpu")
    root[:, torch.from_numpy(pivots).long() - 1] = torch.from_numpy(factor).triu()[:rank]
    return root.to(covariance.device)


def _distance(mean_a: Tensor, root_a: Tensor, mean_b: Tensor, root_b: Tensor) -> Tensor:
    shift = (mean_a - mean_b).square().sum()
    overlap = torch.linalg.svdvals(root_a @ root_b.T).sum()
    return (shift + root_a.square().sum() + root_b.square().sum() - 2.0 * overlap).clamp(min=0.0)


def _root_of_rows(rows: Tensor, mean: Tensor, counts: Tensor) -> Tensor:
    """F with F'F = covariance of rows [N, D] that occur `counts` [N] times.  -> [min(N, D), D]"""
    root = (counts / (counts.sum() - 1).clamp(min=1)).sqrt()[:, None] * (rows - mean)
    return torch.linalg.qr(root, mode="r").R if len(root) > root.shape[1] else root


class FrechetDistance(Metric):
    """Fréchet distance of the embeddings given as `reference=False` to those given as `reference=True`.

    reference: statistics that take the place of embeddings given as `reference=True`.

    Holds counts and exact sums of outer products, so memory does not grow with the number of clips, and the
    value is the same to the last bit on any number of ranks. Rows that are not finite are left out and
    counted in `num_excluded` [set, reference]. An update costs four products of the batch with itself: give
    some hundred embeddings at a time where they are wide.
    """

    full_state_update = False
    higher_is_better = False
    count: Tensor
    moments: Tensor
    num_excluded: Tensor

    def __init__(self, dim: int, *, reference: Gaussian | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if reference is not None and reference.dim != dim:
            raise ValueError(f"the reference has {reference.dim} dimensions, the embeddings have {dim}")
        self.dim = dim
        self.reference = reference
        # Index 0 holds the set that is scored, index 1 the reference.
        self.add_state("count", torch.zeros(2, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("num_excluded", torch.zeros(2, dtype=torch.int64), dist_reduce_fx="sum")
        # (high, low) parts of each set's sum of the outer product of (embedding, 1) with itself: the last row is the
        # sum of the embeddings.
        self.add_state(
            "moments",
            torch.zeros(2, 2, dim + 1, dim + 1, dtype=torch.float64),
            dist_reduce_fx=exact.add_all,
        )

    def update(self, embeddings: Tensor, *, reference: bool) -> None:
        """embeddings [N, D]"""
        if embeddings.ndim != 2 or embeddings.shape[1] != self.dim:
            raise ValueError(f"embeddings are {tuple(embeddings.shape)}, want [N, {self.dim}]")
        if reference and self.reference is not None:
            raise ValueError("the reference is given by its statistics; it takes no embeddings")
        usable = embeddings.isfinite().all(1)
        rows = embeddings[usable].double()
        side = int(reference)
        self.count[side] += len(rows)
        self.num_excluded[side] += (~usable).sum()
        extended = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
        self.moments[:, side] = exact.add(self.moments[:, side], exact.gram(extended))

    def compute(self) -> Tensor:
        a, b = self._gaussian(0), self._reference()
        for name, gaussian in (("set", a), ("reference", b)):
            if gaussian.count <= self.dim:
                warnings.warn(
                    f"Fréchet distance: the {name} has {gaussian.count} embeddings for {self.dim} dimensions; "
                    "the value is biased upwards and only comparable at equal counts",
                    stacklevel=2,
                )
        return frechet_distance(a.mean, a.covariance, b.mean, b.covariance)

    def gaussian(self, *, reference: bool) -> Gaussian:
        """Mean and covariance of one of the sets, over all ranks, to save or to score against."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            return self._gaussian(int(reference))

    def _reference(self) -> Gaussian:
        if self.reference is None:
            return self._gaussian(1)
        mean, covariance = (part.to(self.device) for part in (self.reference.mean, self.reference.covariance))
        return Gaussian(mean, covariance, self.reference.count)

    def _gaussian(self, side: int) -> Gaussian:
        count, excluded = int(self.count[side]), int(self.num_excluded[side])
        if count < 2:
            name = ("set", "reference")[side]
            raise ValueError(
                f"Fréchet distance: the {name} has {count} usable embeddings ({excluded} excluded), needs 2"
            )
        outer, total = self.moments[:, side, :-1, :-1], self.moments[:, side, -1, :-1]
        # N Σxx' - ΣxΣx', the difference of two numbers that are nearly equal where means are large, in both parts.
        number = torch.zeros_like(outer)
        number[0] = count
        products = exact.multiply(total[:, :, None].expand_as(outer), total[:, None, :].expand_as(outer))
        scatter = exact.add(exact.multiply(number, outer), -products)
        return Gaussian(total[0] / count, scatter[0] / (count * (count - 1)), count)


class ClipFrechetDistance(ClipMean):
    """Fréchet distance of each clip by itself to a reference, from the embeddings of the clip's own frames.

    |m - mr|² + tr(C + Cr - 2 (C Cr)^½) with mean m and covariance C of the clip's frames, as in fadtk's scores of
    single songs. A clip of one frame is a point: C = 0, and what is left is |m - mr|² + tr Cr. The value is
    the mean over clips. Compare clips with an equal number of frames: the fewer, the larger the distance.
    """

    higher_is_better = False

    def __init__(self, reference: Gaussian, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mean_b, self.root_b = reference.mean.cpu(), _root(reference.covariance.cpu())

    def update(self, clips: Sequence[Tensor], keys: Sequence[str] | None = None) -> None:
        """clips: the embeddings [N, D] of each clip's frames, none at all for a clip that is too short."""
        self.add(torch.tensor([self._score(clip) for clip in clips], dtype=torch.float64), keys)

    def _score(self, clip: Tensor) -> float:
        if clip.ndim != 2 or clip.shape[1] != len(self.mean_b):
            raise ValueError(f"a clip's embeddings are {tuple(clip.shape)}, want [N, {len(self.mean_b)}]")
        rows = clip.double().cpu()
        if len(rows) == 0 or not rows.isfinite().all():
            return float("nan")
        mean = rows.mean(0)
        root = _root_of_rows(rows, mean, torch.ones(len(rows), dtype=torch.float64))
        return float(_distance(mean, root, self.mean_b, self.root_b))


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
        return _distance(mean, _root_of_rows(rows, mean, counts), mean_b, root_b)

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
