"""Shards of audio -> batches of segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.conditions import ConditionReader, Place
from datamodules.index import DatasetIndex
from datamodules.shards import ShardReader
from datamodules.stream import StreamDataModule
from datamodules.transforms import (
    Accept,
    Sample,
    Transform,
    collate_audio,
    crop_start,
    one_description,
    transformed,
)
from lightning_audio.audio import convert, open_audio, read_samples
from lightning_audio.batch import AudioBatch
from sharding.schema import ShardIndex

# Below this peak (-80 dBFS) a segment is silence, dither or not.
_SILENCE = 1e-4
# Draws for another clip before giving up: a kind that is a twentieth of the stream is missed once in 500 000.
_MAX_DRAWS = 256
# Decoded from whole numbers: there can be no NaN.
_WHOLE_NUMBERS = ("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32")


class AudioSource:
    """Segments of one split (see `AudioDataModule`); only the segment is decoded, not the clip."""

    def __init__(
        self,
        index: DatasetIndex,
        *,
        sample_rate: int,
        channels: int,
        segment_duration: float | None,
        min_segment_ratio: float,
        allow_silence: bool,
        conditions: Sequence[str] = (),
        features: Sequence[str] = (),
        transforms: Sequence[Transform],
    ) -> None:
        self.index = index
        self.counts = index.counts
        self.reader = ShardReader(index.folder)
        self.sample_rate = sample_rate
        self.channels = channels
        self.segment_duration = segment_duration
        self.min_segment_ratio = min_segment_ratio
        self.allow_silence = allow_silence
        self.transforms = transforms
        self.steering = ConditionReader(
            self.reader,
            index.info,
            conditions=conditions,
            features=features,
            sample_rate=sample_rate,
            channels=channels,
        )
        self._ends = np.cumsum(self.counts)

    def load(self, shard: int, nth: int, rng: np.random.Generator) -> Sample:
        loaded = replace(self._read(shard, nth, rng), another=partial(self._another, (shard, nth)))
        return transformed(loaded, self.transforms, rng)

    def _another(
        self, own: tuple[int, int], rng: np.random.Generator, accept: Accept | None = None
    ) -> Sample:
        """A segment of a clip other than `own`. One that cannot be read is passed over: its own turn names it."""
        for _ in range(_MAX_DRAWS):
            place = int(rng.integers(self._ends[-1]))
            shard = int(np.searchsorted(self._ends, place, side="right"))
            nth = place - int(self._ends[shard] - self.counts[shard])
            if (shard, nth) == own:
                continue
            try:
                if accept is None or accept(*self._about(shard, nth)):
                    return self._read(shard, nth, rng)
            except (ValueError, OSError):
                continue
        raise ValueError(f"of {_MAX_DRAWS} clips drawn to go with it none will do")

    def _about(self, shard: int, nth: int) -> tuple[str, dict[str, Any]]:
        """Key and attributes of a clip, without its audio."""
        place = self._place(shard, nth)
        return place[1].keys[place[2]], self.reader.attributes(*place)

    def _place(self, shard: int, nth: int) -> Place:
        return self.index.info.shards[shard], self.index.shard(shard), self.index.sample(shard, nth)

    def _read(self, shard: int, nth: int, rng: np.random.Generator) -> Sample:
        """A segment of a clip, with one description of it."""
        place = self._place(shard, nth)
        _, index, sample = place
        attributes = self.reader.attributes(*place)
        start, count = self._segment(index, sample, attributes, rng)
        samples = self._samples(place, start, count)
        attributes, text = one_description(attributes, rng)
        rate = int(index.sample_rates[sample])
        begin, duration = start / rate, None if self.segment_duration is None else count / rate
        return Sample(
            index.keys[sample],
            attributes,
            wav=self._converted(samples.T, rate),
            start=begin,
            conditions=self.steering.waveforms(place, begin, duration),
            features=self.steering.features(place, text, begin, duration),
        )

    def _samples(self, place: Place, start: int, count: int) -> np.ndarray:
        """`count` samples of the clip's audio, as they are in the file: [L, C]."""
        _, index, sample = place
        part = index.audio_part(sample)
        if part is None:
            raise ValueError("has no audio")
        with open_audio(self.reader.open(*place, part)) as file:
            if file.samplerate != index.sample_rates[sample]:
                raise ValueError(f"is {file.samplerate} Hz, its index says {index.sample_rates[sample]} Hz")
            samples = read_samples(file, start, count)
            needs_look = not self.allow_silence or file.subtype not in _WHOLE_NUMBERS
        if len(samples) < count:
            raise ValueError(f"is cut: {len(samples)} of {count} samples from {start} on")
        if needs_look:
            peak = max(samples.max(initial=0.0), -samples.min(initial=0.0))
            if not np.isfinite(peak):
                raise ValueError("has NaN or infinite samples")
            if peak < _SILENCE and not self.allow_silence:
                raise ValueError(f"is silent from {start / index.sample_rates[sample]:.2f} s on")
        return samples

    def _segment(
        self, index: ShardIndex, sample: int, attributes: dict[str, Any], rng: np.random.Generator
    ) -> tuple[int, int]:
        """(start, count) in samples of the file."""
        length, rate = int(index.num_samples[sample]), int(index.sample_rates[sample])
        if self.segment_duration is None:
            return 0, length
        segment = round(self.segment_duration * rate)
        start = crop_start(rng, length, segment, self.min_segment_ratio)
        return start, min(segment, length - start)

    def _converted(self, wav: np.ndarray, rate: int) -> np.ndarray:
        """[C, L] at the file's rate and channels -> [C, L] at ours, never longer than a segment."""
        if rate == self.sample_rate and len(wav) == self.channels:
            return wav
        converted = convert(
            torch.from_numpy(np.ascontiguousarray(wav)), rate, self.sample_rate, self.channels
        ).numpy()
        if self.segment_duration is not None:
            converted = converted[:, : round(self.segment_duration * self.sample_rate)]
        return converted

    def name(self, shard: int, nth: int) -> tuple[str, str]:
        return self.index.info.shards[shard].name, self.index.shard(shard).keys[self.index.sample(shard, nth)]

    def collate(self, samples: Sequence[Sample]) -> AudioBatch:
        length = None if self.segment_duration is None else round(self.segment_duration * self.sample_rate)
        return collate_audio(samples, sample_rate=self.sample_rate, num_samples=length)


