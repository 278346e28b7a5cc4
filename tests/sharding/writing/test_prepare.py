from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_audio import audio
from sharding.sources.clip import Clip
from sharding.writing.prepare import Sample, Settings, Skipped, prepare
from sharding.writing.spool import Spool

RATE = 16000


def noise(seconds: float, rate: int = RATE, channels: int = 2, level: float = 0.1) -> Tensor:
    generator = torch.Generator().manual_seed(round(seconds * 1000) + channels)
    return level * torch.randn(channels, round(seconds * rate), generator=generator)


def clip_of(path: Path, wav: Tensor, rate: int = RATE, **about: Any) -> Clip:
    audio.write(path, wav, rate)
    return Clip(path.name, path, {"description": "noise"}, "train", **about)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path) as spool:
        yield spool


def contents(sample: Sample) -> dict[str, bytes]:
    return {part: data if isinstance(data, bytes) else data.read() for part, data in sample.parts.items()}


def all_of(
    clip: Clip, settings: Settings, spool: Spool
) -> tuple[list[Sample], list[dict[str, Any]], list[Tensor]]:
    """The samples, their attributes and their FLAC audio; none is skipped."""
    samples, attributes, wavs = [], [], []
    for sample in prepare("key", clip, settings, spool):
        assert isinstance(sample, Sample)
        parts = contents(sample)
        samples.append(sample)
        attributes.append(json.loads(parts["json"]))
        wavs.append(audio.read(parts["flac"])[0])
        assert audio.info(parts["flac"]) == audio.AudioInfo(
            sample.sample_rate, sample.channels, sample.num_samples
        )
    return samples, attributes, wavs


def test_a_file_goes_in_as_it_came(tmp_path: Path, spool: Spool) -> None:
    clip = clip_of(tmp_path / "a.ogg", noise(1))
    [sample] = prepare("key", clip, Settings(), spool)
    assert isinstance(sample, Sample)
    assert (sample.key, sample.num_samples, sample.sample_rate, sample.channels) == ("key", RATE, RATE, 2)
    for sample in prepare("key", clip, Settings(), spool):
        parts = contents(sample)  # type: ignore[arg-type]
        assert parts["ogg"] == clip.path.read_bytes()
        assert json.loads(parts["json"]) == {
            "description": "noise",
            "source": "a.ogg",
            "sample_rate": RATE,
            "channels": 2,
            "duration": 1.0,
        }


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff"])
@pytest.mark.parametrize(("rate", "channels"), [(44100, 1), (8000, 2)])
def test_any_format_is_re_encoded(
    suffix: str, rate: int, channels: int, tmp_path: Path, spool: Spool
) -> None:
    source_rate = 48000 if suffix == ".opus" else 22050
    clip = clip_of(tmp_path / f"a{suffix}", noise(1.3, source_rate), source_rate)
    _, _, [wav] = all_of(clip, Settings(sample_rate=rate, channels=channels), spool)
    expected = audio.convert(audio.read(clip.path)[0], source_rate, rate, channels).clamp(-1, 1)
    torch.testing.assert_close(wav, expected, rtol=0, atol=1.01 / 32768)


def test_24_bits_and_levels(tmp_path: Path, spool: Spool) -> None:
    clip = clip_of(tmp_path / "a.wav", noise(1))
    sizes = {}
    for level in (0, 8):
        for sample in prepare("key", clip, Settings(channels=1, subtype="PCM_24", flac_level=level), spool):
            data = contents(sample)["flac"]  # type: ignore[arg-type]
            sizes[level] = len(data)
            with audio.open_audio(data) as file:
                assert file.subtype == "PCM_24"
    assert sizes[8] <= sizes[0]
    five = audio.encode(audio.convert_channels(audio.read(clip.path)[0], 1), RATE)
    for sample in prepare("key", clip, Settings(channels=1), spool):
        assert contents(sample)["flac"] == five  # type: ignore[arg-type]


def test_chunks_are_the_track_cut(tmp_path: Path, spool: Spool) -> None:
    clip = clip_of(tmp_path / "a.wav", noise(3.3))
    samples, attributes, wavs = all_of(clip, Settings(chunk_duration=1.0), spool)
    assert [sample.key for sample in samples] == ["key-00000", "key-00001", "key-00002", "key-00003"]
    assert torch.equal(torch.cat(wavs, dim=-1), audio.read(clip.path)[0])
    for number, about in enumerate(attributes):
        assert about["source"] == "a.wav"
        assert (about["start"], about["track_duration"]) == (float(number), 3.3)
        assert about["duration"] == (1.0 if number < 3 else 0.3)
    # Resampled, a chunk is what that stretch of the file is by itself.
    _, attributes, wavs = all_of(clip, Settings(chunk_duration=0.7, sample_rate=11025, channels=1), spool)
    assert len(wavs) == 5
    for about, piece in zip(attributes, wavs, strict=True):
        stretch, _ = audio.read(clip.path, start=about["start"], duration=0.7)
        torch.testing.assert_close(piece, audio.convert(stretch, RATE, 11025, 1), rtol=0, atol=1.01 / 32768)


