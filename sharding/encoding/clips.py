"""Clips of shards, read and decoded in loader workers while the codec computes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_audio import audio
from sharding.read import read_part
from sharding.schema import ATTRIBUTES_PART, ShardIndex, index_path
from sharding.writing.plan import PlannedShard


@dataclass(frozen=True)
class SourceShard(PlannedShard):
    """A shard to write, and the tar that its samples come from."""

    source: Path

    def index(self) -> ShardIndex:
        """Of the source."""
        return ShardIndex.load(index_path(self.source))


class Heard(NamedTuple):
    """A waveform [C, L] and its rate (Hz)."""

    wav: Tensor
    sample_rate: int


class LoadedClip(NamedTuple):
    """One sample.  attributes: JSON.  audio: None where nobody hears it.  conditions: its own parts, by name."""

    sample: int
    key: str
    attributes: bytes
    audio: Heard | None
    conditions: dict[str, Heard]


class ClipBatch(NamedTuple):
    """Samples of one shard; plain values, that can be pinned and moved.

    shard: which of the shards that are read.   skipped: (key, reason) of those that cannot be used.
    last: no more of this shard is to come.
    """

    shard: int
    clips: list[LoadedClip]
    skipped: list[tuple[str, str]]
    last: bool


@dataclass(frozen=True)
class Wanted:
    """What is read of a clip.

    audio: its waveform, at sample_rate (Hz) and in `channels`; None: as they are.
    conditions: further waveforms, where it has them, as they are.
    """

    audio: bool
    sample_rate: int | None = None
    channels: int | None = None
    conditions: Collection[str] = ()


class ClipDataset(Dataset[ClipBatch]):
    """The clips of some shards in batches of at most `batch_size` that are alike in length, rate and channels.

    Batches do not cross shards: which clips are together depends on nothing but their shard.
    """

    def __init__(self, shards: Sequence[SourceShard], wanted: Wanted, *, batch_size: int) -> None:
        self.shards = shards
        self.wanted = wanted
        # (shard, samples, whether they are its last)
        self.batches: list[tuple[int, list[int], bool]] = []
        self._index: tuple[int, ShardIndex] | None = None
        for number, shard in enumerate(shards):
            index = shard.index()
            batches = list(_alike(index, batch_size)) or [[]]
            self.batches += [(number, batch, False) for batch in batches[:-1]]
            self.batches.append((number, batches[-1], True))

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, place: int) -> ClipBatch:
        number, samples, last = self.batches[place]
        if self._index is None or self._index[0] != number:
            self._index = number, self.shards[number].index()
        index = self._index[1]
        clips: list[LoadedClip] = []
        skipped: list[tuple[str, str]] = []
        with self.shards[number].source.open("rb") as file:
            for sample in samples:
                try:
                    clips.append(self._read(file, index, sample))
                except ValueError as error:
                    skipped.append((index.keys[sample], str(error)))
        return ClipBatch(number, clips, skipped, last)

    def _read(self, file: BinaryIO, index: ShardIndex, sample: int) -> LoadedClip:
        wanted = self.wanted
        heard = None
        if wanted.audio:
            wav, rate = _read_wav(file, index, sample, index.audio_part(sample))
            new_rate = wanted.sample_rate or rate
            heard = Heard(audio.convert(wav, rate, new_rate, wanted.channels or wav.shape[0]), new_rate)
        parts = {name: index.audio_part(sample, name) for name in wanted.conditions}
        conditions = {name: _read_wav(file, index, sample, part) for name, part in parts.items() if part}
        attributes = read_part(file, index, sample, ATTRIBUTES_PART)
        return LoadedClip(sample, index.keys[sample], attributes, heard, conditions)


def _alike(index: ShardIndex, batch_size: int) -> Iterator[list[int]]:
    """The samples of a shard in batches of one length, rate and channel count."""
    alike: dict[tuple[int, ...], list[int]] = {}
    for sample, kind in enumerate(zip(index.num_samples, index.sample_rates, index.channels, strict=True)):
        alike.setdefault(tuple(int(value) for value in kind), []).append(sample)
    for samples in alike.values():
        for start in range(0, len(samples), batch_size):
            yield samples[start : start + batch_size]


def _read_wav(file: BinaryIO, index: ShardIndex, sample: int, part: str | None) -> Heard:
    if part is None:
        raise ValueError(f"{index.keys[sample]} has no audio")
    wav, rate = audio.read(read_part(file, index, sample, part))
    if not wav.shape[-1] or not torch.isfinite(wav).all():
        raise ValueError(f"{index.keys[sample]}.{part} has no samples, or NaN among them")
    return Heard(wav, rate)
