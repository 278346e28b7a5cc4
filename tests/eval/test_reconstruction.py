"""SI-SDR and the mel distance: known values, invariances, padding, and clips that cannot be scored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from eval.clip_scores import clip_faults
from eval.mel import LogMel, mel_filterbank
from eval.reconstruction import SI_SDR_RANGE, MelDistance, SiSDR, constant_baseline, si_sdr

RATE = 16_000


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_si_sdr_of_a_known_mixture() -> None:
    time = torch.arange(RATE).double() / RATE
    target, other = (torch.sin(2 * torch.pi * f * time)[None, None] for f in (440, 700))
    for decibels in (-20.0, 0.0, 40.0, 90.0):
        mixture = target + other * 10 ** (-decibels / 20)
        assert float(si_sdr(mixture, target)) == pytest.approx(decibels, abs=1e-4)
        assert float(si_sdr(-3.0 * mixture + 0.2, target)) == pytest.approx(decibels, abs=1e-4)


def test_si_sdr_equals_the_original_implementation(reference_path: Callable[..., Path]) -> None:
    vectors = torch.load(reference_path("losses.pt"), weights_only=True)
    y_pred, y = vectors["inputs"]["y_pred"], vectors["inputs"]["y"]
    # Theirs is a loss (negative) with an epsilon added to the energies: a thousandth of a dB here.
    expected = -float(vectors["outputs"]["sisnr"]["value"])
    assert float(si_sdr(y_pred, y).mean()) == pytest.approx(expected, abs=5e-3)


def test_si_sdr_of_a_constant_is_the_lower_end() -> None:
    target = _noise(3, 2, 4000)
    assert si_sdr(constant_baseline(target), target).tolist() == [SI_SDR_RANGE[0]] * 3
    assert si_sdr(target, target).tolist() == [SI_SDR_RANGE[1]] * 3


def test_mel_distance_grows_with_what_is_lost() -> None:
    target = _noise(2, 1, RATE)
    metric = MelDistance(sample_rate=RATE)
    distances = [
        float(metric.score(estimate, target, None).mean())
        for estimate in (target, target + 0.01 * _noise(2, 1, RATE, seed=1), 0.5 * target, 0.0 * target)
    ]
    assert distances[0] == 0.0
    assert distances == sorted(distances)
    assert distances[2] == pytest.approx(6.02, abs=0.01)  # half the amplitude in every band


@pytest.mark.parametrize("metric", [SiSDR(), MelDistance(sample_rate=RATE)], ids=["si-sdr", "mel"])
def test_padding_does_not_count(metric: SiSDR | MelDistance) -> None:
    target, estimate = _noise(2, 1, 9000), _noise(2, 1, 9000, seed=1)
    lengths = torch.tensor([9000, 5000])
    alone = metric.score(estimate[1:, :, :5000], target[1:, :, :5000], None)
    estimate[1, :, 5000:] = torch.nan
    both = metric.score(estimate, target, lengths)
    assert float(both[1]) == pytest.approx(float(alone), rel=1e-5)


@pytest.mark.parametrize("make", [SiSDR, lambda: MelDistance(sample_rate=RATE)], ids=["si-sdr", "mel"])
def test_clips_that_are_not_finite_are_counted_and_left_out(make: type[SiSDR]) -> None:
    target, estimate = _noise(3, 1, 4000), _noise(3, 1, 4000, seed=1)
    metric, clean = make(), make()
    clean.update(estimate[:2], target[:2])
    estimate[2, 0, 7] = torch.nan
    metric.update(estimate, target)
    assert int(metric.num_excluded) == 1
    assert len(metric.clip_scores()) == 2
    assert float(metric.compute()) == float(clean.compute())


def test_nothing_to_score() -> None:
    metric = SiSDR()
    metric.update(torch.full((2, 1, 100), torch.nan), _noise(2, 1, 100))
    with pytest.raises(ValueError, match=r"no clip could be scored \(2 excluded\)"):
        metric.compute()
    with pytest.raises(ValueError, match="want equal"):
        metric.update(_noise(1, 1, 100), _noise(1, 1, 101))


def test_faults_are_named() -> None:
    wav = _noise(4, 1, 100)
    wav[1, 0, 5] = torch.inf
    wav[2] = 0.0
    faults = clip_faults(wav, ["fine", "broken", "quiet", "none"], torch.tensor([100, 100, 100, 0]))
    assert faults == {"broken": "not finite", "quiet": "silent", "none": "empty"}


def test_log_mel_of_a_tone() -> None:
    time = torch.arange(RATE) / RATE
    mel = LogMel(sample_rate=RATE)(torch.sin(2 * torch.pi * 1000 * time))
    middle = mel[:, mel.shape[1] // 2]
    top = mel_filterbank(RATE, 1024, 80)[middle.argmax()].argmax() * RATE / 1024
    assert float(top) == pytest.approx(1000, abs=40)  # the bands are some 60 Hz apart there
    assert float(middle.max()) == pytest.approx(0.0, abs=2.0)


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 32_000, 44_100, 48_000])
def test_every_band_holds_a_frequency_at_every_usual_rate(rate: int) -> None:
    MelDistance(sample_rate=rate)


def test_too_many_bands() -> None:
    with pytest.raises(ValueError, match="too many for a window of 128"):
        mel_filterbank(RATE, 128, 80)
