"""Which samples of a split are used, and where they lie. A shard's index is loaded when first asked for."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np

from sharding.schema import DatasetInfo, ShardIndex, index_path, split_folders


class DatasetIndex:
    """One split of a dataset.

    folder: of the split.  min_duration: shorter clips (s) are not used; needs every index to be read at the
    start.
    max_loaded: shard indexes kept in memory.
    counts: int64 [shards], samples used.  num_short: samples left out for their length.
    """

    def __init__(self, folder: Path, *, min_duration: float = 0.0, max_loaded: int = 256) -> None:
        self.folder = folder
        self.info = DatasetInfo.load(folder)
        self._max_loaded = max_loaded
        self._loaded: OrderedDict[int, ShardIndex] = OrderedDict()
        self._used: list[np.ndarray] | None = None
        self.counts = np.array([shard.num_samples for shard in self.info.shards], np.int64)
        total = int(self.counts.sum())
        if min_duration > 0:
            # Half a millisecond of grace: lengths are whole samples, at rates that may not divide.
            shards = range(len(self.info.shards))
            self._used = [np.flatnonzero(self.shard(i).durations >= min_duration - 5e-4) for i in shards]
            self.counts = np.array([len(used) for used in self._used], np.int64)
        self.num_short = total - len(self)
        if not len(self):
            raise ValueError(f"none of the {total} clips in {folder} lasts {min_duration:g} s")

    def __len__(self) -> int:
        return int(self.counts.sum())

    def shard(self, number: int) -> ShardIndex:
        """The index of one shard."""
        if number in self._loaded:
            self._loaded.move_to_end(number)
            return self._loaded[number]
        info = self.info.shards[number]
        index = ShardIndex.load(index_path(self.folder / info.name))
        if len(index) != info.num_samples:
            raise ValueError(
                f"{self.folder / info.name}: {len(index)} samples in its index, not {info.num_samples}"
            )
        self._loaded[number] = index
        if len(self._loaded) > self._max_loaded:
            self._loaded.popitem(last=False)
        return index

    def sample(self, number: int, nth: int) -> int:
        """The place in the shard of its nth used sample."""
        return nth if self._used is None else int(self._used[number][nth])


def open_split(path: str | Path, split: str, *, min_duration: float = 0.0) -> DatasetIndex:
    """A split of the dataset at `path`."""
    folders = split_folders(path)
    if split not in folders:
        raise FileNotFoundError(f"{path} has no split {split!r}, only {', '.join(folders)}")
    return DatasetIndex(folders[split], min_duration=min_duration)
