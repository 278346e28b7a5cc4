"""Bootstrap intervals of distances between sets, over clips, of which each may have many embeddings."""

from __future__ import annotations

import torch
from torch import Tensor

from eval.bootstrap import Interval, bootstrap, percentile_interval
from eval.fad import distance_to
from eval.gaussian import Gaussian, gaussian_of
from eval.kad import GaussianKernel, Kernel


def frechet_interval(
    rows: Tensor, clips: Tensor, reference: Tensor, *, num_resamples: int = 200, seed: int = 0
) -> Interval:
    """Of the Fréchet distance of rows [N, D] to reference [M, D]; clips [N]: the number of each row's clip.

    Whole clips are drawn, since embeddings of one clip are alike. As in `bootstrap_frechet`, the replicates are moved
    so that their mean is the value: a resample repeats clips, so it always lies higher.
    """
    clips = _numbered(clips)
    rows, distance = rows.double(), distance_to(gaussian_of(reference))
    replicates = bootstrap(
        lambda counts: torch.stack([distance(_weighted(rows, row[clips])) for row in counts]),
        int(clips.max()) + 1,
        num_resamples=num_resamples,
        seed=seed,
    )
    value = distance(gaussian_of(rows))
    return percentile_interval((replicates - replicates.mean() + value).clamp(min=0.0), seed=seed)


def _weighted(rows: Tensor, counts: Tensor) -> Gaussian:
    """Mean and covariance of rows [N, D] that occur `counts` [N] times."""
    total = counts.sum()
    mean = counts @ rows / total
    centred = rows - mean
    return Gaussian(mean, (counts[:, None] * centred).T @ centred / (total - 1).clamp(min=1), int(total))


def kernel_interval(
    rows: Tensor,
    clips: Tensor,
    reference: Tensor,
    *,
    kernel: Kernel | None = None,
    scale: float = 1000.0,
    num_resamples: int = 200,
    seed: int = 0,
    max_rows: int = 8192,
) -> Interval | None:
    """Of the kernel distance, over clips as in `frechet_interval`; None for more rows than `max_rows`.

    All kernel values are held at once, max_rows² of them. Pairs of a clip drawn twice with itself are left out, as the
    unbiased distance leaves out each embedding with itself.
    """
    if max(len(rows), len(reference)) > max_rows:
        return None
    clips, rows, reference = _numbered(clips), rows.double(), reference.double()
    fitted = (kernel or GaussianKernel()).fitted(reference)
    inside = fitted(rows, rows).where(clips[:, None] != clips, 0.0)
    apart = (clips[:, None] != clips).double()
    across = fitted(rows, reference).mean(1)
    count = len(reference)
    own = fitted(reference, reference).fill_diagonal_(0.0).sum() / (count * (count - 1))

    def distance(counts: Tensor) -> Tensor:
        weights = counts[:, clips]  # [r, N]
        within = ((weights @ inside) * weights).sum(1) / ((weights @ apart) * weights).sum(1)
        return scale * (within + own - 2.0 * (weights @ across) / weights.sum(1))

    replicates = bootstrap(distance, int(clips.max()) + 1, num_resamples=num_resamples, seed=seed)
    return percentile_interval(replicates, seed=seed)


def _numbered(clips: Tensor) -> Tensor:
    """Any numbers of clips [N] as 0, 1, 2, ..."""
    return torch.unique(clips, return_inverse=True)[1]