class AudioDataModule(StreamDataModule):
    """Batches of waveforms: random segments for training, always the same ones for validation and test.

    sample_rate (Hz): shards of another rate are refused, unless `resample`, which converts each segment as
    it is read.
    channels: of the batch; mono is the mean, mono audio is repeated.
    segment_duration: s; None gives whole clips, padded to the longest of the batch.
    min_segment_ratio: training segments have at least this share of audio before the padding; clips too
    short for
        that are not used. Validation and test use every clip.
    allow_silence: False: a segment under -80 dBFS is replaced by another clip's.
    conditions: names of further waveforms that steer ("melody": of the parts `melody.flac`, ...), cut to the segment.
    features: names of what `encode` made ahead ("t5", "chroma"), which take the place of the attributes that they
        are of.
    transforms: of training samples, after the choice of one description.
    Other arguments: `StreamDataModule`.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        sample_rate: int,
        channels: int = 1,
        segment_duration: float | None = 1.0,
        min_segment_ratio: float = 1.0,
        resample: bool = False,
        allow_silence: bool = True,
        conditions: Sequence[str] = (),
        features: Sequence[str] = (),
        transforms: Sequence[Transform] = (),
        **stream: Any,
    ) -> None:
        super().__init__(path, **stream)
        if segment_duration is not None and segment_duration * sample_rate < 1:
            raise ValueError(f"a segment of {segment_duration} s has no samples at {sample_rate} Hz")
        if not 0 < min_segment_ratio <= 1:
            raise ValueError(f"min_segment_ratio must be in (0, 1], got {min_segment_ratio}")
        self.sample_rate = sample_rate
        self.channels = channels
        self.segment_duration = segment_duration
        self.min_segment_ratio = min_segment_ratio
        self.resample = resample
        self.allow_silence = allow_silence
        self.conditions, self.features = list(conditions), list(features)
        self.transforms = list(transforms)

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        self._check(self.train_split)

    def source(self, split: str, *, training: bool) -> AudioSource:
        self._check(split)
        shortest = self.min_segment_ratio * (self.segment_duration or 0.0) if training else 0.0
        return AudioSource(
            self._open(split, shortest),
            sample_rate=self.sample_rate,
            channels=self.channels,
            segment_duration=self.segment_duration,
            min_segment_ratio=self.min_segment_ratio if training else 1.0,
            allow_silence=self.allow_silence or not training,
            conditions=self.conditions,
            features=self.features,
            transforms=self.transforms if training else (),
        )

    def _check(self, split: str) -> None:
        rates = [rate for rate in self.info(split).sample_rates if rate != self.sample_rate]
        if rates and not self.resample:
            raise ValueError(
                f"shards of {self.path} are {rates[0]} Hz, the data module wants {self.sample_rate} Hz: "
                "make them at that rate, or set resample=True"
            )
