"""What is in a dataset, in numbers: hours, durations, rates, attributes, captions, loudness, use of the codebooks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from lightning_audio.audio import LoudnessMeter
from sharding.examine import Levels, open_stretch
from sharding.parallel import Progress, run_all
from sharding.read import open_part, read_part
from sharding.schema import (
    ATTRIBUTES_PART,
    CODES_PART,
    CROPS_ATTRIBUTE,
    DatasetInfo,
    ShardIndex,
    ShardInfo,
    index_path,
    parse_attributes,
    parse_codes,
    split_folders,
)

CAPTION_ATTRIBUTE = "description"
NUM_DECODED = 500
"""Clips of each split that are decoded, unless all are."""

# What the audio says of itself: measured here, not counted as attributes.
_MEASURED = frozenset(
    {"source", "sample_rate", "channels", "duration", "start", "track_duration", "clipped", CROPS_ATTRIBUTE}
)
_MOST_ATTRIBUTES = 500
_MOST_VALUES = 5000  # counted of one attribute; of more, the rarest are forgotten
_LONGEST_VALUE = 80  # characters; what is longer is a text, not a value to count
_MOST_WORDS = 1000
_MOST_CHANNELS = 5  # for which loudness is defined
_QUIETEST = -100.0  # dB


@dataclass
class AttributeStatistics:
    """How many clips have an attribute, and its values; `complete` unless there were too many to count."""

    num_clips: int = 0
    values: Counter[str] = field(default_factory=Counter)
    complete: bool = True


@dataclass
class SplitStatistics:
    """One split, or part of one.

    durations: s, of each clip.  parts: how many clips have them.  num_words: words of a caption -> captions.
    loudness (LUFS), peaks (dBFS): of the clips that were decoded; silence is at -100.
    num_unreadable: clips whose attributes, audio or codes could not be read.
    code_counts: int64 [K, cardinality], how often each code occurs in the clips that were read for it.
    """

    num_clips: int = 0
    num_shards: int = 0
    num_bytes: int = 0
    num_skipped: int = 0
    durations: list[np.ndarray] = field(default_factory=list)
    sample_rates: Counter[int] = field(default_factory=Counter)
    channels: Counter[int] = field(default_factory=Counter)
    parts: Counter[str] = field(default_factory=Counter)
    attributes: dict[str, AttributeStatistics] = field(default_factory=dict)
    num_words: Counter[int] = field(default_factory=Counter)
    loudness: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)
    num_clipped: int = 0
    num_unreadable: int = 0
    code_counts: np.ndarray | None = None
    num_code_clips: int = 0

    @property
    def seconds(self) -> float:
        return float(sum(durations.sum(dtype=np.float64) for durations in self.durations))

    def add(self, other: SplitStatistics) -> None:
        """Take in those of another part of the same split."""
        for name in ("num_clips", "num_shards", "num_bytes", "num_skipped", "num_clipped", "num_unreadable"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("sample_rates", "channels", "parts", "num_words"):
            getattr(self, name).update(getattr(other, name))
        for name in ("durations", "loudness", "peaks"):
            getattr(self, name).extend(getattr(other, name))
        for name, theirs in other.attributes.items():
            if name not in self.attributes and len(self.attributes) >= _MOST_ATTRIBUTES:
                continue
            ours = self.attributes.setdefault(name, AttributeStatistics())
            ours.num_clips += theirs.num_clips
            ours.values.update(theirs.values)
            ours.complete &= theirs.complete
            if len(ours.values) > 2 * _MOST_VALUES:
                ours.values, ours.complete = Counter(dict(ours.values.most_common(_MOST_VALUES))), False
        if other.code_counts is not None:
            self.code_counts = other.code_counts + (0 if self.code_counts is None else self.code_counts)
            self.num_code_clips += other.num_code_clips


@dataclass(frozen=True, kw_only=True)
class _Shard:
    """One shard to read: the work of one process.  decoded: the samples whose audio or codes are read."""

    path: Path
    shard: ShardInfo
    info: DatasetInfo
    decoded: np.ndarray


def dataset_statistics(
    dataset: str | Path,
    *,
    num_decoded: int | None = NUM_DECODED,
    workers: int = 1,
    progress: Progress | None = None,
) -> dict[str, SplitStatistics]:
    """Of each split, by name.

    num_decoded: clips of each split whose audio and codes are read, drawn evenly, always the same; None: all.
    Counts, durations and attributes are always of all clips.
    """
    if num_decoded is not None and num_decoded < 0:
        raise ValueError(f"num_decoded must not be negative, got {num_decoded}")
    tasks: list[_Shard] = []
    splits: list[str] = []
    found: dict[str, SplitStatistics] = {}
    for split, folder in split_folders(dataset).items():
        info = DatasetInfo.load(folder)
        found[split] = SplitStatistics(num_skipped=info.num_skipped)
        drawn = _draw(info.num_samples, num_decoded)
        start = 0
        for shard in info.shards:
            mine = drawn[(drawn >= start) & (drawn < start + shard.num_samples)] - start
            bare = replace(info, shards=())  # of the others it need not know
            tasks.append(_Shard(path=folder / shard.name, shard=shard, info=bare, decoded=mine))
            splits.append(split)
            start += shard.num_samples
    for split, part in zip(splits, run_all(_measure, tasks, workers=workers, progress=progress), strict=True):
        found[split].add(part)
    return found


def _draw(count: int, wanted: int | None) -> np.ndarray:
    """int64, ascending: `wanted` of `count` places."""
    if wanted is None or wanted >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, wanted, replace=False))


def _measure(task: _Shard) -> SplitStatistics:
    index = ShardIndex.load(index_path(task.path))
    if len(index) != task.shard.num_samples:
        raise ValueError(
            f"{task.path} has {len(index)} samples in its index, dataset.json says {task.shard.num_samples}"
        )
    found = SplitStatistics(
        num_clips=len(index),
        num_shards=1,
        num_bytes=task.shard.num_bytes,
        durations=[index.durations.astype(np.float32)],
        sample_rates=Counter(index.sample_rates.tolist()),
        channels=Counter(index.channels.tolist()),
        parts=Counter({part: int((table[:, 1] >= 0).sum()) for part, table in index.parts.items()}),
    )
    decoded = set(task.decoded.tolist())
    with task.path.open("rb") as file:
        for sample in range(len(index)):
            try:
                _count_attributes(found, parse_attributes(read_part(file, index, sample, ATTRIBUTES_PART)))
                if sample in decoded:
                    _listen(found, file, index, sample, task.info)
            except ValueError:
                found.num_unreadable += 1
    return found


def _count_attributes(found: SplitStatistics, attributes: dict[str, Any]) -> None:
    for name, value in attributes.items():
        values = value if isinstance(value, list) else [value]
        values = [item for item in values if item not in (None, "") and item == item]
        if not values or name in _MEASURED:
            continue
        about = found.attributes.setdefault(name, AttributeStatistics())
        about.num_clips += 1
        texts = {str(item) for item in values if isinstance(item, str | int | float)}
        short = {text for text in texts if len(text) <= _LONGEST_VALUE}
        about.values.update(sorted(short))
        about.complete &= short == texts and all(not isinstance(item, dict | list) for item in values)
        if name == CAPTION_ATTRIBUTE:
            captions = [item for item in values if isinstance(item, str)]
            found.num_words.update(min(len(caption.split()), _MOST_WORDS) for caption in captions)


def _listen(
    found: SplitStatistics, file: BinaryIO, index: ShardIndex, sample: int, info: DatasetInfo
) -> None:
    part = index.audio_part(sample)
    if part is not None:
        levels = Levels()
        with open_stretch(open_part(file, index, sample, part)) as stretch:
            meter = LoudnessMeter(stretch.sample_rate, min(stretch.channels, _MOST_CHANNELS))
            for block in stretch.blocks():
                levels.add(block)
                meter.add(torch.from_numpy(block.T[:_MOST_CHANNELS].copy()))
        found.loudness.append(max(_QUIETEST, meter.loudness()))
        found.peaks.append(max(_QUIETEST, 20 * math.log10(max(levels.peak, 1e-12))))
        found.num_clipped += levels.clipped > 0
    if info.codes is not None and CODES_PART in index.parts:
        about = info.codes
        codes = parse_codes(
            read_part(file, index, sample, CODES_PART),
            num_codebooks=about.num_codebooks,
            cardinality=about.cardinality,
        )
        counts = np.stack([np.bincount(row, minlength=about.cardinality) for row in codes])
        found.code_counts = counts if found.code_counts is None else found.code_counts + counts
        found.num_code_clips += 1


def quantile(values: Sequence[np.ndarray], share: float) -> float:
    """Of several arrays together; NaN where there is nothing in them."""
    together = np.concatenate([np.zeros(0, np.float32), *values])
    return float(np.quantile(together, share)) if len(together) else math.nan
