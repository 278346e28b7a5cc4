"""What is cut off, and that draws follow the distribution, one item independent of another."""

from __future__ import annotations

import pytest
import torch

from lightning_audio.lm.sampling import (
    MultinomialSampler,
    PerItemSampler,
    SamplingSettings,
    greedy,
    gumbel_noise,
    keep_top_k,
    keep_top_p,
    shaped,
)

FRAMES = torch.zeros(1, dtype=torch.long)


def test_top_k_keeps_ties() -> None:
    kept = keep_top_k(torch.tensor([3.0, 1.0, 2.0, 2.0, 0.0]), 2).isfinite()
    assert kept.tolist() == [True, False, True, True, False]
    assert keep_top_k(torch.zeros(3), 0).isfinite().all()
    assert keep_top_k(torch.zeros(3), 9).isfinite().all()


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    logits = torch.tensor([0.1, 0.5, 0.15, 0.25]).log()
    for p, kept in {0.4: [1], 0.6: [1, 3], 0.8: [1, 2, 3], 1e-9: [1], 1.0: [0, 1, 2, 3]}.items():
        assert keep_top_p(logits, p).isfinite().nonzero().flatten().tolist() == kept


def test_top_p_wins_over_top_k_and_temperature_comes_first() -> None:
    logits = torch.tensor([0.4, 0.35, 0.25]).log()
    assert shaped(logits, SamplingSettings(top_k=1, top_p=0.7)).isfinite().tolist() == [True, True, False]
    assert shaped(logits, SamplingSettings(top_p=0.7, temperature=0.1)).isfinite().tolist() == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("settings", "greedily"), [({}, False), ({"use_sampling": False}, True), ({"temperature": 0}, True)]
)
def test_no_sampling_or_no_temperature_is_greedy(settings: dict[str, float], greedily: bool) -> None:
    assert SamplingSettings(**settings).is_greedy == greedily
    assert greedy(torch.tensor([[[0.1, 0.9]]]), FRAMES).tolist() == [[1]]


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([0.05, 0.15, 0.5, 0.3]).log().repeat(20_000, 1, 1)
    settings = SamplingSettings(top_k=3)
    wanted = torch.tensor([0.0, 0.15, 0.5, 0.3]) / 0.95
    for sampler in (
        PerItemSampler(settings, range(20_000)),
        MultinomialSampler(settings, torch.Generator().manual_seed(0)),
    ):
        share = sampler(logits, FRAMES).flatten().bincount(minlength=4) / 20_000
        torch.testing.assert_close(share, wanted, atol=0.012, rtol=0)


def test_noise_is_the_same_in_any_company_and_unlike_elsewhere() -> None:
    logits = torch.zeros(3, 4, 50)
    sampler = PerItemSampler(SamplingSettings(), [5, 7, -1])
    frames = torch.tensor([9, 8, 7, 6])
    drawn = sampler(logits, frames)
    assert torch.equal(PerItemSampler(SamplingSettings(), [7])(logits[:1], frames), drawn[1:2])
    draws = torch.stack([sampler(logits, frames + shift) for shift in range(100)])  # [100, B, K]
    assert draws.unique().numel() == 50
    # Items, codebooks and frames are drawn apart from each other: coincidences are as rare as chance.
    for other in (draws.roll(1, 0), draws.roll(1, 1), draws.roll(1, 2)):
        assert (draws == other).float().mean() == pytest.approx(1 / 50, abs=0.015)


def test_noise_is_gumbel() -> None:
    noise = gumbel_noise(torch.arange(100), 1000)
    assert noise.isfinite().all()
    assert noise.mean() == pytest.approx(0.5772, abs=0.02)
    assert noise.std() == pytest.approx(1.2825, abs=0.02)
    assert torch.corrcoef(noise.t()[:50]).fill_diagonal_(0).abs().max() < 0.6


def test_bad_settings_are_refused() -> None:
    for bad in ({"temperature": -1.0}, {"top_k": -1}, {"top_p": 1.5}):
        with pytest.raises(ValueError, match="want temperature"):
            SamplingSettings(**bad)
