from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_audio import audio
from sharding.check import check
from sharding.read import spans
from sharding.schema import DatasetInfo, ShardIndex, ShardInfo, parse_codes
from sharding.sources import find_clips
from sharding.write import file_hash, write_shards


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    for i in range(4):
        audio.write(tmp_path / f"in/{i}.wav", torch.rand(1, 1000) - 0.5, 16000)
    write_shards(find_clips(tmp_path / "in"), tmp_path / "out", fractions={"train": 1.0})
    return tmp_path / "out"


def flip_a_byte(folder: Path) -> None:
    data = bytearray((folder / "000000.tar").read_bytes())
    data[600] ^= 1
    (folder / "000000.tar").write_bytes(data)


def cut(folder: Path) -> None:
    data = (folder / "000000.tar").read_bytes()
    (folder / "000000.tar").write_bytes(data[: len(data) // 2])


def shift_the_index(folder: Path) -> None:
    path = folder / "000000.index.json"
    values = json.loads(path.read_text())
    values["parts"]["wav"][0][0] += 2
    path.write_text(json.dumps(values))


def edit_info(folder: Path, **changes: object) -> None:
    values = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**values, **changes}))


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (flip_a_byte, "another hash"),
        (cut, "bytes, dataset.json says"),
        (shift_the_index, "index is not that of the tar"),
        (lambda folder: (folder / "000000.tar").unlink(), "No such file"),
        (lambda folder: (folder / "000000.index.json").unlink(), "there is no|No such file"),
        (lambda folder: (folder / "000000.index.json").write_text("{}"), "no shard index|another hash"),
        (lambda folder: edit_info(folder, schema_version=9), "schema version 9, this program reads 1"),
        (lambda folder: edit_info(folder, shards=[{"name": "../up.tar"}]), "no dataset description"),
        (
            lambda folder: edit_info(folder, sample_rates={"16000": 3}),
            "sample rates count 3 samples, the shards 4",
        ),
        (lambda folder: (folder / "dataset.json").write_text("{"), "not JSON"),
    ],
)
def test_harm_is_found(dataset: Path, harm: Callable[[Path], None], says: str) -> None:
    assert check(dataset).ok
    harm(dataset / "train")
    report = check(dataset)
    assert not report.ok
    assert re.search(says, "\n".join(report.problems)), report.problems


def test_audio_that_does_not_decode_is_found_though_its_hash_is_right(dataset: Path) -> None:
    folder = dataset / "train"
    index = ShardIndex.load(folder / "000000.index.json")
    data = bytearray((folder / "000000.tar").read_bytes())
    offset = int(index.parts["wav"][2, 0])
    data[offset : offset + 4] = b"JUNK"
    (folder / "000000.tar").write_bytes(data)
    values = json.loads((folder / "dataset.json").read_text())
    values["shards"][0]["sha256"] = file_hash(folder / "000000.tar")
    edit_info(folder, **values)
    report = check(dataset)
    assert len(report.problems) == 1
    assert index.keys[2] in report.problems[0]
    assert check(dataset, decode=False).ok
    assert report.lines()[0].startswith("train: 4 samples in 1 shards")
    assert report.lines()[-1] == "1 problems"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../up.wav", tarfile.REGTYPE),
        ("/abs.wav", tarfile.REGTYPE),
        ("a.wav", tarfile.SYMTYPE),
        ("plain", tarfile.REGTYPE),
    ],
)
def test_hostile_members_are_refused_by_name(name: str, kind: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member, io.BytesIO())
    with pytest.raises(ValueError, match=name):
        spans(tmp_path / "x.tar")


def npy(array: object, **options: bool) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(array), **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def test_only_plain_codes_are_read() -> None:
    codes = np.arange(12, dtype=np.uint16).reshape(3, 4)
    assert np.array_equal(parse_codes(npy(codes), num_codebooks=3, cardinality=12), codes)
    unlike = (
        npy([[{"a": 1}]], allow_pickle=True),
        npy(codes.astype(np.int64)),
        npy(codes.astype(">u2")),
        npy(codes[0]),
        npy(np.asfortranarray(codes)),
        npy(codes).replace(b"(3, 4)", b"(9**9,)"),
        npy(codes).replace(b"\x01\x00", b"\x02\x00", 1),
        b"\x93NUMPY\x01\x00\xff\xff" + b" " * 0xFFFF,
        b"",
        b"junk" * 100,
    )
    for data in unlike:
        with pytest.raises(ValueError, match=r"no \.npy of uint16"):
            parse_codes(data)
    for data, size in ((npy(codes)[:-1], 24), (npy(codes).replace(b"(3, 4)", b"(3, 9)"), 54)):
        with pytest.raises(ValueError, match=f"should have {size} bytes"):
            parse_codes(data)
    for shape in ((1, 1), (4, 1500), (64, 123456)):
        assert parse_codes(npy(np.ones(shape, np.uint16))).shape == shape
    with pytest.raises(ValueError, match="3 codebooks, the dataset says 4"):
        parse_codes(npy(codes), num_codebooks=4)
    with pytest.raises(ValueError, match="a code is 11, the codec has 11"):
        parse_codes(npy(codes), cardinality=11)


@pytest.mark.parametrize("name", ["../a.tar", "/a.tar", "a/b.tar", ".tar", "a.sh", ".a.tar", "a.tar\n"])
def test_a_shard_name_is_never_a_path(name: str) -> None:
    with pytest.raises(ValueError, match="no name for a shard"):
        ShardInfo(name=name, num_samples=1, num_bytes=1, sha256="", index_sha256="", duration=1.0)


def test_dataset_description_survives(dataset: Path, tmp_path: Path) -> None:
    info = DatasetInfo.load(dataset / "train")
    info.save(tmp_path)
    assert DatasetInfo.load(tmp_path) == info
