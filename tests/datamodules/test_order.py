from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from datamodules.order import MixtureOrder, Place, StreamOrder
from datamodules.resume import rank_batch_size

COUNTS = np.array([5, 0, 7, 1, 12, 3])


@pytest.mark.parametrize("window", [1, 2, 3, 16])
@pytest.mark.parametrize("shuffle", [True, False])
def test_each_epoch_holds_every_sample_once(window: int, shuffle: bool) -> None:
    order = StreamOrder(COUNTS, seed=3, shuffle=shuffle, window=window)
    everything = Counter((shard, nth) for shard, count in enumerate(COUNTS) for nth in range(count))
    epochs = []
    for epoch in range(3):
        places = [order(epoch * 28 + offset) for offset in range(28)]
        assert {place.epoch for place in places} == {epoch}
        assert Counter((place.shard, place.nth) for place in places) == everything
        epochs.append([(place.shard, place.nth) for place in places])
    assert (epochs[0] == epochs[1]) != shuffle
    assert shuffle or epochs[0] == sorted(epochs[0])


def test_order_depends_on_seed_and_position_alone() -> None:
    forward = [StreamOrder(COUNTS, seed=1, window=2)(position) for position in range(90)]
    one = StreamOrder(COUNTS, seed=1, window=2)
    backward = [one(position) for position in reversed(range(90))]
    assert forward == backward[::-1]
    assert forward != [StreamOrder(COUNTS, seed=2, window=2)(position) for position in range(90)]


def test_few_shards_are_read_side_by_side() -> None:
    order = StreamOrder(np.full(100, 10), seed=0, window=4)
    for start in range(0, 1000, 40):
        assert len({order(position).shard for position in range(start, start + 40)}) == 4


def test_the_end_of_a_long_epoch_is_reached_at_once() -> None:
    order = StreamOrder(np.full(1000, 100), seed=0)
    assert order(99_999).epoch == 0
    assert order(10**9).epoch == 10_000


def test_what_cannot_be_ordered_or_divided() -> None:
    with pytest.raises(ValueError, match="no samples"):
        StreamOrder(np.zeros(3), seed=0)
    with pytest.raises(ValueError, match="-1"):
        StreamOrder(COUNTS, seed=-1)
    with pytest.raises(ValueError, match=r"global batch of 12 cannot be divided evenly by 4 ranks x 2"):
        rank_batch_size(12, 4, 2)
    assert rank_batch_size(16, 4, 2) == 2


def mixture(**settings: Any) -> MixtureOrder:
    orders = {"a": StreamOrder(COUNTS, seed=1, window=2), "b": StreamOrder(np.array([3, 4]), seed=2)}
    return MixtureOrder(orders, **{"weights": {"a": 3, "b": 1}, "seed": 0, "block": 8, **settings})


def test_whole_shares_are_exact_in_every_block() -> None:
    order = mixture()
    patterns = set()
    for block in range(50):
        shards = [order(position).shard for position in range(8 * block, 8 * block + 8)]
        assert sum(shard < len(COUNTS) for shard in shards) == 6
        patterns.add(tuple(shard < len(COUNTS) for shard in shards))
    assert len(patterns) > 10  # which of the eight they are is chance


@pytest.mark.parametrize("weights", [(3, 1), (0.1, 2.7), (1e-3, 1), (17.123, 20000.5)])
def test_each_stream_goes_through_its_own_epochs(weights: tuple[float, float]) -> None:
    order = mixture(weights=dict(zip("ab", weights, strict=True)))
    share = weights[0] / sum(weights)
    taken: list[list[Place]] = [[], []]
    for position in range(5000):
        place = order(position)
        stream = int(place.shard >= len(COUNTS))
        taken[stream].append(place._replace(shard=place.shard - stream * len(COUNTS)))
        if position % 8 == 7:
            assert abs(len(taken[0]) - share * (position + 1)) < 1
    for places, own in zip(taken, order.orders.values(), strict=True):
        assert places == [own(nth) for nth in range(len(places))]


def test_a_mixture_depends_on_seed_and_position_alone() -> None:
    forward = [mixture()(position) for position in range(200)]
    one = mixture()
    assert [one(position) for position in reversed(range(200))] == forward[::-1]
    assert [mixture(seed=1)(position) for position in range(200)] != forward
    assert mixture()(10**12).epoch > 10**9


def test_a_stand_in_is_of_the_same_dataset_and_epoch() -> None:
    order = mixture()
    rng = np.random.default_rng(0)
    others = set()
    for position in range(300, 400):
        place, other = order(position), order.another(position, rng)
        assert other.epoch == place.epoch
        assert (other.shard < len(COUNTS)) == (place.shard < len(COUNTS))
        others.add((other.shard, other.nth))
    assert len(others) > 20


def test_state_tells_orders_apart() -> None:
    assert mixture().state() == mixture(weights={"a": 6, "b": 2}).state()
    unlike = [mixture(seed=1), mixture(block=16), mixture(weights={"a": 2, "b": 1})]
    assert all(order.state() != mixture().state() for order in unlike)
    plain = StreamOrder(COUNTS, seed=0)
    assert plain.state() != StreamOrder(COUNTS[::-1], seed=0).state()
    assert plain.state() != StreamOrder(COUNTS, seed=0, window=2).state()


def test_mixtures_that_make_no_sense() -> None:
    for weights, says in (({"a": 1}, r"weights are of \['a'\]"), ({"a": 1, "b": 0}, "must be positive")):
        with pytest.raises(ValueError, match=says):
            mixture(weights=weights)
    with pytest.raises(ValueError, match="block at least 1, got 0 and 0"):
        mixture(block=0)
