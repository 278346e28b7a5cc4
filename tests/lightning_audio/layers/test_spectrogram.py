"""Mel spectrograms."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_audio.layers.spectrogram import MelSpectrogram, mel_filters


def test_filters_are_triangles_that_add_to_one() -> None:
    filters = mel_filters(num_bins=513, num_mels=40, sample_rate=16000)
    assert filters.shape == (40, 513)
    assert filters.min() >= 0
    peaks = filters.argmax(-1)
    inner = filters[:, peaks[0] : peaks[-1]].sum(0)
    torch.testing.assert_close(inner, torch.ones_like(inner))


def test_a_tone_falls_into_its_band() -> None:
    mel = MelSpectrogram(sample_rate=16000, n_fft=1024, hop_length=256, num_mels=40)
    tone = torch.sin(2 * math.pi * 1000 * torch.arange(16000) / 16000)
    spec = mel(tone[None])
    assert spec.shape == (1, 40, math.ceil(16000 / 256))
    centres = torch.linspace(0, 2595 * math.log10(1 + 8000 / 700), 42)[1:-1]
    wanted = (centres - 2595 * math.log10(1 + 1000 / 700)).abs().argmin()
    assert spec[0, :, 20].argmax() == wanted


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"900 Hz to 800 Hz"):
        mel_filters(num_bins=65, num_mels=8, sample_rate=16000, f_min=900, f_max=800)
    with pytest.raises(ValueError, match="100 samples are too few"):
        MelSpectrogram(sample_rate=16000)(torch.zeros(1, 100))
