"""Bootstrap intervals: seeded, independent of order and of chunks, and covering what they should."""

from __future__ import annotations

import pytest
import torch

import eval.bootstrap
from eval.bootstrap import bootstrap_mean, bootstrap_ratio, percentile_interval, resample_counts


def test_counts_are_draws_with_replacement() -> None:
    counts = torch.cat(list(resample_counts(20, num_resamples=500, seed=1)))
    assert counts.shape == (500, 20)
    assert (counts.sum(1) == 20).all()
    assert counts.mean() == 1.0
    assert counts.var() == pytest.approx(0.95, rel=0.05)  # binomial: 1 - 1/N


def test_chunks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = torch.cat(list(resample_counts(20, num_resamples=50)))
    monkeypatch.setattr(eval.bootstrap, "_CHUNK", 60)
    assert torch.equal(torch.cat(list(resample_counts(20, num_resamples=50))), whole)


def test_mean_matches_the_normal_interval() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(0)) * 2 + 5
    interval = bootstrap_mean(values, num_resamples=4000)
    half = 1.96 * float(values.std()) / 20
    assert interval.low == pytest.approx(float(values.mean()) - half, abs=0.03)
    assert interval.high == pytest.approx(float(values.mean()) + half, abs=0.03)
    assert bootstrap_mean(values.flip(0), num_resamples=4000) == interval
    assert bootstrap_mean(values, num_resamples=4000, seed=1) != interval


def test_ratio_of_equal_clips_has_no_width() -> None:
    tokens = torch.tensor([[10.0, 5.0], [30.0, 5.0], [20.0, 7.0]])
    first, second = bootstrap_ratio(tokens * torch.tensor([2.0, 3.0]), tokens)
    assert (first.low, first.high) == pytest.approx((2.0, 2.0))
    assert (second.low, second.high) == pytest.approx((3.0, 3.0))


def test_too_few_clips() -> None:
    with pytest.raises(ValueError, match="at least 2 clips, got 1"):
        bootstrap_mean(torch.tensor([1.0]))
    with pytest.raises(ValueError, match="0 finite replicates"):
        percentile_interval(torch.full((4,), torch.nan))
