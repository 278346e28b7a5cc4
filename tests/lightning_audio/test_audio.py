from __future__ import annotations

import io
import itertools
import math
import os
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_audio import audio


def tone(seconds: float = 1.0, rate: int = 32000, channels: int = 2, frequency: float = 440.0) -> Tensor:
    t = torch.arange(int(seconds * rate)) / rate
    return torch.stack([0.5 * torch.sin(2 * math.pi * frequency * (c + 1) * t) for c in range(channels)])


@pytest.fixture(scope="module")
def vectors(reference_path: Callable[..., Path]) -> tuple[Tensor, dict[str, Tensor]]:
    stored = torch.load(reference_path("audio_utils.pt"), weights_only=True)
    return stored["inputs"]["x"], stored["outputs"]


def test_conversion_equals_the_reference(vectors: tuple[Tensor, dict[str, Tensor]]) -> None:
    x, expected = vectors
    mono = audio.convert(x, 44100, 32000, 1)[:, ::8]
    torch.testing.assert_close(mono, expected["convert_44100_32000_mono"], rtol=1e-5, atol=1e-6)
    stereo = audio.convert(x, 44100, 16000, 2)[:, ::8]
    torch.testing.assert_close(stereo, expected["convert_44100_16000_st"], rtol=1e-5, atol=1e-6)


def test_levels_equal_the_reference(vectors: tuple[Tensor, dict[str, Tensor]]) -> None:
    x, expected = vectors
    made = {
        "norm_peak": audio.normalize_peak(3 * x),
        "norm_peak_no_normalize": audio.normalize_peak(0.1 * x, only_down=True),
        "norm_clip": audio.clip(3 * x),
        "norm_rms": audio.normalize_rms(3 * x),
        "norm_loudness": audio.normalize_loudness(3 * x, 44100),
        "norm_loudness_compressor": audio.normalize_loudness(3 * x, 44100, compress=True),
    }
    for name, wav in made.items():
        torch.testing.assert_close(wav[:, ::16], expected[name], rtol=1e-5, atol=1e-6, msg=name)


def test_a_sine_has_the_loudness_that_the_standard_states() -> None:
    # BS.1770: 0 dBFS at 997 Hz in one channel reads -3.01 LKFS; at -20 dBFS, -23.01.
    wav = 0.1 * torch.sin(2 * math.pi * 997 * torch.arange(48000 * 3) / 48000)[None]
    assert audio.integrated_loudness(wav, 48000) == pytest.approx(-23.01, abs=0.2)
    quieter = torch.cat([wav, torch.zeros(1, 48000 * 10)], dim=-1)  # the gate leaves silence out
    assert audio.integrated_loudness(quieter, 48000) == pytest.approx(-23.01, abs=0.5)


@pytest.mark.parametrize("wav", [torch.zeros(1, 16000), torch.zeros(1, 10), torch.zeros(1, 0)])
def test_what_has_no_loudness_is_left_alone(wav: Tensor) -> None:
    assert torch.equal(audio.normalize_loudness(wav, 16000, peak=None), wav)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff"])
def test_every_format_is_written_read_and_sought(suffix: str, tmp_path: Path) -> None:
    rate = 48000 if suffix == ".opus" else 32000
    wav = tone(2.0, rate)
    path = tmp_path / f"new/tone{suffix}"
    audio.write(path, wav, rate)
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # no temporary file left
    about = audio.info(path)
    assert (about.sample_rate, about.channels, about.duration) == (rate, 2, 2.0)
    whole, read_rate = audio.read(path)
    assert read_rate == rate
    assert whole.dtype == torch.float32
    assert whole.is_contiguous()
    assert (whole - wav).pow(2).mean() < 1e-3
    part, _ = audio.read(path.read_bytes(), start=0.51, duration=0.3)
    start, count = round(0.51 * rate), round(0.3 * rate)
    assert part.shape == (2, count)
    # Opus decoders converge for some milliseconds after a seek.
    torch.testing.assert_close(
        part, whole[:, start : start + count], rtol=0, atol=0.02 if suffix == ".opus" else 1e-6
    )


def test_sources_may_be_paths_bytes_or_files(tmp_path: Path) -> None:
    data = audio.encode(tone(), 32000, suffix=".wav")
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    expected, _ = audio.read(path)
    for source in (str(path), data, io.BytesIO(data)):
        assert torch.equal(audio.read(source)[0], expected)  # type: ignore[arg-type]


def test_reading_past_the_end_is_short_and_not_an_error() -> None:
    data = audio.encode(tone(), 32000)
    assert audio.read(data, start=0.75, duration=1.0)[0].shape == (2, 8000)
    assert audio.read(data, start=5.0)[0].shape == (2, 0)


