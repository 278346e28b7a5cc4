"""Shards that somebody made to do harm: each attack is refused by name, and training goes on without it."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.audio import AudioDataModule
from datamodules.index import DatasetIndex, open_split
from datamodules.shards import ShardReader
from lightning_audio import audio
from sharding.schema import ShardIndex, ShardInfo, parse_codes
from sharding.writing.shard import ShardWriter
from sharding.writing.write import describe

RATE = 8000


@pytest.fixture
def dataset(audio_shards: Path, tmp_path: Path) -> Path:
    shutil.copytree(audio_shards, tmp_path / "shards")
    return tmp_path / "shards"


def forge_flac(*, total: int | None = None, channels: int | None = None) -> bytes:
    """A second of noise whose header lies: at byte 18, 20 bits of rate, 3 of channels, 5 of depth, 36 of length."""
    data = bytearray(audio.encode(torch.rand(1, RATE) - 0.5, RATE))
    value = int.from_bytes(data[18:26], "big")
    if total is not None:
        value = value >> 36 << 36 | total
    if channels is not None:
        value = value & ~(7 << 41) | (channels - 1) << 41
    data[18:26] = value.to_bytes(8, "big")
    return bytes(data)


def forge_wav(place: int, form: str, value: int) -> bytes:
    data = bytearray(audio.encode(torch.rand(1, RATE) - 0.5, RATE, suffix=".wav"))
    struct.pack_into(form, data, place, value)
    return bytes(data)


def nan_wav() -> bytes:
    data = audio.encode(torch.rand(1, RATE) - 0.5, RATE, suffix=".wav", subtype="FLOAT")
    return data[: data.index(b"data") + 8] + b"\xff\xff\xff\x7f" * RATE


AUDIO = {
    "flac-channels": ("flac", forge_flac(channels=8)),
    "flac-length": ("flac", forge_flac(total=(1 << 36) - 1)),
    "flac-both": ("flac", forge_flac(total=(1 << 27) - 1, channels=8)),
    "wav-no-channels": ("wav", forge_wav(22, "<H", 0)),
    "wav-channels": ("wav", forge_wav(22, "<H", 65535)),
    "wav-no-rate": ("wav", forge_wav(24, "<I", 0)),
    "wav-rate": ("wav", forge_wav(24, "<I", 0xFFFFFFFF)),
    "wav-slow": ("wav", forge_wav(24, "<I", 1)),
    "wav-nan": ("wav", nan_wav()),
    "pickle": ("flac", pickle.dumps(print)),
    "text": ("flac", b"#!/bin/sh\necho harm"),
}
ATTRIBUTES = {
    "nested": b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "digits": b'{"a": ' + b"9" * 100_000 + b"}",
    "list": b"[1]",
    "long": b'{"a": "' + b"x" * (5 << 20) + b'"}',
    "no-text": b"\xff\xff\xff",
}


def test_training_goes_on_without_hostile_samples_and_names_each(tmp_path: Path) -> None:
    (tmp_path / "shards/train").mkdir(parents=True)
    good = audio.encode(torch.rand(1, RATE) - 0.5, RATE)
    with ShardWriter(tmp_path / "shards/train/000000.tar") as writer:
        for key, (part, data) in AUDIO.items():
            writer.add(key, {part: data, "json": b"{}"}, RATE, RATE, 1)
        for key, data in ATTRIBUTES.items():
            writer.add(key, {"flac": good, "json": data}, RATE, RATE, 1)
        writer.add("none", {"json": b"{}"}, RATE, RATE, 1)
        for number in range(4):
            writer.add(f"good{number}", {"flac": good, "json": b"{}"}, RATE, RATE, 1)
    describe([writer.path], [writer.finish([])])
    module = AudioDataModule(
        tmp_path / "shards",
        sample_rate=RATE,
        segment_duration=0.1,
        batch_size=5,
        max_bad_ratio=1.0,
        log_folder=tmp_path,
        audit=True,
    )
    module.setup("fit")
    tracemalloc.start()
    try:
        with pytest.warns(UserWarning, match="left out"):
            batches = list(islice((batch for _ in range(9) for batch in module.train_dataloader()), 9))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    lines = [json.loads(line) for line in (tmp_path / "quarantine-rank0.jsonl").read_text().splitlines()]
    used = {key for batch in batches for key in batch.keys}
    # What lies of its length alone may be read where its sound is true.
    harmless = {"flac-length"}
    assert {line["key"] for line in lines} - harmless == {*AUDIO, *ATTRIBUTES, "none"} - harmless
    assert {line["shard"] for line in lines} == {"000000.tar"}
    assert used - harmless == {f"good{number}" for number in range(4)}
    assert peak < 64 << 20


SPANS = [
    (-1, 10),
    (1 << 40, 10),
    ((1 << 63) - 1, 10),
    (-(1 << 63), 10),
    (0, 1 << 31),
    (0, (1 << 63) - 1),
    (512, 1 << 30),
]


@pytest.mark.parametrize(("offset", "size"), SPANS)
def test_spans_that_leave_the_tar_are_refused(offset: int, size: int, dataset: Path) -> None:
    folder = DatasetIndex(dataset / "train")
    index, shard = folder.shard(0), folder.info.shards[0]
    for table in index.parts.values():
        table[1] = [offset, size]
    reader = ShardReader(dataset / "train")
    for read in (reader.read, reader.open):
        with pytest.raises(ValueError, match=r"\.flac (lies at|has)"):
            read(shard, index, 1, "flac")
    with pytest.raises(ValueError, match=r"\.json (lies at|has)|attributes have"):
        reader.attributes(shard, index, 1)
    assert reader.read(shard, index, 0, "flac")  # its neighbour is as good as before
    reader.close()


def edited(**changes: object) -> Callable[[dict[str, object]], dict[str, object]]:
    return lambda values: {**values, **changes}


INDEXES: dict[str, Callable[[dict[str, object]], object]] = {
    "a list": lambda values: [values],
    "no keys": lambda values: {name: value for name, value in values.items() if name != "keys"},
    "one key": edited(keys=["a"]),
    "spans too large": edited(parts={"flac": [[1 << 63, 1]] * 4}),
    "spans of floats": edited(parts={"flac": [["x", 1]] * 4}),
    "spans of three": edited(parts={"flac": [[1, 2, 3]] * 4}),
    "spans ragged": edited(parts={"flac": [[1, 2], [3]]}),
    "parts a list": edited(parts=[]),
    "negative length": edited(num_samples=[-1] * 4),
    "no rate": edited(sample_rates=[0] * 4),
    "lengths nested": edited(num_samples=[[1, 2], [3, 4]] * 4),
    "channels missing": edited(channels=None),
}


@pytest.mark.parametrize("name", INDEXES)
def test_a_hostile_index_is_refused_by_its_name(name: str, dataset: Path) -> None:
    path = dataset / "train/000000.index.json"
    path.write_text(json.dumps(INDEXES[name](json.loads(path.read_text()))))
    index = DatasetIndex(dataset / "train")
    with pytest.raises(ValueError, match=r"000000\.(index\.json|tar)"):
        index.shard(0)
    assert len(index.shard(1)) == 4


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "\x00", '{"a":' * 50_000, "[" * 100_000, '{"keys": ' + "9" * 100_000 + "}", "nul"]
)
@pytest.mark.parametrize("file", ["000000.index.json", "dataset.json"])
def test_what_is_no_json_is_refused_by_its_name(file: str, text: str, dataset: Path) -> None:
    (dataset / "train" / file).write_text(text)
    with pytest.raises(ValueError, match=file):
        open_split(dataset, "train").shard(0)


@pytest.mark.parametrize("name", ["../000000.tar", "/etc/passwd", "a/b.tar", "..", "x.tar\0", "\u202e.tar"])
def test_a_shard_never_leaves_its_folder(name: str, dataset: Path) -> None:
    path = dataset / "train/dataset.json"
    values = json.loads(path.read_text())
    values["shards"][0]["name"] = name
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="no name for a shard"):
        open_split(dataset, "train")


def test_an_index_larger_than_any_is_not_read(dataset: Path) -> None:
    with (dataset / "train/000000.index.json").open("wb") as file:
        file.truncate(1 << 40)  # a hole, that takes no room
    with pytest.raises(ValueError, match=f"{1 << 40} bytes, more than"):
        ShardIndex.load(dataset / "train/000000.index.json")


def test_only_plain_codes_come_out_of_a_shard(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "harmed",))

    def npy(array: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=True)
        return buffer.getvalue()

    codes = np.zeros((2, 3), np.uint16)
    hostile = {
        "pickled": pickle.dumps(Harm()),
        "object": npy(np.array([[Harm()]], object)),
        "dtype": npy(codes.astype(np.int64)),
        "structured": npy(np.zeros(3, [("a", "<u2")])),
        "header": b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + b" " * 1000,
        "shape": npy(codes).replace(b"(2, 3)", b"(9999, 999999999)", 1),
        "code": npy(codes).replace(b"(2, 3)", b"(exit(), )", 1),
        "zip": b"PK\x03\x04" + npy(codes),
    }
    with ShardWriter(tmp_path / "000000.tar") as writer:
        for key, data in hostile.items():
            writer.add(key, {"codes.npy": data}, 1, RATE, 1)
    info = writer.finish([]).info
    assert isinstance(info, ShardInfo)
    index = ShardIndex.load(tmp_path / "000000.index.json")
    reader = ShardReader(tmp_path)
    for sample in range(len(index)):
        with pytest.raises(ValueError, match="codes"):
            parse_codes(reader.read(info, index, sample, "codes.npy"))
    reader.close()
    assert not (tmp_path / "harmed").exists()
