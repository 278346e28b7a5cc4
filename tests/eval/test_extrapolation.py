"""The distance at infinitely many clips: the line, what it corrects, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from eval.extrapolation import ExtrapolatedFrechetDistance, extrapolate
from eval.fad import FrechetDistance
from eval.gaussian import gaussian_of


def _rows(num: int, seed: int, *, dim: int = 24) -> Tensor:
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed))


def test_the_line_is_numpys() -> None:
    found = extrapolate(_rows(300, 0) + 0.1, gaussian_of(_rows(5000, 1)), num_points=10, min_count=60)
    sizes, distances = (np.array(column) for column in zip(*found.points, strict=True))
    slope, value = np.polyfit(1 / sizes, distances, 1)
    assert (found.value, found.slope) == pytest.approx((value, slope), rel=1e-9)
    assert found.r_squared == pytest.approx(np.corrcoef(1 / sizes, distances)[0, 1] ** 2, rel=1e-9)
    assert sizes[[0, -1]].tolist() == [60, 300]


def test_the_last_point_is_the_plain_distance() -> None:
    rows, reference = _rows(200, 0), _rows(400, 1)
    metric = FrechetDistance(24)
    metric.update(rows, reference=False)
    metric.update(reference, reference=True)
    points = extrapolate(rows, gaussian_of(reference), num_points=5, min_count=60).points
    assert points[-1] == (200, pytest.approx(float(metric.compute()), rel=1e-9))


def test_the_bias_of_few_clips_goes() -> None:
    """Mean moved by 0.1 in 24 dimensions: 0.24 with infinitely many clips, much more with 400."""
    reference = gaussian_of(_rows(50_000, 1))
    found = extrapolate(_rows(400, 0) + 0.1, reference, num_points=15, min_count=100)
    assert found.points[-1][1] > 0.5
    assert found.value == pytest.approx(0.24, abs=0.12)
    assert found.r_squared > 0.95
    assert found.slope > 0


def test_order_does_not_matter_and_the_seed_does() -> None:
    rows, reference = _rows(100, 0), gaussian_of(_rows(500, 1))
    found = extrapolate(rows, reference, num_points=5, min_count=40)
    assert extrapolate(rows.flip(0), reference, num_points=5, min_count=40) == found
    assert extrapolate(rows, reference, num_points=5, min_count=40, seed=1) != found


@pytest.mark.filterwarnings("ignore:.*embeddings for 24 dimensions.*")
def test_as_a_metric() -> None:
    rows, reference = _rows(100, 0), _rows(500, 1)
    metric = ExtrapolatedFrechetDistance(24, num_points=5, min_count=40)
    for part in torch.cat([rows, torch.full((1, 24), torch.nan)]).split(30):
        metric.update(part, reference=False)
    metric.update(reference, reference=True)
    wanted = extrapolate(rows, gaussian_of(reference), num_points=5, min_count=40)
    assert metric.extrapolation().value == pytest.approx(wanted.value, rel=1e-9)
    assert float(metric.compute()) == metric.extrapolation().value
    assert metric.num_excluded.tolist() == [1, 0]


def test_too_few_embeddings() -> None:
    with pytest.raises(ValueError, match="525 embeddings, got 100"):
        extrapolate(_rows(100, 0), gaussian_of(_rows(50, 1)))
