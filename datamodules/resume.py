"""A stream of batches that resumes exactly: its whole state is one position.

The stream is endless: epoch after epoch, with no gap, so a batch may hold the end of one and the beginning
of the next. So every sample comes once per epoch, no tail is dropped, and all ranks do equal numbers of
steps whatever the sizes. The global batch that starts at position p is the samples p ... p + batch_size - 1,
cut into accumulated batches, each cut into ranks: what training has consumed is always a prefix of the
stream, on any world size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch.utils.data import DataLoader, Dataset

from datamodules.journal import Failure, Journal
from datamodules.order import Order, State
from datamodules.transforms import BatchTransform, Sample
from lightning_audio.batch import AudioBatch

# Draws for one position before giving up; with 10 % bad samples that happens once in 10^16.
_MAX_TRIES = 16


class Source(Protocol):
    """Where samples come from: `datamodules.audio.AudioSource`, `datamodules.tokens.TokenSource`."""

    counts: np.ndarray
    """int64 [shards]: samples that are used."""

    def load(self, shard: int, nth: int, rng: np.random.Generator) -> Sample:
        """A sample; ValueError or OSError where it cannot be used."""

    def name(self, shard: int, nth: int) -> tuple[str, str]:
        """Shard and key, for the quarantine."""

    def collate(self, samples: Sequence[Sample]) -> AudioBatch: ...


class Drawn(NamedTuple):
    """The sample of one position, and those that could not be used before it was found."""

    position: int
    sample: Sample | None
    failures: list[Failure]


class Delivered(NamedTuple):
    """What a worker hands over; plain values, which pinning keeps."""

    batch: AudioBatch | None
    positions: list[int]
    failures: list[Failure]


class StreamDataset(Dataset[Drawn]):
    """Position in the stream -> sample. All chance is drawn from (seed, position), never from the process.

    A bad sample is replaced by another of the same epoch (of the same dataset, in a mixture), itself chosen by
    (seed, position).
    batch_transforms: draw from (seed, positions of the batch).
    """

    def __init__(self, source: Source, order: Order, batch_transforms: Sequence[BatchTransform] = ()) -> None:
        self.source = source
        self.order = order
        self.batch_transforms = batch_transforms

    def __getitem__(self, position: int) -> Drawn:
        place = self.order(position)
        failures: list[Failure] = []
        for attempt in range(_MAX_TRIES):
            rng = np.random.default_rng([self.order.seed, position, attempt])
            try:
                return Drawn(position, self.source.load(place.shard, place.nth, rng), failures)
            except (ValueError, OSError, MemoryError) as error:
                shard, key = self._name(place.shard, place.nth)
                failures.append(Failure(position, shard, key, str(error) or type(error).__name__))
            place = self.order.another(position, rng)
        return Drawn(position, None, failures)

    def _name(self, shard: int, nth: int) -> tuple[str, str]:
        try:
            return self.source.name(shard, nth)
        except (ValueError, OSError):  # the index itself is what cannot be read
            return f"shard {shard}", f"sample {nth}"

    def collate(self, drawn: Sequence[Drawn]) -> Delivered:
        samples = [item.sample for item in drawn if item.sample is not None]
        failures = [failure for item in drawn for failure in item.failures]
        positions = [item.position for item in drawn]
        if len(samples) < len(drawn):
            return Delivered(None, positions, failures)
        batch = self.source.collate(samples)
        # A spawn key, where a sample's seed is [seed, position, attempt]: a longer list might be one of those, since
        # numpy takes zeros at its end for nothing.
        key = (positions[0], len(positions))
        rng = np.random.default_rng(np.random.SeedSequence(self.order.seed, spawn_key=key))
        for transform in self.batch_transforms:
            batch = transform(batch, rng)
        return Delivered(batch, positions, failures)


def rank_batch_size(batch_size: int, world_size: int, accumulation: int) -> int:
    """What one rank takes at a time of a global batch; ValueError where it cannot be divided evenly."""
    if batch_size < 1 or batch_size % (world_size * accumulation):
        raise ValueError(
            f"a global batch of {batch_size} cannot be divided evenly by {world_size} ranks "
            f"x {accumulation} accumulated batches"
        )
    return batch_size // (world_size * accumulation)


class _Loader:
    """Batches of a dataset, from workers or none, noted in the journal.

    Not a torch DataLoader itself: Lightning would put a DistributedSampler of its own into one.
    """

    training = False

    def __init__(self, dataset: StreamDataset, journal: Journal, num_workers: int, pin_memory: bool) -> None:
        self.dataset = dataset
        self.journal = journal
        self.num_workers = num_workers
        self.pin_memory = pin_memory

    def _batches(self, positions: Any) -> Iterator[AudioBatch]:
        loader = DataLoader(
            self.dataset,
            batch_sampler=positions,
            num_workers=self.num_workers,
            collate_fn=self.dataset.collate,
            pin_memory=self.pin_memory,
        )
        for batch, places, failures in loader:
            keys = None if batch is None else batch.keys
            self.journal.record(places, keys, failures, training=self.training)
            yield batch


class StreamLoader(_Loader):
    """This rank's share of the endless stream.

    batch_size: global.  num_batches: how many make what Lightning calls an epoch, after which the stream
    goes on.
    position: where to start.  consumed: tells how many batches training has finished since any fixed moment;
    the saved position is that of training, not that of the workers, who are ahead. None: counted as they are
    given out.
    """

    training = True

    def __init__(
        self,
        dataset: StreamDataset,
        journal: Journal,
        *,
        batch_size: int,
        num_batches: int,
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
        position: int = 0,
        num_workers: int = 0,
        pin_memory: bool = False,
        consumed: Callable[[], int] | None = None,
    ) -> None:
        super().__init__(dataset, journal, num_workers, pin_memory)
        self.per_rank = rank_batch_size(batch_size, world_size, accumulation)
        self.rank = rank
        self.world_size = world_size
        self.num_batches = num_batches
        self._given = 0
        self._consumed = consumed or (lambda: self._given)
        self._start, self._consumed_at_start = position, self._consumed()
        self._stream: Iterator[AudioBatch] | None = None
        self._stream_position = position

    def __len__(self) -> int:
        return self.num_batches

    @property
    def position(self) -> int:
        """How many samples of the stream training has consumed, on all ranks together."""
        return self._start + (self._consumed() - self._consumed_at_start) * self.per_rank * self.world_size

    def __iter__(self) -> Iterator[AudioBatch]:
        # The workers' stream goes on from epoch to epoch, unless training stands elsewhere than it does.
        position = self.position
        if self._stream is None or position != self._stream_position:
            self._stream = self._batches(self._positions(position))
            self._stream_position = position
        for _ in range(self.num_batches):
            batch = next(self._stream)
            self._given += 1
            self._stream_position += self.per_rank * self.world_size
            yield batch

    def _positions(self, start: int) -> Iterator[list[int]]:
        for first in itertools.count(start + self.rank * self.per_rank, self.per_rank * self.world_size):
            yield list(range(first, first + self.per_rank))

    def state_dict(self) -> State:
        """The same on every rank; Lightning saves and restores it with its loops."""
        return {"position": self.position, **self.dataset.order.state()}

    def load_state_dict(self, state: State) -> None:
        """Goes on from there; ValueError where the order is another, in which that position means nothing."""
        for name, mine in self.dataset.order.state().items():
            if state.get(name) != mine:
                raise ValueError(f"cannot resume the stream: {name} was {state.get(name)}, now it is {mine}")
        self._start, self._consumed_at_start = int(state["position"]), self._consumed()
        self._stream = None

    def close(self) -> None:
        """Let the workers go."""
        self._stream = None


class EvalLoader(_Loader):
    """Every sample once, in the order of the shards, cut evenly over the ranks.

    The last batch is cut too, so that all ranks do equal numbers of steps; where it does not divide, at most
    world_size - 1 clips of it come twice.
    """

    def __init__(
        self,
        dataset: StreamDataset,
        journal: Journal,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(dataset, journal, num_workers, pin_memory)
        self.positions: list[list[int]] = []
        for first in range(0, len(dataset.order), batch_size):
            size = min(batch_size, len(dataset.order) - first)
            share = math.ceil(size / world_size)
            self.positions.append([first + (rank * share + i) % size for i in range(share)])

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[AudioBatch]:
        return self._batches(self.positions)