def test_no_sample_is_lost_between_chunks_of_odd_length(tmp_path: Path, spool: Spool) -> None:
    clip = clip_of(tmp_path / "a.wav", noise(1.0, 11025), 11025)
    _, _, wavs = all_of(clip, Settings(chunk_duration=0.0333), spool)
    assert len(wavs) == 31
    assert torch.equal(torch.cat(wavs, dim=-1), audio.read(clip.path)[0])


def test_a_short_track_is_one_chunk_as_it_came(tmp_path: Path, spool: Spool) -> None:
    clip = clip_of(tmp_path / "a.ogg", noise(1))
    for sample in prepare("key", clip, Settings(chunk_duration=1.0), spool):
        assert isinstance(sample, Sample)
        assert sample.key == "key-00000"
        parts = contents(sample)
        assert parts["ogg"] == clip.path.read_bytes()
        about = json.loads(parts["json"])
        assert (about["start"], about["track_duration"]) == (0.0, 1.0)


def test_a_clip_may_be_a_stretch_and_be_cut_itself(tmp_path: Path, spool: Spool) -> None:
    clip = clip_of(tmp_path / "a.flac", noise(4.0), start=0.5, duration=2.5)
    _, [about], [piece] = all_of(clip, Settings(), spool)
    assert (about["start"], about["duration"], about["track_duration"]) == (0.5, 2.5, 4.0)
    assert torch.equal(piece, audio.read(clip.path, start=0.5, duration=2.5)[0])
    _, attributes, wavs = all_of(clip, Settings(chunk_duration=1.0), spool)
    assert [about["start"] for about in attributes] == [0.5, 1.5, 2.5]
    assert torch.equal(torch.cat(wavs, dim=-1), piece)


def test_what_is_too_short_or_silent_is_left_out(tmp_path: Path, spool: Spool) -> None:
    wav = noise(2.3)
    wav[:, RATE : 2 * RATE] = 5e-5
    clip = clip_of(tmp_path / "a.wav", wav)
    made = list(prepare("key", clip, Settings(chunk_duration=1.0, min_duration=0.5), spool))
    assert [sample.key for sample in made if isinstance(sample, Sample)] == ["key-00000"]
    assert [skip for skip in made if isinstance(skip, Skipped)] == [
        Skipped("a.wav from 1.000 s on", "silent: no sample is above -80 dBFS"),
        Skipped("a.wav from 2.000 s on", "too short: 0.300 s, min_duration is 0.5 s"),
    ]
    with pytest.raises(ValueError, match="silent"):  # a track without anything is one, not all its chunks
        list(prepare("key", replace(clip, start=1.0, duration=1.0), Settings(chunk_duration=0.2), spool))
    for bad, says in (
        (clip_of(tmp_path / "b.wav", noise(0.3)), "too short: 0.300 s, min_duration is 0.5 s"),
        (clip_of(tmp_path / "c.wav", torch.zeros(1, RATE)), "silent"),
    ):
        for settings in (Settings(min_duration=0.5), Settings(min_duration=0.5, sample_rate=8000)):
            with pytest.raises(ValueError, match=says):
                list(prepare("key", bad, settings, spool))
    # Opposite channels are not silent, but their mono mix is.
    opposite = clip_of(tmp_path / "d.wav", noise(1, channels=1) * torch.tensor([[1.0], [-1.0]]))
    assert len(list(prepare("key", opposite, Settings(), spool))) == 1
    with pytest.raises(ValueError, match="silent"):
        list(prepare("key", opposite, Settings(channels=1), spool))


