"""The order of the stream: a pure function of (seed, position), whatever the ranks and workers."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from fractions import Fraction
from math import gcd, lcm
from typing import NamedTuple, Protocol

import numpy as np

State = dict[str, int | str]
"""What an order depends on, by name, to be compared when a run is resumed."""


class Place(NamedTuple):
    """A sample: in which epoch it comes, its shard, and which of the shard's used samples it is."""

    epoch: int
    shard: int
    nth: int


class Order(Protocol):
    """Which sample stands at each position of an endless stream."""

    @property
    def seed(self) -> int: ...

    def __len__(self) -> int:
        """Samples of what is called an epoch."""

    def __call__(self, position: int) -> Place: ...

    def another(self, position: int, rng: np.random.Generator) -> Place:
        """What may stand in for the sample at `position`, where that one cannot be used."""

    def state(self) -> State: ...


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
        self._length = int(self.counts.sum())
        self.seed = seed
        self.shuffle = shuffle
        self.window = window
        self._epochs: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._windows: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        if len(self) == 0:
            raise ValueError("there are no samples to put in order")

    def __len__(self) -> int:
        """Samples per epoch."""
        return self._length

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

    def another(self, position: int, rng: np.random.Generator) -> Place:
        """Any sample of the same epoch."""
        epoch_start = position - position % len(self)
        return self(epoch_start + int(rng.integers(len(self))))

    def state(self) -> State:
        counts = hashlib.sha256(self.counts.astype("<i8").tobytes()).hexdigest()[:16]
        return {"seed": self.seed, "epoch_samples": len(self), "window": self.window, "counts": counts}

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


class MixtureOrder:
    """Several streams as one, each with its share of the positions and in its own order.

    The positions are cut into blocks; up to the end of any block a stream has had its exact share, but for less than
    one sample for each stream before it. Within a block it is chance, seeded by (seed, block), which stream comes. A
    stream goes on from epoch to epoch at its own pace: none of its samples is left out, or comes before its turn.

    orders: by name; their shards are numbered one stream after the other.   weights: by name, positive.
    """

    def __init__(
        self, orders: Mapping[str, StreamOrder], weights: Mapping[str, float], *, seed: int, block: int = 1024
    ) -> None:
        if not orders or orders.keys() != weights.keys():
            raise ValueError(f"weights are of {sorted(weights)}, the datasets are {sorted(orders)}")
        if seed < 0 or block < 1:
            raise ValueError(f"seed must be at least 0 and block at least 1, got {seed} and {block}")
        if not all(0 < weight < float("inf") for weight in weights.values()):
            raise ValueError(f"weights must be positive, got {dict(weights)}: leave out what is not wanted")
        self.orders = dict(orders)
        self.seed = seed
        self.block = block
        # As they are written: 0.1 is a tenth, not the nearest binary fraction.
        shares = [Fraction(str(weights[name])) for name in self.orders]
        # Whole numbers of any size, without a common divisor: no rounding, however far the stream goes.
        scale = Fraction(
            lcm(*(share.denominator for share in shares)), gcd(*(share.numerator for share in shares))
        )
        self._shares = [int(share * scale) for share in shares]
        self._streams = list(self.orders.values())
        self._first_shards = np.cumsum([0, *(len(order.counts) for order in self._streams)])
        self._blocks: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()

    def __len__(self) -> int:
        """Samples of all streams together."""
        return sum(len(order) for order in self._streams)

    def __call__(self, position: int) -> Place:
        stream, nth = self._turn(position)
        return self._place(stream, self._streams[stream](nth))

    def another(self, position: int, rng: np.random.Generator) -> Place:
        """Of the same stream, in its same epoch."""
        stream, nth = self._turn(position)
        return self._place(stream, self._streams[stream].another(nth, rng))

    def state(self) -> State:
        shares = ", ".join(f"{name} {share}" for name, share in zip(self.orders, self._shares, strict=True))
        state: State = {"seed": self.seed, "epoch_samples": len(self), "block": self.block, "weights": shares}
        for name, order in self.orders.items():
            state |= {f"{name}.{what}": value for what, value in order.state().items()}
        return state

    def _place(self, stream: int, place: Place) -> Place:
        return place._replace(shard=int(self._first_shards[stream]) + place.shard)

    def _turn(self, position: int) -> tuple[int, int]:
        """Whose turn it is, and the how-manieth of that stream."""
        block, offset = divmod(position, self.block)
        streams, turns = self._block(block)
        return int(streams[offset]), int(turns[offset])

    def _block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        def make() -> tuple[np.ndarray, np.ndarray]:
            before, after = self._taken(block * self.block), self._taken((block + 1) * self.block)
            counts = np.array([end - start for start, end in zip(before, after, strict=True)])
            streams = np.repeat(np.arange(len(counts)), counts)
            chance = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(block,)))
            streams = chance.permutation(streams)
            turns = np.empty(self.block, np.int64)
            for stream, (start, end) in enumerate(zip(before, after, strict=True)):
                turns[streams == stream] = np.arange(start, end)
            return streams, turns

        return _remember(self._blocks, block, make, keep=4)

    def _taken(self, positions: int) -> list[int]:
        """How many of the first `positions` are each stream's: the first gets its share of all, rounded down, the
        next its share of what that leaves, and so on; so none ever shrinks as the stream goes on.
        """
        taken, rest = [], sum(self._shares)
        for share in self._shares:
            taken.append(positions * share // rest)
            positions -= taken[-1]
            rest -= share
        return taken


def _remember(cache: OrderedDict, key, make, *, keep: int):  # type: ignore[no-untyped-def]
    if key not in cache:
        cache[key] = make()
        while len(cache) > keep:
            cache.popitem(last=False)
    return cache[key]
