from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_audio import audio
from sharding.examine import Levels, examine, open_stretch

FULL = 32767 / 32768


def clipped_by_hand(wave: np.ndarray) -> int:
    """Samples of [L] in runs of 3 or more at full scale."""
    runs = itertools.groupby(np.abs(wave) >= FULL)
    return sum(n for full, run in runs if full and (n := len(list(run))) >= 3)


@pytest.mark.parametrize("sizes", [(1,), (2, 3), (1000,)])
def test_clipping_is_counted_over_the_joins_of_blocks(sizes: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    wave = generator.choice(
        np.array([0.1, FULL, -1.0, 1.7], np.float32), size=(1000, 2), p=[0.4, 0.2, 0.2, 0.2]
    )
    levels = Levels()
    start = 0
    for size in itertools.cycle(sizes):
        if start >= len(wave):
            break
        levels.add(wave[start : start + size])
        start += size
    assert levels.clipped == sum(clipped_by_hand(wave[:, c]) for c in (0, 1)) / wave.size
    assert levels.peak == pytest.approx(1.7)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_a_number_is_no_level(bad: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        Levels().add(np.array([[0.0], [bad], [0.5]], np.float32))


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".opus"])
def test_a_stretch_is_what_reading_gives(suffix: str, tmp_path: Path) -> None:
    rate = 48000 if suffix == ".opus" else 22050
    path = tmp_path / f"a{suffix}"
    audio.write(path, 0.2 * torch.randn(2, 3 * rate, generator=torch.Generator().manual_seed(0)), rate)
    expected, _ = audio.read(path, start=0.75, duration=1.5)
    for source in (path.open("rb"), io.BytesIO(path.read_bytes())):
        with source, open_stretch(source, 0.75, 1.5) as stretch:
            pieces = [np.concatenate(list(stretch.blocks(count))) for count in (1000, 5, None)]
            assert list(stretch.blocks()) == []
        assert [len(piece) for piece in pieces[:2]] == [1000, 5]
        # An MP3 decoder's last bit depends on how much is asked for at a time.
        np.testing.assert_allclose(np.concatenate(pieces).T, expected.numpy(), rtol=0, atol=2e-7)
        assert stretch.num_samples == round(1.5 * rate)
        assert stretch.file_duration == 3.0


def test_a_stretch_past_the_end_is_short_and_one_beyond_it_refused() -> None:
    file = io.BytesIO(audio.encode(torch.full((1, 16000), 0.1), 8000))
    with open_stretch(file, 1.5, 10.0) as stretch:
        assert sum(map(len, stretch.blocks())) == 4000
    with pytest.raises(ValueError, match=r"ends at 2.000 s, wanted from 2.500 s"), open_stretch(file, 2.5):
        pass


def test_a_stretch_of_a_cut_file_is_refused_only_where_it_is_cut() -> None:
    data = audio.encode(0.1 * torch.randn(1, 80000), 8000)
    cut = io.BytesIO(data[: len(data) // 2])
    with open_stretch(cut, 1.0, 1.0) as stretch:
        assert sum(map(len, stretch.blocks())) == 8000
    with open_stretch(cut, 1.0) as stretch, pytest.raises(ValueError, match=r"broken after|truncated"):
        list(stretch.blocks())


def test_levels_of_a_file() -> None:
    wave = torch.cat([torch.full((1, 990), 0.25), torch.ones(1, 10)], dim=-1)
    found = examine(io.BytesIO(audio.encode(wave, 8000)))
    assert (found.sample_rate, found.channels, found.num_samples) == (8000, 1, 1000)
    assert found.peak == pytest.approx(1.0, abs=1e-4)
    assert found.clipped == pytest.approx(0.01)
