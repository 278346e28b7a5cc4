"""The order of the stream: a pure function of (seed, position), whatever the ranks and workers."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import numpy as np


class Place(NamedTuple):
    """A sample: in which epoch it comes, its shard, and which of the shard's used samples it is."""

    epoch: int
    shard: int
    nth: int


class StreamOrder:
    """Which sample stands at each position of an endless stream of epochs, each of every sample once.

    counts: samples per shard.  window: shards that are read side by side. In each epoch the shards are
    permuted, and the samples are permuted within each window of consecutive shards: well mixed, while a
    reader has few tars open and remote shards can be fetched one after another.  shuffle=False: the order of
    the tars, in every epoch.
    """

    def __init__(self, counts: np.ndarray, *, seed: int, shuffle: bool = True, window: int = 16) -> None:
        if seed < 0 or window < 1:
            raise ValueError(f"seed must be at least 0 and window at least 1, got {seed} and {window}")
        self.counts = np.asarray(counts, np.int64)
        self.seed = seed
        self.shuffle = shuffle
        self.window = window
        self._epochs: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._windows: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        if len(self) == 0:
            raise ValueError("there are no samples to put in order")

    def __len__(self) -> int:
        """Samples per epoch."""
        return int(self.counts.sum())

    def __call__(self, position: int) -> Place:
        epoch, offset = divmod(position, len(self))
        shards, starts = self._epoch(epoch)
        window = int(np.searchsorted(starts, offset, side="right")) - 1
        first = window * self.window
        members = shards[first : first + self.window]
        within = int(self._window(epoch, window, starts)[offset - starts[window]])
        ends = np.cumsum(self.counts[members])
        which = int(np.searchsorted(ends, within, side="right"))
        nth = within - int(ends[which] - self.counts[members[which]])
        return Place(epoch, int(members[which]), nth)

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The epoch's shards in order, and the offset at which each window of them starts."""

        def make() -> tuple[np.ndarray, np.ndarray]:
            shards = np.flatnonzero(self.counts)
            if self.shuffle:
                shards = np.random.default_rng([self.seed, epoch]).permutation(shards)
            sizes = np.add.reduceat(self.counts[shards], np.arange(0, len(shards), self.window))
            return shards, np.concatenate([[0], np.cumsum(sizes)])

        return _remember(self._epochs, epoch, make, keep=2)

    def _window(self, epoch: int, window: int, starts: np.ndarray) -> np.ndarray:
        """The order of a window's samples."""

        def make() -> np.ndarray:
            size = int(starts[window + 1] - starts[window])
            if not self.shuffle:
                return np.arange(size)
            return np.random.default_rng([self.seed, epoch, window]).permutation(size)

        return _remember(self._windows, (epoch, window), make, keep=4)


def _remember(cache: OrderedDict, key, make, *, keep: int):  # type: ignore[no-untyped-def]
    if key not in cache:
        cache[key] = make()
        while len(cache) > keep:
            cache.popitem(last=False)
    return cache[key]
