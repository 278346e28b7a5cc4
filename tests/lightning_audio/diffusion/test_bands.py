"""Bands are julius' bands; the loudness match is the original's, item by item."""

from __future__ import annotations

import julius
import pytest
import torch
from torch import Tensor

from lightning_audio.diffusion.bands import BandSplitter, match_bands


def test_bands_are_julius_and_add_up_to_the_audio() -> None:
    torch.manual_seed(0)
    wav = torch.randn(2, 2, 4000)
    splitter = BandSplitter(sample_rate=32000, num_bands=4)
    bands = splitter(wav)
    torch.testing.assert_close(bands, julius.SplitBands(32000, n_bands=4)(wav))
    torch.testing.assert_close(bands.sum(0), wav, rtol=1e-5, atol=1e-5)
    assert splitter.edges == pytest.approx([847.0, 2719.1, 6856.3], abs=0.1)  # evenly spaced in mel
    cut = BandSplitter(sample_rate=32000, num_bands=3, edges=[1000.0, 4000.0])
    torch.testing.assert_close(cut(wav), julius.SplitBands(32000, cutoffs=[1000.0, 4000.0])(wav))


def test_one_band_is_the_audio_itself() -> None:
    wav = torch.randn(1, 1, 100)
    assert torch.equal(BandSplitter(sample_rate=16000, num_bands=1)(wav)[0], wav)


def test_filters_are_no_part_of_the_state_and_stay_float32() -> None:
    splitter = BandSplitter(sample_rate=16000, num_bands=3).half()
    assert not splitter.state_dict()
    wav = torch.randn(1, 1, 1000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        bands = splitter(wav.half())
    assert bands.dtype == torch.float32
    torch.testing.assert_close(bands, julius.SplitBands(16000, n_bands=3)(wav.half().float()))


def original_match(wav: Tensor, reference: Tensor) -> Tensor:
    split = julius.SplitBands(16000, n_bands=32)
    pairs = zip(split(wav), split(reference), strict=True)
    return torch.stack([band * (wanted.std() / band.std()) for band, wanted in pairs]).sum(0)


def test_loudness_is_matched_as_in_the_original() -> None:
    torch.manual_seed(0)
    wav, reference = (
        torch.randn(3, 1, 3000),
        torch.randn(3, 1, 3000) * torch.tensor([0.1, 1.0, 3.0])[:, None, None],
    )
    splitter = BandSplitter(sample_rate=16000, num_bands=32)
    jointly = match_bands(wav, reference, splitter, jointly=True)
    torch.testing.assert_close(jointly, original_match(wav, reference), rtol=1e-4, atol=1e-5)
    alone = match_bands(wav, reference, splitter)
    for item in range(3):
        wanted = original_match(wav[item : item + 1], reference[item : item + 1])
        torch.testing.assert_close(alone[item : item + 1], wanted, rtol=1e-4, atol=1e-5)


def test_silence_stays_silence() -> None:
    silence = torch.zeros(1, 1, 1000)
    assert torch.equal(match_bands(silence, silence, BandSplitter(sample_rate=16000, num_bands=4)), silence)


def test_edges_and_bands_must_agree() -> None:
    with pytest.raises(ValueError, match="4 bands have 3 edges between them, got 1"):
        BandSplitter(sample_rate=16000, num_bands=4, edges=[1000.0])