@pytest.mark.parametrize("settings", [Settings(), Settings(sample_rate=8000), Settings(chunk_duration=0.5)])
def test_a_cut_file_gives_nothing(settings: Settings, tmp_path: Path, spool: Spool) -> None:
    clip = clip_of(tmp_path / "a.flac", noise(2))
    data = clip.path.read_bytes()
    clip.path.write_bytes(data[: len(data) * 3 // 4])
    with pytest.raises(ValueError, match=r"broken after|truncated"):
        next(iter(prepare("key", clip, settings, spool)))
    clip.path.unlink()
    with pytest.raises(ValueError, match="cannot be opened: No such file"):
        next(iter(prepare("key", clip, settings, spool)))


def test_clipped_audio_is_kept_and_marked(tmp_path: Path, spool: Spool) -> None:
    wav = noise(1)
    wav[:, 1000:1016] = 2.0  # 16 samples are clipped: exactly a thousandth, which is not too many
    _, [about], _ = all_of(clip_of(tmp_path / "a.wav", wav), Settings(sample_rate=8000), spool)
    assert "clipped" not in about
    wav[:, 5000:5016] = -2.0
    for settings in (Settings(sample_rate=8000), Settings(loudness=-30.0)):
        [sample], [about], _ = all_of(clip_of(tmp_path / "b.wav", wav), settings, spool)
        assert about["clipped"] == 0.002
        assert sample.is_clipped


def test_loudness_is_of_the_track_and_spares_peaks(tmp_path: Path, spool: Spool) -> None:
    wav = torch.cat([noise(2, channels=1), noise(2, channels=1, level=0.02)], dim=-1)
    clip = clip_of(tmp_path / "a.wav", wav)
    _, _, [made] = all_of(clip, Settings(loudness=-23.0), spool)
    assert audio.integrated_loudness(made, RATE) == pytest.approx(-23.0, abs=0.05)
    _, _, chunks = all_of(clip, Settings(loudness=-23.0, chunk_duration=2.0), spool)
    assert torch.equal(torch.cat(chunks, dim=-1), made)  # a quiet passage stays quiet
    _, _, [made] = all_of(clip, Settings(loudness=-5.0), spool)
    assert made.abs().max() == pytest.approx(10 ** (-1 / 20), abs=1e-4)
    before, _ = audio.read(clip.path)
    gain = (made / before)[before.abs() > 0.1]
    assert gain.max() - gain.min() < 1e-2  # turned up, not squashed
    quiet = clip_of(tmp_path / "b.wav", noise(1, level=1e-3))
    _, _, [made] = all_of(quiet, Settings(loudness=-23.0), spool)
    assert torch.equal(made, audio.read(quiet.path)[0])


def test_conditions_are_parts_of_their_own(tmp_path: Path, spool: Spool) -> None:
    conditions = {
        "melody": clip_of(tmp_path / "m.wav", noise(2, channels=1)),
        "style": clip_of(tmp_path / "s.ogg", noise(3)),
    }
    clip = replace(clip_of(tmp_path / "a.wav", noise(2)), conditions=conditions)
    for sample in prepare("key", clip, Settings(), spool):
        parts = contents(sample)  # type: ignore[arg-type]
        assert parts["melody.wav"] == conditions["melody"].path.read_bytes()
        assert parts["style.ogg"] == conditions["style"].path.read_bytes()
    cut = []
    for sample in prepare("key", clip, Settings(chunk_duration=0.8, channels=1), spool):
        parts = contents(sample)  # type: ignore[arg-type]
        cut.append(audio.read(parts["melody.flac"])[0])
        assert audio.info(parts["style.flac"]).num_samples == audio.info(parts["flac"]).num_samples
    assert torch.equal(torch.cat(cut, dim=-1), audio.read(conditions["melody"].path)[0])
    conditions["melody"].path.write_bytes(b"no audio")
    with pytest.raises(ValueError, match=r"its melody, m.wav: .*no audio"):
        list(prepare("key", clip, Settings(), spool))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"sample_rate": 0}, "0 Hz"),
        ({"sample_rate": 768000}, "655350 Hz, sample_rate is 768000"),
        ({"channels": 9}, "1 to 8 channels, channels is 9"),
        ({"flac_level": 9}, "0 to 8, flac_level is 9"),
        ({"loudness": 3.0}, "3.0 LUFS"),
        ({"peak": 1.0}, "1.0 dBFS"),
        ({"subtype": "FLOAT"}, "'FLOAT'"),
        ({"chunk_duration": 0.0}, "0.0 s"),
        ({"min_duration": -1.0}, "-1.0 s"),
        ({"chunk_duration": 10.0, "min_duration": 12.0}, "chunks of 10.0 s .* 12.0 s"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Settings(**settings)


def test_a_full_disk_is_no_fault_of_the_clip(
    tmp_path: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = clip_of(tmp_path / "a.wav", noise(1))

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        list(prepare("key", clip, Settings(channels=1), spool))


# Not getrusage: its peak begins with that of the process that started this one.
PEAK_MEMORY = r"""
import re, sys
from pathlib import Path
from sharding.writing.prepare import Settings
from sharding.sources.clip import Clip
from sharding.writing.write import write_shards
chunk = float(sys.argv[3]) or None
report = write_shards(
    [Clip("a.flac", Path(sys.argv[1]), {}, "train")], sys.argv[2],
    sample_rate=32000, channels=1, loudness=-20.0, chunk_duration=chunk,
)
assert report.num_samples
print(int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the peak")
@pytest.mark.parametrize("chunk", [0.0, 30.0])
def test_memory_does_not_grow_with_the_length_of_a_file(chunk: float, tmp_path: Path) -> None:
    time = torch.arange(60 * 44100) / 44100
    one_minute = 0.1 * torch.sin(torch.stack([2000 * time, 3000 * time]))
    peaks = []
    for minutes in (1, 5):
        path = tmp_path / f"{minutes}.flac"
        with path.open("wb") as file:
            audio.encode_blocks([one_minute] * minutes, file, 44100, 2, level=0.0)
        command = [sys.executable, "-c", PEAK_MEMORY, path, tmp_path / f"out{minutes}", str(chunk)]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    assert peaks[1] - peaks[0] < 10, peaks  # MB; 4 minutes more are 85 MB as they are decoded