def test_values_outside_are_clipped_and_nan_refused(tmp_path: Path) -> None:
    loud = torch.tensor([[2.0, -3.0, 0.5, 0.0]])
    wav, _ = audio.read(audio.encode(loud, 8000))
    torch.testing.assert_close(wav, torch.tensor([[1.0, -1.0, 0.5, 0.0]]), rtol=0, atol=1e-4)
    assert torch.equal(audio.read(audio.encode(loud, 8000, suffix=".wav", subtype="FLOAT"))[0], loud)
    with pytest.raises(ValueError, match="NaN"):
        audio.write(tmp_path / "a.wav", torch.full((1, 8), math.nan), 8000)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: audio.read(b"no audio at all"), "no audio that can be read"),
        (lambda: audio.encode(tone(), 32000, suffix=".xyz"), ".xyz"),
        (lambda: audio.encode(torch.zeros(4), 32000), r"\[4\]"),
        (lambda: audio.encode(tone(), 44100, suffix=".opus"), "44100 Hz"),
        (lambda: audio.convert_channels(tone(channels=2), 6), "6 channels from 2"),
        (lambda: audio.resample(tone(), 44101, 32000), "44101/32000"),
        (lambda: audio.resample(tone(), 0, 32000), "0 Hz"),
    ],
)
def test_bad_input_is_one_clear_line(call: object, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        call()  # type: ignore[operator]
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        audio.read(tmp_path / "absent.wav")


def test_a_resampled_tone_is_the_tone_at_the_other_rate() -> None:
    made = audio.resample(tone(rate=44100), 44100, 24000)
    torch.testing.assert_close(made[:, 500:-500], tone(rate=24000)[:, 500:-500], rtol=0, atol=1e-3)


def test_channels() -> None:
    wav = tone(channels=3)
    assert torch.equal(audio.convert_channels(wav, 1), wav.mean(0, keepdim=True))
    assert torch.equal(audio.convert_channels(wav, 2), wav[:2])
    assert torch.equal(audio.convert_channels(wav[:1], 2), wav[[0, 0]])


def in_blocks(wav: Tensor, sizes: tuple[int, ...]) -> Iterator[Tensor]:
    """[C, L] cut into blocks of these sizes, over and over."""
    start = 0
    for size in itertools.cycle(sizes):
        if start >= wav.shape[-1]:
            return
        yield wav[:, start : start + size]
        start += size


@pytest.mark.parametrize(
    ("old", "new"),
    [(44100, 32000), (32000, 44100), (48000, 16000), (22050, 32000), (8000, 48000), (16000, 16000)],
)
@pytest.mark.parametrize("length", [1, 37, 4410, 100_011])
def test_blocks_join_to_the_conversion_of_the_whole(old: int, new: int, length: int) -> None:
    wav = torch.randn(3, length, generator=torch.Generator().manual_seed(length))
    made: dict[int, Tensor] = {}
    for sizes in ((4096,), (1, 0, 700, 23), (length,)):
        for channels in (1, 2):
            blocks = audio.convert_blocks(in_blocks(wav, sizes), old, new, channels)
            joined = torch.cat([wav[:channels, :0], *blocks], dim=-1)
            expected = audio.convert(wav, old, new, channels)
            assert joined.shape == expected.shape
            torch.testing.assert_close(joined, expected, rtol=0, atol=2e-6)
            made.setdefault(channels, joined)
            assert torch.equal(joined, made[channels])  # to the bit, however it is cut


def test_no_blocks_are_no_audio() -> None:
    assert list(audio.resample_blocks([], 44100, 32000)) == []
    with pytest.raises(ValueError, match="0 Hz"):
        list(audio.resample_blocks([tone()], 0, 32000))


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".opus"])
def test_blocks_are_encoded_to_the_bytes_of_the_whole(suffix: str) -> None:
    wav = 0.1 * torch.randn(2, 100_001, generator=torch.Generator().manual_seed(0))
    file = io.BytesIO()
    assert audio.encode_blocks(in_blocks(wav, (4096, 77)), file, 48000, 2, suffix=suffix) == 100_001
    whole = audio.encode(wav, 48000, suffix=suffix)
    if suffix == ".opus":  # each Ogg stream has a random serial number
        assert torch.equal(audio.read(file.getvalue())[0], audio.read(whole)[0])
    else:
        assert file.getvalue() == whole


@pytest.mark.parametrize("rate", [8000, 11025, 44100])
@pytest.mark.parametrize("seconds", [0.2, 0.4, 3.33])
def test_loudness_of_blocks_is_that_of_the_whole(rate: int, seconds: float) -> None:
    wav = 0.2 * torch.randn(2, int(seconds * rate), generator=torch.Generator().manual_seed(rate))
    meter = audio.LoudnessMeter(rate, 2)
    for block in in_blocks(wav, (1000, 1, 0, 7777)):
        meter.add(block)
    assert meter.loudness() == pytest.approx(audio.integrated_loudness(wav, rate), abs=1e-9)
    assert meter.rms == pytest.approx(float(wav.double().pow(2).mean().sqrt()), rel=1e-9)


def test_a_file_descriptor_is_read_and_closed(tmp_path: Path) -> None:
    audio.write(tmp_path / "a.flac", tone(), 32000)
    expected, _ = audio.read(tmp_path / "a.flac")
    file = os.open(tmp_path / "a.flac", os.O_RDONLY)
    assert torch.equal(audio.read(file)[0], expected)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file)


def test_a_header_that_lies_costs_no_memory() -> None:
    data = bytearray(audio.encode(torch.rand(1, 4000) - 0.5, 8000))
    value = int.from_bytes(data[18:26], "big")  # 20 bits of rate, 3 of channels, 5 of depth, 36 of length
    data[18:26] = (value >> 36 << 36 | 7 << 41 | (1 << 27) - 1).to_bytes(8, "big")
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="cannot be decoded"):
            audio.read(bytes(data))  # claims 4 GiB
        assert tracemalloc.get_traced_memory()[1] < 1 << 28
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("rate", [1, 999, 1_000_001])
def test_rates_that_nothing_has_are_refused(rate: int) -> None:
    data = bytearray(audio.encode(torch.rand(1, 4000) - 0.5, 8000, suffix=".wav"))
    data[24:28] = rate.to_bytes(4, "little")
    with pytest.raises(ValueError, match=f"claims a sample rate of {rate} Hz"):
        audio.read(bytes(data))
