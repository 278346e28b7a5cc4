"""The Fréchet distance against SciPy, against closed forms, and as a stream."""

from __future__ import annotations

import pytest
import scipy.linalg
import torch
from torch import Tensor

from eval.fad import FrechetDistance, bootstrap_frechet, frechet_distance, mean_and_covariance


def _embeddings(num: int, dim: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=generator, dtype=torch.float64) / dim**0.5
    return torch.randn(num, dim, generator=generator, dtype=torch.float64) @ mix + torch.randn(
        dim, generator=generator, dtype=torch.float64
    )


def _distance(a: Tensor, b: Tensor) -> float:
    return float(frechet_distance(*mean_and_covariance(a), *mean_and_covariance(b)))


def _streamed(a: Tensor, b: Tensor, chunk: int) -> FrechetDistance:
    metric = FrechetDistance(a.shape[1])
    for part in a.split(chunk):
        metric.update(part, reference=False)
    for part in b.split(chunk):
        metric.update(part, reference=True)
    return metric


@pytest.mark.parametrize(("num", "dim"), [(200, 8), (500, 64), (1000, 128)])
def test_equals_scipy(num: int, dim: int) -> None:
    a, b = _embeddings(num, dim, 0), _embeddings(num + 50, dim, 1)
    (mean_a, cov_a), (mean_b, cov_b) = mean_and_covariance(a), mean_and_covariance(b)
    root = scipy.linalg.sqrtm((cov_a @ cov_b).numpy()).real
    expected = float((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace()) - 2 * root.trace()
    assert _distance(a, b) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("num", "dim"), [(300, 16), (20, 64)])
def test_a_set_and_itself(num: int, dim: int) -> None:
    a = _embeddings(num, dim, 0)
    assert _distance(a, a) == pytest.approx(0.0, abs=1e-10)
    assert _distance(a, a.flip(0)) == pytest.approx(0.0, abs=1e-10)


@pytest.mark.parametrize(("num", "dim"), [(300, 16), (20, 64)])
def test_shift_and_scale(num: int, dim: int) -> None:
    a = _embeddings(num, dim, 0)
    assert _distance(a, a + 0.5) == pytest.approx(0.25 * dim, rel=1e-9)
    mean, covariance = mean_and_covariance(a)
    # Twice the set: covariance 4 C, so tr(C + 4 C - 2 · 2 C) = tr C, and the mean moves by itself.
    expected = float(mean.square().sum() + covariance.trace())
    assert _distance(2.0 * a, a) == pytest.approx(expected, rel=1e-9)


def test_commuting_covariances() -> None:
    a, b = torch.tensor([1.0, 4.0, 0.0]), torch.tensor([9.0, 1.0, 1.0])
    zero = torch.zeros(3)
    expected = (a.sqrt() - b.sqrt()).square().sum()
    assert float(frechet_distance(zero, a.diag(), zero, b.diag())) == pytest.approx(
        float(expected), rel=1e-12
    )


def test_fewer_clips_than_dimensions() -> None:
    """A small problem laid into many dimensions by a rotation keeps its distance."""
    a, b = _embeddings(40, 6, 0), _embeddings(50, 6, 1)
    turn = torch.linalg.qr(torch.randn(300, 6, generator=torch.Generator().manual_seed(2)).double()).Q.T
    assert _distance(a @ turn, b @ turn) == pytest.approx(_distance(a, b), rel=1e-9)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_streamed_equals_at_once(chunk: int) -> None:
    a, b = _embeddings(90, 12, 0) + 100.0, _embeddings(70, 12, 1)
    assert float(_streamed(a, b, chunk).compute()) == pytest.approx(_distance(a, b), rel=1e-9)


def test_rows_that_are_not_finite_are_counted_and_left_out() -> None:
    a, b = _embeddings(90, 4, 0), _embeddings(70, 4, 1)
    broken = torch.cat([a, torch.full((2, 4), torch.nan)])
    broken[-1, 0] = torch.inf
    metric = _streamed(broken, b, 30)
    assert metric.num_excluded.tolist() == [2, 0]
    assert float(metric.compute()) == pytest.approx(_distance(a, b), rel=1e-9)


def test_empty_and_small_sets() -> None:
    metric = FrechetDistance(4)
    metric.update(_embeddings(10, 4, 0), reference=True)
    metric.update(torch.full((3, 4), torch.nan), reference=False)
    with pytest.raises(ValueError, match=r"the set has 0 usable embeddings \(3 excluded\)"):
        metric.compute()
    with pytest.raises(ValueError, match=r"want \[N, 4\]"):
        metric.update(torch.zeros(3, 5), reference=True)
    with pytest.warns(UserWarning, match="10 embeddings for 16 dimensions"):
        _streamed(_embeddings(10, 16, 0), _embeddings(40, 16, 1), 10).compute()


def test_interval_holds_the_value_and_shrinks() -> None:
    reference = _embeddings(400, 6, 0)
    widths = []
    for num in (30, 300):
        a = _embeddings(num, 6, 1)
        interval = bootstrap_frechet(a, reference, num_resamples=100)
        assert interval.low < _distance(a, reference) < interval.high
        widths.append(interval.high - interval.low)
    assert widths[1] < widths[0]
    assert bootstrap_frechet(a, reference, num_resamples=100) == interval
