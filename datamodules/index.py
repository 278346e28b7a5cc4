"""Which samples of a split are used, and where they lie. A shard's index is loaded when first asked for."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from sharding.schema import DURATIONS_FILE, DatasetInfo, ShardIndex, index_path, parse_durations
from sharding.storage.folders import Folder, as_folder, load_info, open_fetched, open_splits

# Indexes are fetched side by side: over a network each is mostly waiting.
_THREADS = 16


class DatasetIndex:
    """One split of a dataset.

    folder: of the split.  min_duration: shorter clips (s) are not used; their lengths come from `durations.bin`, or,
    of a dataset without it, from every index.
    max_loaded: shard indexes kept in memory.
    info: what the split says of itself, where it is known already.
    counts: int64 [shards], samples used.  num_short: samples left out for their length.
    """

    def __init__(
        self,
        folder: Path | Folder,
        *,
        min_duration: float = 0.0,
        max_loaded: int = 256,
        info: DatasetInfo | None = None,
    ) -> None:
        self.folder = as_folder(folder)
        self.info = info or load_info(self.folder)
        self._max_loaded = max_loaded
        self._loaded: OrderedDict[int, ShardIndex] = OrderedDict()
        self._used: np.ndarray | None = None  # places in the split of the samples that are used
        self.counts = np.array([shard.num_samples for shard in self.info.shards], np.int64)
        self._starts = np.cumsum(self.counts) - self.counts
        self._used_starts = self._starts
        total = len(self)
        if min_duration > 0:
            # In whole milliseconds: lengths are whole samples, at rates that may not divide.
            used = self._milliseconds() >= round(1000 * min_duration)
            self._used = np.flatnonzero(used).astype(np.int32 if total < 1 << 31 else np.int64)
            shards = np.repeat(np.arange(len(self.counts)), self.counts)
            self.counts = np.bincount(shards[used], minlength=len(self.counts)).astype(np.int64)
            self._used_starts = np.cumsum(self.counts) - self.counts
        self.num_short = total - len(self)
        if not len(self):
            raise ValueError(f"none of the {total} clips in {self.folder} lasts {min_duration:g} s")

    def __len__(self) -> int:
        return int(self.counts.sum())

    def shard(self, number: int) -> ShardIndex:
        """The index of one shard."""
        if number in self._loaded:
            self._loaded.move_to_end(number)
            return self._loaded[number]
        index = self._load(number)
        self._loaded[number] = index
        if len(self._loaded) > self._max_loaded:
            self._loaded.popitem(last=False)
        return index

    def sample(self, number: int, nth: int) -> int:
        """The place in the shard of its nth used sample."""
        if self._used is None:
            return nth
        return int(self._used[self._used_starts[number] + nth]) - int(self._starts[number])

    def _milliseconds(self) -> np.ndarray:
        """uint32 [N], how long each sample of the split is."""
        try:
            found = parse_durations(self.folder.read(DURATIONS_FILE), self.info)
        except OSError:  # absent: the dataset is older than that file
            found = None
        if found is not None:
            return found
        with ThreadPoolExecutor(_THREADS) as threads:
            indexes = threads.map(self._load, range(len(self.info.shards)))
            return np.concatenate([index.milliseconds for index in indexes])

    def _load(self, number: int) -> ShardIndex:
        shard = self.info.shards[number]
        name = index_path(Path(shard.name)).name
        index = open_fetched(self.folder, name, ShardIndex.load, sha256=shard.index_sha256)
        if len(index) != shard.num_samples:
            raise ValueError(
                f"{self.folder}/{shard.name}: {len(index)} samples in its index, not {shard.num_samples}"
            )
        return index


def open_split(path: str | Path, split: str, *, min_duration: float = 0.0) -> DatasetIndex:
    """A split of the dataset at `path`."""
    folders = open_splits(path)
    if split not in folders:
        raise FileNotFoundError(f"{path} has no split {split!r}, only {', '.join(folders)}")
    return DatasetIndex(folders[split], min_duration=min_duration)
