"""What a dataset says of itself, and what it may not claim."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sharding.schema import (
    DURATIONS_FILE,
    CodesInfo,
    DatasetInfo,
    ShardIndex,
    ShardInfo,
    index_path,
    parse_durations,
)

NUM = 5


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """A split of two shards, without their tars."""
    shards = []
    for number, rate in enumerate((8000, 44100)):
        spans = np.tile([512, 100], (NUM, 1))
        lengths = np.arange(NUM) * 12345 + 4
        index = ShardIndex(
            [f"{number}-{i}" for i in range(NUM)],
            {"flac": spans, "json": spans},
            lengths,
            np.full(NUM, rate),
            np.ones(NUM, np.int64),
        )
        index.save(index_path(tmp_path / f"{number}.tar"))
        shards.append(
            ShardInfo(
                name=f"{number}.tar",
                num_samples=NUM,
                num_bytes=10240,
                sha256="0" * 64,
                index_sha256=f"{number}" * 64,
                duration=float(index.durations.sum()),
            )
        )
    codes = CodesInfo(codec_hash="h", frame_rate=50.0, num_codebooks=4, cardinality=1024)
    DatasetInfo(
        split="train",
        shards=tuple(shards),
        sample_rates={8000: NUM, 44100: NUM},
        channels={1: 10},
        codes=codes,
    ).save(tmp_path)
    return tmp_path


def test_durations_are_kept_beside_the_description(split: Path) -> None:
    info = DatasetInfo.load(split)
    data = (split / DURATIONS_FILE).read_bytes()
    found = parse_durations(data, info)
    assert found is not None
    wanted = [1000 * (12345 * i + 4) / rate for rate in (8000, 44100) for i in range(NUM)]
    assert np.abs(found - wanted).max() <= 0.5
    assert [ShardIndex.load(split / f"{n}.index.json").milliseconds.tolist() for n in (0, 1)] == [
        found[:NUM].tolist(),
        found[NUM:].tolist(),
    ]


def test_durations_of_other_shards_are_told_apart(split: Path) -> None:
    info, data = DatasetInfo.load(split), (split / DURATIONS_FILE).read_bytes()
    assert parse_durations(data[:-4], info) is None
    assert parse_durations(b"", info) is None
    values = json.loads((split / "dataset.json").read_text())
    values["shards"][1]["index_sha256"] = "f" * 64
    assert parse_durations(data, DatasetInfo.parse(json.dumps(values).encode(), "x")) is None


def test_a_day_of_weeks_is_not_more_than_fits(split: Path) -> None:
    index = ShardIndex.load(split / "0.index.json")
    index.num_samples[0] = 1 << 62
    assert index.milliseconds[0] == (1 << 32) - 1


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("shards", 0, "num_samples"), -1),
        (("shards", 0, "num_samples"), 1 << 40),
        (("shards", 0, "num_samples"), None),
        (("shards", 0, "num_samples"), True),
        (("shards", 0, "num_samples"), 1.5),
        (("shards", 0, "num_bytes"), "many"),
        (("shards", 0, "duration"), float("nan")),
        (("shards", 0, "duration"), float("inf")),
        (("shards", 0, "name"), "../x.tar"),
        (("shards", 0, "name"), 7),
        (("shards", 0), []),
        (("shards",), 3),
        (("sample_rates",), {}),
        (("sample_rates",), {"0": 10}),
        (("sample_rates",), {"x": 10}),
        (("channels",), []),
        (("codes", "frame_rate"), "fast"),
        (("codes", "frame_rate"), 0),
        (("codes", "num_codebooks"), 0),
        (("codes", "cardinality"), 1 << 20),
        (("codes",), [1]),
        (("more",), 1),
    ],
)
def test_claims_that_cannot_be_are_refused(split: Path, where: tuple[Any, ...], value: Any) -> None:
    values = json.loads((split / "dataset.json").read_text())
    inner = values
    for step in where[:-1]:
        inner = inner[step]
    inner[where[-1]] = value
    with pytest.raises(ValueError):
        DatasetInfo.parse(json.dumps(values).encode(), "dataset.json")
