"""The Fréchet distance against SciPy, against closed forms, and as a stream."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import scipy.linalg
import torch
from torch import Tensor

from eval.fad import (
    ClipFrechetDistance,
    FrechetDistance,
    bootstrap_frechet,
    distance_to,
    frechet_distance,
    mean_and_covariance,
)
from eval.gaussian import gaussian_of


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


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The frechet-audio-distance package's class, unconstructed; what it imports for its embedders is left out."""
    for name, attribute in (("laion_clap", ""), ("resampy", ""), ("encodec", "EncodecModel")):
        if name not in sys.modules:
            module = ModuleType(name)
            setattr(module, attribute or "unused", None)
            monkeypatch.setitem(sys.modules, name, module)
    library = ModuleType("torchlibrosa")
    stft, augmentation = ModuleType("torchlibrosa.stft"), ModuleType("torchlibrosa.augmentation")
    stft.Spectrogram = stft.LogmelFilterBank = augmentation.SpecAugmentation = None  # type: ignore[attr-defined]
    for module in (library, stft, augmentation):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    found = pytest.importorskip("frechet_audio_distance", reason="needs the package frechet-audio-distance")
    distance = found.FrechetAudioDistance
    return distance.__new__(distance)


@pytest.mark.parametrize(("num", "dim"), [(200, 16), (1000, 128)])
def test_equals_the_frechet_audio_distance_package(package: Any, num: int, dim: int) -> None:
    a, b = _embeddings(num, dim, 0), _embeddings(num + 50, dim, 1)
    theirs = [package.calculate_embd_statistics(rows.numpy()) for rows in (a, b)]
    expected = package.calculate_frechet_distance(*theirs[0], *theirs[1])
    metric = _streamed(a, b, 64)
    assert float(metric.compute()) == pytest.approx(expected, rel=1e-6)
    for reference, (mean, covariance) in zip((False, True), theirs, strict=True):
        ours = metric.gaussian(reference=reference)
        assert torch.allclose(ours.mean, torch.from_numpy(mean), rtol=1e-12, atol=1e-14)
        assert torch.allclose(ours.covariance, torch.from_numpy(covariance), rtol=1e-10, atol=1e-13)


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


def test_covariance_far_from_zero() -> None:
    """A mean of 1e7 deviations: Σx² - N·mean² in float64 alone would keep two digits."""
    a = _embeddings(90, 4, 0).float()
    moved = (a + 1e7).double()
    metric = _streamed(moved, a, 13)
    assert torch.allclose(
        metric.gaussian(reference=False).covariance,
        gaussian_of(moved - 1e7).covariance,
        rtol=1e-9,
        atol=1e-12,
    )


def test_parts_that_are_merged_equal_the_whole_to_the_last_bit() -> None:
    a, b = _embeddings(90, 12, 0).float(), _embeddings(70, 12, 1).float()
    whole = _streamed(a, b, 17)
    first, second = _streamed(a[1::2], b[50:], 90), _streamed(a[::2], b[:50], 3)
    first.merge_state(second)
    assert torch.equal(first.compute(), whole.compute())


def test_memory_does_not_grow_with_the_number_of_embeddings() -> None:
    metric = FrechetDistance(16)
    sizes = []
    for seed in range(3):
        metric.update(_embeddings(500, 16, seed), reference=False)
        sizes.append(sum(getattr(metric, name).nbytes for name in metric._defaults))
    assert sizes == [2 * 2 * 17 * 17 * 8 + 4 * 8] * 3


def test_reference_statistics_take_the_place_of_the_reference() -> None:
    a, b = _embeddings(90, 6, 0), _embeddings(70, 6, 1)
    metric = FrechetDistance(6, reference=_streamed(a, b, 30).gaussian(reference=True))
    metric.update(a, reference=False)
    assert float(metric.compute()) == float(_streamed(a, b, 90).compute())
    assert float(distance_to(gaussian_of(b))(gaussian_of(a))) == pytest.approx(_distance(a, b), rel=1e-12)
    with pytest.raises(ValueError, match="it takes no embeddings"):
        metric.update(b, reference=True)
    with pytest.raises(ValueError, match="reference has 6 dimensions, the embeddings have 8"):
        FrechetDistance(8, reference=gaussian_of(b))


def test_each_clip_to_a_reference() -> None:
    reference = _embeddings(300, 6, 1)
    clips = [_embeddings(num, 6, num) for num in (4, 1, 40, 0, 5)]
    clips[4][2, 3] = torch.nan
    metric = ClipFrechetDistance(gaussian_of(reference))
    metric.update(clips[:2], ["few", "one"])
    metric.update(clips[2:], ["many", "none", "broken"])
    found = metric.scores_of(["one", "few", "many", "none", "broken"])
    mean, covariance = mean_and_covariance(reference)
    point = (clips[1][0] - mean).square().sum() + covariance.trace()
    assert float(found[0]) == pytest.approx(float(point), rel=1e-12)
    assert found[1:3].tolist() == pytest.approx([_distance(clips[i], reference) for i in (0, 2)], rel=1e-9)
    assert found[3:].isnan().all()
    assert int(metric.num_excluded) == 2
    assert float(metric.compute()) == pytest.approx(float(found[:3].mean()), rel=1e-12)
    with pytest.raises(ValueError, match=r"want \[N, 6\]"):
        metric.update([torch.zeros(3, 5)])


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
