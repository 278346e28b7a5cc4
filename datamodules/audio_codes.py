"""Shards of audio with its codes beside it -> batches of segments of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.audio import AudioDataModule, AudioSource
from datamodules.tokens import crop_offsets
from datamodules.transforms import Sample, Transform, collate_audio, collate_codes, crop_start
from lightning_audio.batch import AudioBatch
from sharding.schema import CodesInfo, ShardIndex, numbered_part, parse_codes


class AudioCodesSource(AudioSource):
    """Segments of one split that begin where a frame of codes begins (see `AudioCodesDataModule`)."""

    def __init__(self, *args: Any, codes: CodesInfo, draws_crops: bool, **options: Any) -> None:
        super().__init__(*args, **options)
        self.codes = codes
        self.draws_crops = draws_crops
        self.hop_length = round(self.sample_rate / codes.frame_rate)
        assert self.segment_duration is not None
        self.num_samples = round(self.segment_duration * self.sample_rate)
        self.num_frames = -(-self.num_samples // self.hop_length)

    def _read(self, shard: int, nth: int, rng: np.random.Generator) -> Sample:
        loaded = super()._read(shard, nth, rng)
        first, offset = divmod(round(loaded.start * self.sample_rate), self.hop_length)
        number = 0 if offset == 0 else crop_offsets(loaded.attributes, self.codes).index(offset)
        data = self.reader.read(*self._place(shard, nth), numbered_part("codes", number))
        codes = parse_codes(data, num_codebooks=self.codes.num_codebooks, cardinality=self.codes.cardinality)
        codes = codes[:, first : first + self.num_frames]
        if codes.shape[1] < self.num_frames:
            raise ValueError(
                f"has {codes.shape[1]} frames of codes from frame {first} on, want {self.num_frames}"
            )
        return replace(loaded, codes=codes)

    def _segment(
        self, index: ShardIndex, sample: int, attributes: dict[str, Any], rng: np.random.Generator
    ) -> tuple[int, int]:
        """It begins where a frame of one of the crops does."""
        length, offset = int(index.num_samples[sample]), 0
        if self.draws_crops:
            offset = crop_offsets(attributes, self.codes)[int(rng.integers(self.codes.crops))]
        if length - offset < self.num_samples:  # a clip that has just the length of a segment
            offset = 0
        start = crop_start(rng, length - offset, self.num_samples, min_ratio=1.0)
        return offset + start // self.hop_length * self.hop_length, self.num_samples

    def collate(self, samples: Sequence[Sample]) -> AudioBatch:
        audio = collate_audio(samples, sample_rate=self.sample_rate, num_samples=self.num_samples)
        codes = collate_codes(samples, sample_rate=self.sample_rate, num_frames=self.num_frames)
        return replace(audio, codes=codes.codes, num_frames=codes.num_frames)


class AudioCodesDataModule(AudioDataModule):
    """Batches of waveforms with their codes, from shards that `encode --keep-audio` made.

    The codes are those of the whole clips: near a segment's ends they know more than the segment does. Clips that
    are shorter than a segment are not used, since codes cannot be padded.

    sample_rate (Hz): of the shards.   segment_duration: s.
    codec_hash: of the codec that the model goes with; shards of another are refused (None: any).
    transforms: of training samples; they must leave the audio as it is, or the codes would be of other audio.
    Other arguments: `AudioDataModule`.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        sample_rate: int,
        channels: int = 1,
        segment_duration: float = 1.0,
        allow_silence: bool = True,
        conditions: Sequence[str] = (),
        features: Sequence[str] = (),
        codec_hash: str | None = None,
        transforms: Sequence[Transform] = (),
        **stream: Any,
    ) -> None:
        super().__init__(
            path,
            sample_rate=sample_rate,
            channels=channels,
            segment_duration=segment_duration,
            allow_silence=allow_silence,
            conditions=conditions,
            features=features,
            transforms=transforms,
            **stream,
        )
        self.codec_hash = codec_hash

    def codes_info(self, split: str = "train") -> CodesInfo:
        """The codec's hash, frame rate, codebooks and cardinality, of a split."""
        codes = self.info(split).codes
        if codes is None:
            raise ValueError(
                f"{self.path}/{split} holds no codes: `lightning-audio encode --keep-audio` makes them"
            )
        if self.codec_hash is not None and codes.codec_hash != self.codec_hash:
            raise ValueError(
                f"codes in {self.path}/{split} were made by codec {codes.codec_hash}, "
                f"the model's is {self.codec_hash}"
            )
        if self.sample_rate % codes.frame_rate:
            raise ValueError(
                f"a frame of {self.sample_rate} Hz audio at {codes.frame_rate} Hz is no whole number"
            )
        return codes

    def source(self, split: str, *, training: bool) -> AudioCodesSource:
        self._check(split)
        codes = self.codes_info(split)
        return AudioCodesSource(
            self._open(split, self.segment_duration or 0.0),
            codes=codes,
            draws_crops=training and codes.crops > 1,
            sample_rate=self.sample_rate,
            channels=self.channels,
            segment_duration=self.segment_duration,
            min_segment_ratio=1.0,
            allow_silence=self.allow_silence or not training,
            conditions=self.conditions,
            features=self.features,
            transforms=self.transforms if training else (),
        )
