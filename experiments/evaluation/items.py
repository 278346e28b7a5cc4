"""The reference set of an evaluation: shards or a folder of files, as items with a key, a caption and audio."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import math
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

import numpy as np
import torch
from torch import Tensor

from datamodules.audio import AudioDataModule
from lightning_audio.audio import SUFFIXES, AudioInfo, convert, info, read
from sharding.storage.folders import is_remote


@dataclass(frozen=True)
class Item:
    """duration: s.   place: where the set finds its audio."""

    key: str
    caption: str | None
    duration: float
    place: Any


class ReferenceSet(Protocol):
    """name: where it lies, in words.   hash: of all of it, whatever part is used.   num_short: items left out."""

    name: str
    hash: str
    items: list[Item]
    num_short: int

    def read(self, item: Item) -> Tensor:
        """[C, L] at the rate and with the channels of the evaluation; ValueError where it is unreadable."""
        ...


def open_reference(
    path: str | Path,
    *,
    split: str,
    sample_rate: int,
    channels: int,
    resample: bool,
    captions: str | Path | None,
    every_caption: bool = False,
    min_duration: float = 0.0,
    limit: int | None = None,
) -> ReferenceSet:
    """Shards that `lightning-audio shard` made, or a plain folder of audio files.

    sample_rate (Hz): audio of another rate is refused, unless `resample`.
    captions: a table for a folder of files, see `read_captions`; shards bring theirs.
    every_caption: an item for each caption of a clip that has several, rather than for the first.
    min_duration: s, of an item.   limit: the first so many items.
    """
    found: ReferenceSet
    if is_remote(path) or any(Path(path).glob("dataset.json")) or any(Path(path).glob("*/dataset.json")):
        if captions is not None:
            raise ValueError(
                f"{path} are shards, which hold their captions: captions={captions} is for a folder"
            )
        found = ShardSet(
            path,
            split=split,
            sample_rate=sample_rate,
            channels=channels,
            resample=resample,
            every_caption=every_caption,
        )
    else:
        found = FolderSet(
            path, sample_rate=sample_rate, channels=channels, resample=resample, captions=captions
        )
    whole = [item for item in found.items if item.duration >= min_duration]
    found.num_short = len(found.items) - len(whole)
    found.items = whole[:limit]
    if len(found.items) < 2:
        raise ValueError(
            f"{path} has {len(found.items)} clips of {min_duration:g} s or more; an evaluation needs at least 2"
        )
    return found


class ShardSet:
    """Whole clips of one split of a dataset of shards."""

    def __init__(
        self,
        path: str | Path,
        *,
        split: str,
        sample_rate: int,
        channels: int,
        resample: bool,
        every_caption: bool,
    ) -> None:
        module = AudioDataModule(
            path,
            sample_rate=sample_rate,
            channels=channels,
            segment_duration=None,
            resample=resample,
            batch_size=1,
        )
        self._source = module.source(split, training=False)
        self._lock = threading.Lock()  # a reader keeps files open, and closes those that it used longest ago
        self.name = f"{path}, split {split}"
        shards = module.info(split).shards
        self.hash = _sha256(shard.sha256 for shard in shards)
        self.num_short = 0
        self.items = [
            item
            for shard in range(len(shards))
            for nth in range(int(self._source.counts[shard]))
            for item in self._items_of(shard, nth, every_caption)
        ]

    def _items_of(self, shard: int, nth: int, every_caption: bool) -> list[Item]:
        info, index = self._source.index.info.shards[shard], self._source.index.shard(shard)
        sample = self._source.index.sample(shard, nth)
        key = index.keys[sample]
        duration = float(index.num_samples[sample]) / float(index.sample_rates[sample])
        described = self._source.reader.attributes(info, index, sample).get("description")
        texts = [str(text) for text in described] if isinstance(described, list) else []
        texts = texts or [None if described in (None, []) else str(described)]  # type: ignore[list-item]
        if not every_caption or len(texts) == 1:
            return [Item(key, texts[0], duration, (shard, nth))]
        return [Item(f"{key}#{n}", text, duration, (shard, nth)) for n, text in enumerate(texts)]

    def read(self, item: Item) -> Tensor:
        shard, nth = item.place
        with self._lock:
            sample = self._source.load(shard, nth, np.random.default_rng(0))
        assert sample.wav is not None
        return torch.from_numpy(np.ascontiguousarray(sample.wav))


class FolderSet:
    """Audio files below a folder; a key is the path from there, without its suffix."""

    def __init__(
        self,
        path: str | Path,
        *,
        sample_rate: int | None,
        channels: int,
        resample: bool,
        captions: str | Path | None = None,
    ) -> None:
        folder = Path(path)
        files = audio_files(folder)
        headers = headers_of(files)
        self.sample_rate = one_rate(headers, folder)
        if sample_rate is not None and self.sample_rate != sample_rate and not resample:
            raise ValueError(
                f"the files of {folder} are {self.sample_rate} Hz, the protocol wants {sample_rate} Hz: "
                "bring them to that rate, or set resample=true"
            )
        self._rate, self._channels = sample_rate or self.sample_rate, channels
        texts = {} if captions is None else read_captions(captions)
        if captions is not None and not set(texts) & set(files):
            raise ValueError(
                f"no file of {folder} is named in {captions}; the first is {next(iter(files))!r}"
            )
        self.name = str(folder)
        # What cannot be read stays an item, so that it is missed when its turn comes.
        self.items = [
            Item(key, texts.get(key), headers[key].duration if key in headers else math.inf, file)
            for key, file in files.items()
        ]
        self.hash = _sha256(
            f"{key} {hashlib.sha256(file.read_bytes()).hexdigest()}" for key, file in files.items()
        )
        self.num_short = 0

    def read(self, item: Item) -> Tensor:
        wav, rate = read(item.place)
        return convert(wav, rate, self._rate, self._channels)


def audio_files(folder: Path) -> dict[str, Path]:
    """The audio below a folder, by key, sorted; ValueError where there is none or two files have one key."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    files: dict[str, Path] = {}
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() not in SUFFIXES or not file.is_file():
            continue
        key = unquote(file.relative_to(folder).with_suffix("").as_posix())
        if key in files:
            raise ValueError(f"{files[key]} and {file} have the same name {key!r}")
        files[key] = file
    if not files:
        raise ValueError(f"there is no audio in {folder} ({', '.join(SUFFIXES)})")
    return files


def headers_of(files: dict[str, Path]) -> dict[str, AudioInfo]:
    """What the headers of the files say, without those that cannot be read."""
    found = {}
    for key, file in files.items():
        with contextlib.suppress(ValueError):
            found[key] = info(file)
    return found


def one_rate(headers: dict[str, AudioInfo], folder: Path) -> int:
    """The rate (Hz) of all files of a folder; ValueError where they have several, or none can be read."""
    if not headers:
        raise ValueError(f"none of the audio files of {folder} can be read")
    first = {header.sample_rate: key for key, header in reversed(headers.items())}
    if len(first) > 1:
        (one, a), (other, b), *_ = sorted(first.items())
        raise ValueError(f"the files of {folder} have unlike rates: {a} is {one} Hz, {b} is {other} Hz")
    return next(iter(first))


def read_captions(path: str | Path) -> dict[str, str]:
    """A CSV table with the columns `key` (a file's name without its suffix) and `caption`."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        if missing := {"key", "caption"} - set(table.fieldnames or ()):
            raise ValueError(
                f"{path} has no column {' and no '.join(sorted(missing))}; it has {table.fieldnames}"
            )
        return {row["key"]: row["caption"] for row in table}


def _sha256(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
