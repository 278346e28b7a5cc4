"""Shards of codes -> batches of codes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.index import DatasetIndex
from datamodules.shards import ShardReader
from datamodules.stream import StreamDataModule
from datamodules.transforms import OneDescription, Sample, Transform, collate_codes, crop_start
from lightning_audio.batch import AudioBatch
from sharding.schema import CODES_PART, CodesInfo, parse_codes

# What a dict of attributes costs in memory, roughly, beyond its text.
_ATTRIBUTES_BYTES = 2048


class TokenSource:
    """Codes of one split (see `TokenDataModule`); what was read is kept, up to `cache_bytes`."""

    def __init__(
        self,
        index: DatasetIndex,
        codes: CodesInfo,
        *,
        num_frames: int | None,
        min_segment_ratio: float,
        cache_bytes: int,
        transforms: Sequence[Transform],
    ) -> None:
        self.index = index
        self.codes = codes
        self.counts = index.counts
        self.reader = ShardReader(index.folder)
        self.num_frames = num_frames
        self.min_segment_ratio = min_segment_ratio
        self.transforms = transforms
        self.sample_rate = next(iter(index.info.sample_rates))
        self._room = cache_bytes
        self._cache: dict[tuple[int, int], Sample] = {}

    def load(self, shard: int, nth: int, rng: np.random.Generator) -> Sample:
        loaded = self._cache.get((shard, nth)) or self._read(shard, nth)
        codes, segment = loaded.codes, self.num_frames
        assert codes is not None
        if segment is not None:
            start = crop_start(rng, codes.shape[1], segment, self.min_segment_ratio)
            codes = codes[:, start : start + segment]
        loaded = Sample(loaded.key, dict(loaded.attributes), codes=codes)
        for transform in self.transforms:
            loaded = transform(loaded, rng)
        return loaded

    def _read(self, shard: int, nth: int) -> Sample:
        info, index, sample = (
            self.index.info.shards[shard],
            self.index.shard(shard),
            self.index.sample(shard, nth),
        )
        data = self.reader.read(info, index, sample, CODES_PART)
        codes = parse_codes(data, num_codebooks=self.codes.num_codebooks, cardinality=self.codes.cardinality)
        loaded = Sample(index.keys[sample], self.reader.attributes(info, index, sample), codes=codes)
        # Filled once and never emptied: an epoch comes back to everything, so the oldest is as useful as the
        # newest.
        size = len(data) + _ATTRIBUTES_BYTES
        if size <= self._room:
            self._room -= size
            self._cache[shard, nth] = loaded
        return loaded

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
            transforms=[OneDescription(), *(self.transforms if training else ())],
        )
