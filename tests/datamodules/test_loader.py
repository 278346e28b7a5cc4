"""The stream itself, on a source in memory: the same batches whatever the ranks, the workers, the shards' sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.journal import Journal, read_audit
from datamodules.mixture import MixtureSource
from datamodules.order import MixtureOrder, Order, StreamOrder
from datamodules.resume import EvalLoader, Source, StreamDataset, StreamLoader
from datamodules.transforms import Sample
from lightning_audio.batch import AudioBatch

BATCH, STEPS = 64, 5


class Numbers:
    """Samples that are three draws each; some cannot be used."""

    def __init__(self, counts: Sequence[int], bad: Sequence[tuple[int, int]] = ()) -> None:
        self.counts = np.array(counts)
        self.bad = set(bad)

    def load(self, shard: int, nth: int, rng: np.random.Generator) -> Sample:
        if (shard, nth) in self.bad:
            raise ValueError("is bad")
        return Sample(f"{shard}.{nth}", {}, codes=rng.integers(1000, size=(1, 3)))

    def name(self, shard: int, nth: int) -> tuple[str, str]:
        return f"{shard}.tar", f"{shard}.{nth}"

    def collate(self, samples: Sequence[Sample]) -> AudioBatch:
        codes = torch.tensor(np.stack([sample.codes for sample in samples if sample.codes is not None]))
        return AudioBatch([sample.key for sample in samples], 8000, [{}] * len(samples), codes=codes)


def plain() -> tuple[Source, Order]:
    source = Numbers([1, 100, 3, 0, 41, 7], bad=[(1, 5), (4, 40)])
    return source, StreamOrder(source.counts, seed=4, window=2)


def mixed() -> tuple[Source, Order]:
    sources: dict[str, Source] = {
        "a": Numbers([5, 30, 0, 2], bad=[(1, 1)]),
        "b": Numbers([11]),
        "c": Numbers([90, 1]),
    }
    orders = {name: StreamOrder(source.counts, seed=i) for i, (name, source) in enumerate(sources.items())}
    return MixtureSource(sources), MixtureOrder(orders, {"a": 2.5, "b": 0.1, "c": 1}, seed=4, block=32)


def loader(
    made: tuple[Source, Order], folder: Path, rank: int = 0, world: int = 1, **settings: int
) -> StreamLoader:
    journal = Journal(folder, audit=True, max_bad_ratio=1.0, rank=rank)
    return StreamLoader(
        StreamDataset(*made),
        journal,
        batch_size=BATCH,
        num_batches=3,
        rank=rank,
        world_size=world,
        **settings,
    )


def steps(
    made: tuple[Source, Order], folder: Path, world: int, **settings: int
) -> list[list[tuple[str, list[int]]]]:
    """The global batches: keys and draws."""
    shares = []
    for rank in range(world):
        one = loader(made, folder, rank, world, **settings)
        batches = islice((batch for _ in iter(int, 1) for batch in one), STEPS)
        shares.append([list(zip(b.keys, b.codes.flatten(1).tolist(), strict=True)) for b in batches])
        one.close()
    return [[item for share in step for item in share] for step in zip(*shares, strict=True)]


@pytest.mark.filterwarnings("ignore:left out")
@pytest.mark.parametrize("make", [plain, mixed])
@pytest.mark.parametrize(
    ("world", "workers"),
    [(2, 0), (4, 0), (8, 0), (64, 0), (2, 2), (4, 2), (8, 2), pytest.param(64, 2, marks=pytest.mark.slow)],
)
def test_global_batches_are_the_same_on_any_number_of_ranks_and_workers(
    make: Callable[[], tuple[Source, Order]], world: int, workers: int, tmp_path: Path
) -> None:
    alone = steps(make(), tmp_path, 1)
    assert all(len(step) == BATCH for step in alone)
    assert steps(make(), tmp_path, world, num_workers=workers) == alone


@pytest.mark.filterwarnings("ignore:left out")
@pytest.mark.parametrize("workers", [1, 2, 8])
def test_workers_change_nothing(workers: int, tmp_path: Path) -> None:
    assert steps(mixed(), tmp_path, 1, num_workers=workers) == steps(mixed(), tmp_path, 1)


@pytest.mark.filterwarnings("ignore:left out")
def test_no_clip_twice_and_none_lost_over_kills_and_other_worlds(tmp_path: Path) -> None:
    """World sizes, workers and lives alternate; each life gives out steps that are lost when it is killed."""
    position, made = 0, mixed()
    for world, workers, kept, lost in (
        (1, 0, 3, 2),
        (4, 0, 2, 0),
        (2, 2, 1, 3),
        (64, 0, 2, 1),
        (8, 0, 4, 0),
        (1, 2, 3, 2),
    ):
        for rank in range(world):
            one = loader(made, tmp_path, rank, world, num_workers=workers)
            one.load_state_dict({**one.state_dict(), "position": position})
            stream = (batch for _ in iter(int, 1) for batch in one)
            for _ in islice(stream, kept):
                pass
            state = one.state_dict()
            for _ in islice(stream, lost):
                pass
            one.close()
        position = int(state["position"])
    audit = read_audit(tmp_path)
    assert position == 15 * BATCH
    assert set(range(position)) <= audit.keys.keys()
    sizes = {"a": 37, "b": 11, "c": 91}
    for name, size in sizes.items():
        own = [p for p in range(position) if audit.keys[p].startswith(f"{name}/")]
        for first in range(0, len(own) - size + 1, size):
            epoch = own[first : first + size]
            seen = Counter(audit.keys[p] for p in epoch if p not in audit.replaced)
            assert set(seen.values()) == {1}
            # Only the bad sample of "a" is missing, and something of "a" stands in its place.
            assert len(seen) == size - (name == "a")
            assert ("a/1.1" in seen) is False
    assert len([p for p in audit.replaced if p < position]) == sum(
        1 for p in range(position) if made[1](p)[1:] == (1, 1)
    )


def test_an_audit_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path, audit=True, max_bad_ratio=0, rank=0)
    journal.record([0, 1], ["a", "b"], [], training=True)
    with (tmp_path / "audit-rank0.jsonl").open("a") as file:
        file.write('{"positions": [2, 3], "ke')  # killed amid a line
    Journal(tmp_path, audit=True, max_bad_ratio=0, rank=0).record([1, 2], ["b", "c"], [], training=True)
    assert read_audit(tmp_path).keys == {0: "a", 1: "b", 2: "c"}
    Journal(tmp_path, audit=True, max_bad_ratio=0, rank=1).record([2], ["a"], [], training=True)
    with pytest.raises(ValueError, match="position 2 was c, then a"):
        read_audit(tmp_path)


@pytest.mark.filterwarnings("ignore:left out")
def test_a_bad_sample_is_named_once_in_all_lives_of_a_run(tmp_path: Path) -> None:
    for _ in range(2):
        one = loader(plain(), tmp_path)
        for _ in one:
            pass
    lines = (tmp_path / "quarantine-rank0.jsonl").read_text().splitlines()
    assert sorted(line.split('"key": ')[1][:6] for line in lines) == ['"1.5",', '"4.40"']


def test_the_bound_on_bad_samples_is_one_of_each_rank(tmp_path: Path) -> None:
    """2 of 152 samples are bad: too many for 1 %, on one rank as on four; and each rank comes to see it."""
    for world in (1, 4):
        for rank in range(world):
            source, order = plain()
            journal = Journal(tmp_path / f"{world}", audit=False, max_bad_ratio=0.01, rank=rank)
            one = StreamLoader(
                StreamDataset(source, order),
                journal,
                batch_size=BATCH,
                num_batches=400,
                rank=rank,
                world_size=world,
            )
            with (
                pytest.warns(UserWarning, match="left out"),
                pytest.raises(ValueError, match=r"more than 1\.00%"),
            ):
                for _ in one:
                    pass
            assert journal.num_seen < 3000


def test_another_order_is_not_resumed(tmp_path: Path) -> None:
    one = loader(mixed(), tmp_path)
    state = one.state_dict()
    assert all(isinstance(value, int | str) for value in state.values())
    source, order = mixed()
    assert isinstance(order, MixtureOrder)
    heavier = MixtureOrder(order.orders, {"a": 5, "b": 0.2, "c": 1}, seed=4, block=32)
    with pytest.raises(
        ValueError, match="cannot resume the stream: weights was a 25, b 1, c 10, now it is a 25, b 1, c 5"
    ):
        loader((source, heavier), tmp_path).load_state_dict(state)
    with pytest.raises(ValueError, match="cannot resume the stream: epoch_samples was 139"):
        loader(plain(), tmp_path).load_state_dict(state)


def test_draws_of_batches_are_never_those_of_samples(tmp_path: Path) -> None:
    """numpy makes the same generator of [1, 2, 3] and [1, 2, 3, 0]: a batch of 3 would draw what a sample's third
    stand-in draws.
    """
    drawn: list[float] = []

    def note(batch: AudioBatch, rng: np.random.Generator) -> AudioBatch:
        drawn.append(rng.random())
        return batch

    dataset = StreamDataset(*plain(), batch_transforms=[note])
    dataset.collate([dataset[position] for position in (7, 8, 9)])
    assert drawn != [np.random.default_rng([4, 7, 3]).random()]


def test_ranks_validate_in_equal_numbers_of_steps_on_odd_sizes(tmp_path: Path) -> None:
    source = Numbers([1, 7, 2, 3])
    dataset = StreamDataset(source, StreamOrder(source.counts, seed=0, shuffle=False))
    shares = []
    for rank in range(5):
        journal = Journal(tmp_path, audit=False, max_bad_ratio=0, rank=rank)
        shares.append([b.keys for b in EvalLoader(dataset, journal, batch_size=10, rank=rank, world_size=5)])
    assert {len(share) for share in shares} == {2}
    seen = Counter(key for share in shares for keys in share for key in keys)
    assert len(seen) == 13
    assert sum(seen.values()) <= 13 + 4
