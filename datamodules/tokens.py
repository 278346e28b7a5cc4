"""Shards of codes -> batches of codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.conditions import ConditionReader, Kept, Place
from datamodules.index import DatasetIndex
from datamodules.shards import ShardReader
from datamodules.stream import StreamDataModule
from datamodules.transforms import (
    Sample,
    Transform,
    collate_codes,
    crop_start,
    one_description,
    transformed,
)
from lightning_audio.batch import AudioBatch
from sharding.schema import ATTRIBUTES_PART, CROPS_ATTRIBUTE, CodesInfo, numbered_part, parse_codes

# What a part costs in memory, roughly, beyond its bytes: a dict of attributes costs that.
_PART_BYTES = 2048
_MAX_OFFSET = 1 << 20


class TokenSource:
    """Codes of one split (see `TokenDataModule`); what was read is kept, up to `cache_bytes`.

    draws_crops: of several codes of a clip any is taken, not always the first.
    """

    def __init__(
        self,
        index: DatasetIndex,
        codes: CodesInfo,
        *,
        num_frames: int | None,
        min_segment_ratio: float,
        cache_bytes: int,
        draws_crops: bool = False,
        conditions: Sequence[str] = (),
        features: Sequence[str] = (),
        transforms: Sequence[Transform],
    ) -> None:
        self.index = index
        self.codes = codes
        self.counts = index.counts
        self.reader = ShardReader(index.folder)
        self.num_frames = num_frames
        self.min_segment_ratio = min_segment_ratio
        self.draws_crops = draws_crops
        self.transforms = transforms
        self.sample_rate = next(iter(index.info.sample_rates))
        self.steering = ConditionReader(
            self.reader,
            index.info,
            conditions=conditions,
            features=features,
            sample_rate=self.sample_rate,
            channels=next(iter(index.info.channels)),
        )
        self._room = cache_bytes
        self._cache: dict[tuple[int, int, str], Any] = {}

    def load(self, shard: int, nth: int, rng: np.random.Generator) -> Sample:
        place = self.index.info.shards[shard], self.index.shard(shard), self.index.sample(shard, nth)
        kept = partial(self._kept, shard, nth, place)
        attributes: dict[str, Any] = dict(kept(ATTRIBUTES_PART, lambda: self.reader.attributes(*place)))
        crop = int(rng.integers(self.codes.crops)) if self.draws_crops else 0
        codes, segment = self._codes(place, kept, crop), self.num_frames
        first, duration = 0, None
        if segment is not None:
            first = crop_start(rng, codes.shape[1], segment, self.min_segment_ratio)
            codes, duration = codes[:, first : first + segment], segment / self.codes.frame_rate
        start = first / self.codes.frame_rate
        if crop:
            start += crop_offsets(attributes, self.codes)[crop] / self.sample_rate
        attributes, text = one_description(attributes, rng)
        loaded = Sample(
            place[1].keys[place[2]],
            attributes,
            codes=codes,
            start=start,
            conditions=self.steering.waveforms(place, start, duration),
            features=self.steering.features(place, text, start, duration, kept),
        )
        return transformed(loaded, self.transforms, rng)

    def _codes(self, place: Place, kept: Kept, crop: int) -> np.ndarray:
        part, codes = numbered_part("codes", crop), self.codes

        def read() -> np.ndarray:
            data = self.reader.read(*place, part)
            return parse_codes(data, num_codebooks=codes.num_codebooks, cardinality=codes.cardinality)

        found: np.ndarray = kept(part, read)
        return found

    def _kept(self, shard: int, nth: int, place: Place, part: str, read: Callable[[], Any]) -> Any:
        """What `read` gives of a part; of memory, where it was read before."""
        if (known := self._cache.get((shard, nth, part))) is not None:
            return known
        value = read()
        # Filled once and never emptied: an epoch comes back to everything, so the oldest is as useful as the
        # newest.
        size = int(place[1].parts[part][place[2], 1]) + _PART_BYTES
        if size <= self._room:
            self._room -= size
            self._cache[shard, nth, part] = value
        return value

    def name(self, shard: int, nth: int) -> tuple[str, str]:
        return self.index.info.shards[shard].name, self.index.shard(shard).keys[self.index.sample(shard, nth)]

    def collate(self, samples: Sequence[Sample]) -> AudioBatch:
        return collate_codes(samples, sample_rate=self.sample_rate, num_frames=self.num_frames)


class TokenDataModule(StreamDataModule):
    """Batches of codes, from shards that `encode` made.

    num_frames or segment_duration (s): of a segment, random for training, always the same for validation and
    test;
        neither gives whole clips, padded to the longest of the batch.
    min_segment_ratio: as in `AudioDataModule`.
    codec_hash: of the codec that the model goes with; shards of another are refused (None: any).
    cache_bytes: memory that may keep codes between epochs, over all workers of a process.
    conditions, features: as in `AudioDataModule`.
    Where `encode` made codes of several crops, training draws one of them; validation and test take the first.
    Other arguments: `StreamDataModule`.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        num_frames: int | None = None,
        segment_duration: float | None = None,
        min_segment_ratio: float = 1.0,
        codec_hash: str | None = None,
        cache_bytes: int = 1 << 30,
        conditions: Sequence[str] = (),
        features: Sequence[str] = (),
        transforms: Sequence[Transform] = (),
        **stream: Any,
    ) -> None:
        super().__init__(path, **stream)
        if num_frames is not None and segment_duration is not None:
            raise ValueError(f"a segment is {num_frames} frames or {segment_duration} s, not both")
        if not 0 < min_segment_ratio <= 1:
            raise ValueError(f"min_segment_ratio must be in (0, 1], got {min_segment_ratio}")
        self._num_frames = num_frames
        self.segment_duration = segment_duration
        self.min_segment_ratio = min_segment_ratio
        self.codec_hash = codec_hash
        self.cache_bytes = cache_bytes
        self.conditions, self.features = list(conditions), list(features)
        self.transforms = list(transforms)

    def codes_info(self, split: str = "train") -> CodesInfo:
        """The codec's hash, frame rate, codebooks and cardinality, of a split."""
        codes = self.info(split).codes
        if codes is None:
            raise ValueError(
                f"{self.path}/{split} holds audio, no codes: `lightning-audio encode` makes them"
            )
        if self.codec_hash is not None and codes.codec_hash != self.codec_hash:
            raise ValueError(
                f"codes in {self.path}/{split} were made by codec {codes.codec_hash}, "
                f"the model's is {self.codec_hash}"
            )
        return codes

    @property
    def num_frames(self) -> int | None:
        """Frames of a segment; None: whole clips."""
        if self.segment_duration is None:
            return self._num_frames
        return max(1, round(self.segment_duration * self.codes_info().frame_rate))

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        self.codes_info(self.train_split)

    def source(self, split: str, *, training: bool) -> TokenSource:
        codes, segment = self.codes_info(split), self.num_frames
        shortest = self.min_segment_ratio * (segment or 0) / codes.frame_rate if training else 0.0
        return TokenSource(
            self._open(split, shortest),
            codes,
            num_frames=segment,
            min_segment_ratio=self.min_segment_ratio if training else 1.0,
            cache_bytes=self.cache_bytes // max(1, self.num_workers),
            draws_crops=training and codes.crops > 1,
            conditions=self.conditions,
            features=self.features,
            transforms=self.transforms if training else (),
        )


def crop_offsets(attributes: dict[str, Any], codes: CodesInfo) -> list[int]:
    """At which sample of the clip each of its codes begins; ValueError where it does not say so, or not as it must."""
    offsets = attributes.get(CROPS_ATTRIBUTE)
    if (
        not isinstance(offsets, list)
        or len(offsets) != codes.crops
        or not all(isinstance(offset, int) and 0 <= offset < _MAX_OFFSET for offset in offsets)
    ):
        raise ValueError(f"has no {CROPS_ATTRIBUTE} for {codes.crops} crops, but {str(offsets)[:80]}")
    return offsets
