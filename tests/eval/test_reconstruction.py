"""SI-SDR, mel and STFT distances, mel-SNR: known values, invariances, padding, and clips that cannot be scored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import julius
import numpy as np
import pytest
import scipy.signal
import torch
from torch import Tensor

from eval.clip_scores import clip_faults
from eval.mel import LogMel, mel_filterbank
from eval.reconstruction import (
    SI_SDR_RANGE,
    MelDistance,
    MelSNR,
    SiSDR,
    STFTDistance,
    constant_baseline,
    si_sdr,
)
from lightning_audio.codec.losses import MultiResolutionSTFTLoss
from lightning_audio.layers.spectrogram import mel_filters

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


def test_stft_distance_is_the_loss_of_each_clip() -> None:
    target, estimate = _noise(3, 2, 5000), _noise(3, 2, 5000, seed=1)
    lengths = torch.tensor([5000, 3000, 1024])
    metric = STFTDistance()
    found = metric.score(estimate, target, lengths)
    wanted = MultiResolutionSTFTLoss()(estimate[1:2, :, :3000], target[1:2, :, :3000])
    assert float(found[1]) == pytest.approx(float(wanted), rel=1e-6)
    assert found[2].isnan()  # half a window and no more
    assert metric.score(target, target, None).tolist() == [0.0] * 3
    assert metric.score(estimate, 0 * target, None).isnan().all()


def _relative_volume(estimate: Tensor, target: Tensor, num_bands: int) -> list[float]:
    """AudioCraft's steps one after the other, in NumPy, for one mono clip: error in dB relative to the target."""
    taper = scipy.signal.get_window("hann", 512)
    scale = max(float(target.double().square().mean().sqrt()), 10 ** (-25 / 20))
    filters = mel_filters(num_bins=257, num_mels=80, sample_rate=RATE).double().numpy()

    def mel(wav: Tensor) -> np.ndarray:
        padded = np.pad(wav.double().numpy()[0] / scale, 256, mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(padded, 512)[::128]
        spectrum = np.fft.rfft(frames * taper) / np.sqrt((taper**2).sum())
        return np.sqrt(filters @ (np.abs(spectrum) ** 2).T)

    z_target, z_estimate = mel(target), mel(estimate)
    reference = 20 * np.log10(np.maximum(z_target, 10 ** (-25 / 20)))
    error = 20 * np.log10(np.maximum(np.abs(z_target - z_estimate), 10 ** (-120 / 20)))
    relative = np.clip(error - reference, -25, 25).mean(1)
    return [*(float(relative[b].mean()) for b in np.split(np.arange(80), num_bands)), float(relative.mean())]


@pytest.mark.parametrize("loudness", [1.0, 0.01])
def test_mel_snr_against_a_direct_computation(loudness: float) -> None:
    time = torch.arange(RATE // 2) / RATE
    target = loudness * (torch.sin(2 * torch.pi * 500 * time) + _noise(2, 1, RATE // 2))
    estimate = target + 0.1 * loudness * _noise(2, 1, RATE // 2, seed=1)
    found = MelSNR(sample_rate=RATE, num_bands=4).score(estimate, target, None)
    for clip in range(2):
        wanted = [-value for value in _relative_volume(estimate[clip], target[clip], 4)]
        assert found[clip].tolist() == pytest.approx(wanted, abs=2e-3)


def test_mel_snr_shows_the_band_that_is_lost() -> None:
    target = _noise(1, 1, RATE)
    low = julius.lowpass_filter(target, 1000 / RATE)
    metric = MelSNR(sample_rate=RATE)
    metric.update(low, target, keys=["a clip"])
    bands = metric.compute()
    assert bands.shape == (4,)  # low, middle, high, all
    assert bands[0] > bands[1] + 5
    assert float(bands[2]) == pytest.approx(0.0, abs=1.0)  # the error is the whole signal
    assert metric.score(target, target, None)[0].tolist() == [25.0] * 4
    assert torch.equal(metric.scores_of(["a clip"])[0], bands)


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
    assert clip_faults(wav[:1], ["fine"], min_samples=200) == {
        "fine": "too short (100 samples, 200 are needed)"
    }
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
