"""The codec's training augmentation: mixtures in their proportions, levels, rooms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.audio import AudioDataModule
from datamodules.augmentation import Gain, MixSources, Normalize, Reverb, Strategy, Unclipped, rms
from datamodules.transforms import Sample
from lightning_audio import audio

RATE = 8000
PAPER: list[dict[str, Any]] = [
    {"probability": 0.32, "only": {"kind": "music"}},
    {"probability": 0.32, "never": {"kind": "music"}},
    {"probability": 0.24, "num_sources": 2},
    {"probability": 0.12, "num_sources": 3, "never": {"kind": "music"}},
]


def stream(share_of_music: float) -> Callable[[np.random.Generator], Sample]:
    """A stream of numbered clips, each one sample that is a power of two: a sum says what went into it."""
    clips = [("music" if i < 10 * share_of_music else "speech", i) for i in range(10)]

    def clip(rng: np.random.Generator, accept: Any = None) -> Sample:
        while True:
            kind, number = clips[rng.integers(10)]
            key, about = str(number), {"kind": kind}
            if accept is None or accept(key, about):
                wav = np.full((1, 4), 2.0**number, np.float32)
                return Sample(key, about, wav=wav, another=clip)

    return clip


@pytest.mark.parametrize("share_of_music", [0.1, 0.5])
def test_mixtures_come_in_their_proportions(share_of_music: float) -> None:
    rng = np.random.default_rng(0)
    clip = stream(share_of_music)
    mix = MixSources(strategies=[Strategy(**each) for each in PAPER])
    counts: Counter[Any] = Counter()
    kept = 0
    for _ in range(3000):
        own = clip(rng)
        mixed = mix(own, rng)
        assert mixed.wav is not None
        numbers = [i for i in range(10) if int(mixed.wav[0, 0]) >> i & 1]
        music = sum(i < 10 * share_of_music for i in numbers)
        assert len(numbers) == mixed.attributes["num_sources"]
        kept += int(own.key) in numbers
        counts[len(numbers), music if len(numbers) != 2 else None] += 1
    shares = {kind: number / 3000 for kind, number in counts.items()}
    assert shares == pytest.approx({(1, 1): 0.32, (1, 0): 0.32, (2, None): 0.24, (3, 0): 0.12}, abs=0.03)
    assert kept > 1300  # the stream's own clip is in it wherever it may be


def test_levels_and_gains_of_each_source() -> None:
    rng = np.random.default_rng(0)
    mix = MixSources(strategies=[Strategy(probability=1.0)], each=[Normalize(level=-20.0), Gain()])
    wav = np.random.default_rng(1).standard_normal((2, 4000)).astype(np.float32) * 1e-2
    levels = [20 * np.log10(rms(mix(Sample("a", {}, wav=wav), rng).wav)) for _ in range(300)]  # type: ignore[arg-type]
    assert -30.01 < min(levels) < -29
    assert -15 < max(levels) < -13.99
    silence = Sample("a", {}, wav=np.zeros((1, 10), np.float32))
    assert Normalize()(silence, rng) is silence


def test_sources_of_other_lengths() -> None:
    rng = np.random.default_rng(0)
    short = Sample("b", {}, wav=np.ones((1, 3), np.float32))
    sample = Sample("a", {}, wav=np.ones((1, 5), np.float32), another=lambda rng, accept=None: short)
    mixed = MixSources(strategies=[Strategy(probability=1.0, num_sources=2)])(sample, rng)
    assert mixed.wav is not None
    assert mixed.wav.tolist() == [[2, 2, 2, 1, 1]]


def test_clipped_clips_are_dropped_for_others() -> None:
    rng = np.random.default_rng(0)
    unclipped = Unclipped(transforms=[Gain(low=0.0, high=0.0)])
    clip = stream(0.5)
    results = {unclipped(clip(rng), rng).key for _ in range(30)}
    assert results == {"0"}  # the only one of them that is within full scale
    loud = Sample("a", {}, wav=np.full((1, 4), 2.0, np.float32))
    loud = Sample("a", {}, wav=loud.wav, another=lambda rng, accept=None: loud)
    with pytest.raises(ValueError, match="32 clips in a row go over full scale"):
        unclipped(loud, rng)


def responses(folder: Path, *, rate: int = RATE) -> Path:
    response = torch.zeros(1, 200)
    response[0, 50], response[0, 150] = 0.5, 0.25  # the direct sound after 50 samples, an echo 100 later
    folder.mkdir()
    audio.write(folder / "room.wav", response, rate, subtype="FLOAT")
    return folder


def test_reverb_is_the_convolution_and_keeps_time_and_level(tmp_path: Path) -> None:
    reverb = Reverb(impulse_responses=responses(tmp_path / "rooms"), sample_rate=RATE, p=1.0)
    wav = np.zeros((2, 1000), np.float32)
    wav[:, 300] = 0.5
    wet = reverb(Sample("a", {}, wav=wav), np.random.default_rng(0)).wav
    assert wet is not None
    assert wet.dtype == np.float32
    assert wet.shape == wav.shape
    assert rms(wet) == pytest.approx(rms(wav), rel=1e-5)
    assert wet[0, 300] == pytest.approx(2 * wet[0, 400], rel=1e-4)
    assert np.abs(wet).sum() == pytest.approx(np.abs(wet[:, [300, 400]]).sum(), rel=1e-4)
    loud = reverb(Sample("a", {}, wav=2 * wav), np.random.default_rng(0)).wav
    assert loud is not None
    assert np.abs(loud).max() <= 1.0


def test_reverb_leaves_music_alone_dry(tmp_path: Path) -> None:
    never = {"kind": "music", "num_sources": 1}
    reverb = Reverb(
        impulse_responses=responses(tmp_path / "rooms", rate=16000), sample_rate=RATE, p=1.0, never=never
    )
    rng = np.random.default_rng(0)
    wav = np.ones((1, 50), np.float32)
    for about, dry in (
        ({"kind": "music", "num_sources": 1}, True),
        ({"kind": "music", "num_sources": 2}, False),
        ({"kind": "speech", "num_sources": 1}, False),
        ({}, False),
    ):
        sample = Sample("a", about, wav=wav)
        assert (reverb(sample, rng) is sample) is dry
    some = Reverb(impulse_responses=tmp_path / "rooms", sample_rate=RATE, p=0.2)
    sample = Sample("a", {}, wav=wav)
    wet = sum(some(sample, rng) is not sample for _ in range(1000))
    assert 150 < wet < 250
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no impulse response in"):
        Reverb(impulse_responses=tmp_path / "empty", sample_rate=RATE)


def test_in_a_stream_it_is_the_same_on_any_workers(audio_shards: Path, tmp_path: Path) -> None:
    rooms = responses(tmp_path / "rooms")

    def batches(workers: int) -> list[Any]:
        chain = [
            Unclipped(
                transforms=[
                    MixSources(
                        strategies=[Strategy(probability=1.0), Strategy(probability=1.0, num_sources=3)],
                        each=[Normalize(), Gain()],
                    )
                ]
            ),
            Reverb(impulse_responses=rooms, sample_rate=RATE),
        ]
        data = AudioDataModule(
            audio_shards,
            sample_rate=RATE,
            batch_size=4,
            segment_duration=0.25,
            transforms=chain,
            num_workers=workers,
            log_folder=tmp_path,
        )
        data.setup("fit")
        loader = data.train_dataloader()
        return list(islice((batch for _ in range(6) for batch in loader), 6))

    alone, helped = batches(0), batches(2)
    for one, other in zip(alone, helped, strict=True):
        assert torch.equal(one.wav, other.wav)
        assert one.wav.abs().max() <= 1
    assert {about["num_sources"] for batch in alone for about in batch.attributes} == {1, 3}
    assert not (tmp_path / "quarantine-rank0.jsonl").exists()


def test_a_kind_that_the_stream_lacks_is_named(audio_shards: Path) -> None:
    data = AudioDataModule(audio_shards, sample_rate=RATE, batch_size=4, segment_duration=0.25)
    source = data.source("train", training=True)
    source.transforms = [MixSources(strategies=[Strategy(probability=1.0, only={"kind": "music"})])]
    with pytest.raises(ValueError, match="of 256 clips drawn to go with it none will do"):
        source.load(0, 0, np.random.default_rng(0))


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match=r"num_sources >= 1, got 1.0 and 0"):
        Strategy(probability=1.0, num_sources=0)
    with pytest.raises(ValueError, match="0 strategies sum up to 0"):
        MixSources(strategies=[])
    with pytest.raises(ValueError, match=r"got 6.0 dB and -10.0 dB"):
        Gain(low=6.0, high=-10.0)
