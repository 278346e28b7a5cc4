from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from datamodules.order import StreamOrder
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
