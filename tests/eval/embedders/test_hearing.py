"""How clips get in: resamplers, levels and bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from eval.embedders import Hearing, KaiserBest, Loudness, Peak
from lightning_audio.audio import integrated_loudness


def _tone(frequency: float, rate: int, seconds: float = 0.5) -> Tensor:
    return torch.sin(2 * torch.pi * frequency * torch.arange(round(seconds * rate)) / rate)[None]


@pytest.mark.parametrize(
    ("old", "new"), [(44_100, 16_000), (32_000, 16_000), (16_000, 48_000), (22_050, 32_000)]
)
def test_kaiser_best_is_resampys(old: int, new: int) -> None:
    resampy = pytest.importorskip("resampy", reason="needs resampy")
    wav = np.random.default_rng(0).standard_normal(old // 4 + 13)
    found = KaiserBest()(torch.from_numpy(wav)[None], old, new)[0]
    np.testing.assert_allclose(found.numpy(), resampy.resample(wav, old, new), atol=1e-5)


@pytest.mark.parametrize(("old", "new"), [(44_100, 16_000), (16_000, 48_000)])
def test_kaiser_best_keeps_a_tone_in_its_place(old: int, new: int) -> None:
    found = KaiserBest()(_tone(1000.0, old), old, new)
    expected = _tone(1000.0, new)
    assert found.shape == expected.shape
    middle = slice(new // 20, -new // 20)  # the ends lack what lies beyond them
    assert torch.allclose(found[:, middle], expected[:, middle], atol=2e-3)


def test_kaiser_best_takes_away_what_the_new_rate_cannot_hold() -> None:
    assert KaiserBest()(_tone(12_000.0, 44_100), 44_100, 16_000)[:, 1000:-1000].abs().max() < 2e-3


def test_levels() -> None:
    wav = 0.1 * _tone(440.0, 16_000, 2.0)
    assert Hearing(level=Peak(-6.0))(wav, 16_000, 16_000, 1).abs().max() == pytest.approx(10 ** (-6 / 20))
    loud = Hearing(level=Loudness(-20.0))(wav, 16_000, 16_000, 1)
    assert integrated_loudness(loud, 16_000) == pytest.approx(-20.0, abs=0.01)
    assert torch.equal(Hearing(level=Peak())(0 * wav, 16_000, 16_000, 1), 0 * wav)
    rounded = Hearing(sixteen_bits=True)(wav, 16_000, 16_000, 1) * 32768
    assert torch.equal(rounded, rounded.round())


def test_an_empty_clip_stays_empty() -> None:
    assert Hearing()(torch.zeros(2, 0), 44_100, 16_000, 1).shape == (1, 0)


def test_all_of_it_is_named() -> None:
    hearing = Hearing(resampler=KaiserBest(), level=Loudness(-14.0), sixteen_bits=True)
    assert str(hearing) == "resampler resampy kaiser_best, level -14 LUFS, 16 bits"
