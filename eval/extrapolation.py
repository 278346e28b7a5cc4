"""Fréchet distance as it would be with infinitely many clips (Gui et al. 2024, after Chong & Forsyth 2020).

With N clips the distance is too large by about a constant over N. So it is taken of subsets of several sizes, a line
is fitted to it against 1/N, and where the line meets 1/N = 0 is the distance without that bias: sets of unlike sizes
become comparable, as far as the points do lie on a line, which R² and a plot of them show.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from eval.exact import in_fixed_order
from eval.fad import FrechetDistance, distance_to
from eval.gaussian import Gaussian, gaussian_of


class Extrapolation(NamedTuple):
    """value: the line at 1/N = 0; below zero where the sets are nearly equal, by the noise of the fit.

    slope: of the distance against 1/N.  r_squared: the share of the points' variance that the line explains.
    points: (N, distance at N embeddings), to plot against 1/N.
    """

    value: float
    slope: float
    r_squared: float
    points: tuple[tuple[int, float], ...]


def extrapolate(
    embeddings: Tensor, reference: Gaussian, *, num_points: int = 25, min_count: int = 500, seed: int = 0
) -> Extrapolation:
    """Of embeddings [N, D]: random subsets of `num_points` sizes, evenly from `min_count` to N, which is the set.

    The rows are brought into a fixed order first: the subsets do not depend on who saw which clip.
    """
    rows = in_fixed_order(embeddings.double().cpu())
    if num_points < 3 or len(rows) < min_count + num_points:
        raise ValueError(
            f"extrapolation over {num_points} sizes from {min_count} embeddings up needs 3 sizes and "
            f"{min_count + num_points} embeddings, got {len(rows)}"
        )
    sizes = torch.linspace(min_count, len(rows), num_points, dtype=torch.float64).long().tolist()
    generator = torch.Generator().manual_seed(seed)
    distance = distance_to(reference)
    subsets = (rows[torch.randperm(len(rows), generator=generator)[:size]] for size in sizes)
    distances = torch.stack([distance(gaussian_of(subset)) for subset in subsets])
    return _fit(sizes, distances)


def _fit(sizes: list[int], distances: Tensor) -> Extrapolation:
    """Least squares of the distances against 1 / size."""
    inverse = 1.0 / torch.tensor(sizes, dtype=torch.float64)
    centred = inverse - inverse.mean()
    slope = (centred * distances).sum() / centred.square().sum()
    value = distances.mean() - slope * inverse.mean()
    unexplained = (distances - value - slope * inverse).square().sum()
    spread = (distances - distances.mean()).square().sum()
    return Extrapolation(
        value=float(value),
        slope=float(slope),
        r_squared=float(1.0 - unexplained / spread) if spread > 0 else 1.0,
        points=tuple(zip(sizes, distances.tolist(), strict=True)),
    )


class ExtrapolatedFrechetDistance(FrechetDistance):
    """As `FrechetDistance`, extrapolated to infinitely many embeddings of the set that is scored.

    It takes subsets of that set, so it holds it, in float32 [N, D]; the reference is held as a sum.
    """

    embeddings: list[Tensor]

    def __init__(
        self,
        dim: int,
        *,
        reference: Gaussian | None = None,
        num_points: int = 25,
        min_count: int = 500,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(dim, reference=reference, **kwargs)
        self.num_points, self.min_count, self.seed = num_points, min_count, seed
        self.add_state("embeddings", default=[], dist_reduce_fx="cat")

    def update(self, embeddings: Tensor, *, reference: bool) -> None:
        """embeddings [N, D]"""
        super().update(embeddings, reference=reference)
        if not reference:
            self.embeddings.append(embeddings[embeddings.isfinite().all(1)].float().to(self.device))

    def compute(self) -> Tensor:
        return torch.tensor(self._extrapolation().value, dtype=torch.float64, device=self.device)

    def extrapolation(self) -> Extrapolation:
        """The line and its points, over all ranks."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            return self._extrapolation()

    def _extrapolation(self) -> Extrapolation:
        rows = dim_zero_cat(self.embeddings) if len(self.embeddings) else torch.empty(0, self.dim)
        return extrapolate(
            rows, self._reference(), num_points=self.num_points, min_count=self.min_count, seed=self.seed
        )

    def sync(self, *args: Any, **kwargs: Any) -> None:
        # A rank that saw nothing must still bring a tensor of the right shape to the gather.
        if isinstance(self.embeddings, list) and not self.embeddings:
            self.embeddings.append(torch.empty(0, self.dim, device=self.device))
        super().sync(*args, **kwargs)
