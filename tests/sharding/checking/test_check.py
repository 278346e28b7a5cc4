from __future__ import annotations

import io
import json
import re
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_audio import audio
from sharding.checking.check import GROUPS, CheckReport, check
from sharding.checking.repair import repair
from sharding.schema import CodesInfo, DatasetInfo, ShardIndex, ShardInfo, parse_codes
from sharding.sources import find_clips
from sharding.writing.shard import file_hash
from sharding.writing.write import write_shards

MakeDataset = Callable[..., Path]
MakeSample = Callable[..., tuple[str, dict[str, bytes]]]
CODES = CodesInfo(codec_hash="abc", frame_rate=100.0, num_codebooks=2, cardinality=64)


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
        (lambda folder: (folder / "000000.tar").unlink(), "there is no file"),
        (lambda folder: (folder / "000000.index.json").unlink(), "there is no|No such file"),
        (lambda folder: (folder / "000000.index.json").write_text("{}"), "no shard index|another hash"),
        (lambda folder: edit_info(folder, schema_version=9), "schema version 9, this program reads 1"),
        (lambda folder: edit_info(folder, shards=[{"name": "../up.tar"}]), "no dataset description"),
        (
            lambda folder: edit_info(folder, sample_rates={"16000": 3}),
            "sample rates in dataset.json count 16000: 3, the indexes 16000: 4",
        ),
        (lambda folder: (folder / "dataset.json").write_text("{"), "not JSON"),
    ],
)
def test_harm_is_found(dataset: Path, harm: Callable[[Path], None], says: str) -> None:
    assert check(dataset).ok
    harm(dataset / "train")
    report = check(dataset)
    assert not report.ok
    assert re.search(says, "\n".join(map(str, report.problems))), report.problems


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
    assert report.problems[0].key == index.keys[2]
    assert report.problems[0].sample == 2
    assert check(dataset, decode=False).ok
    assert report.lines()[0].startswith("train: 4 samples in 1 shards")
    assert report.lines()[-1] == "1 problems"


def reasons(report: CheckReport) -> list[str]:
    return [str(problem) for problem in report.problems]


def test_every_part_of_a_sample_is_looked_at(make_dataset: MakeDataset, audio_sample: MakeSample) -> None:
    _, parts = audio_sample(0)
    broken = {
        "flac": (parts["flac"][:200], "flac: "),
        "melody.flac": (b"junk", r"melody\.flac: .*no audio that can be read"),
        "json": (b'{"bpm": NaN}', "json: attributes are no JSON: NaN is no number"),
        "codes.npy": (b"junk", r"codes\.npy: is no \.npy of numbers"),
    }
    sound = {**parts, "melody.flac": parts["flac"], "txt": b"anything"}
    samples = [
        ("sound", sound),
        *((part.replace(".", "_"), {**sound, part: data}) for part, (data, _) in broken.items()),
    ]
    report = check(make_dataset({"train": [samples]}))
    assert report.parts == {"flac": 5, "melody.flac": 5, "json": 5, "txt": 5, "codes.npy": 1}
    found = {problem.key: problem for problem in report.problems}
    assert len(report.problems) == len(found) == len(broken)
    for place, (part, (_, says)) in enumerate(broken.items(), start=1):
        problem = found[part.replace(".", "_")]
        assert re.search(says, problem.reason), problem
        assert (problem.split, problem.shard, problem.sample) == ("train", "000000.tar", place)


def test_missing_parts_are_found(make_dataset: MakeDataset, audio_sample: MakeSample) -> None:
    _, parts = audio_sample(0)
    samples = [("a", {"flac": parts["flac"]}), ("b", {"json": parts["json"]})]
    found = reasons(check(make_dataset({"train": [samples]})))
    assert found == ["train/000000.tar: a: has no attributes", "train/000000.tar: b: has no audio"]


def test_codes_are_held_against_the_codec_and_the_duration(
    make_dataset: MakeDataset, code_sample: MakeSample
) -> None:
    (_, good), codes = code_sample(0), np.zeros((2, 10), np.uint16)
    bad = {
        "range": (codes + 64, "a code is 64, the codec has 64"),
        "codebooks": (codes[:1], "codes have 1 codebooks, the dataset says 2"),
        "frames": (
            np.zeros((2, 15), np.uint16),
            "15 frames of codes, for the index's duration there should be 10.0",
        ),
    }
    samples = [
        ("good", good),
        *((name, {**good, "codes.npy": npy(array)}) for name, (array, _) in bad.items()),
    ]
    samples.append(("none", {"json": good["json"], "flac": b"x"}))
    report = check(make_dataset({"train": [samples]}, CODES))
    found: dict[str | None, str] = {}
    for problem in report.problems:
        found[problem.key] = f"{found.get(problem.key, '')} {problem.reason}"
    assert found.keys() == {*bad, "none"}
    for name, (_, says) in bad.items():
        assert says in found[name]
    assert "has no codes" in found["none"]


def test_all_crops_are_there_and_say_where_they_begin(
    make_dataset: MakeDataset, code_sample: MakeSample
) -> None:
    def sample(key: str, seed: int, **extra: object) -> tuple[str, dict[str, bytes]]:
        _, parts = code_sample(seed, **{"codes_offsets": [0, 33], **extra})
        return key, {**parts, "codes.1.npy": parts["codes.npy"]}

    absent = sample("absent", 1)
    del absent[1]["codes.1.npy"]
    broken = sample("broken", 2)
    broken[1]["codes.1.npy"] = npy(np.full((2, 9), 64, np.uint16))
    samples = [
        sample("good", 0),
        absent,
        broken,
        *(
            sample(f"offsets{i}", 3 + i, codes_offsets=bad)
            for i, bad in enumerate(([0], "x", [0, -1], [0, 1.5]))
        ),
    ]
    report = check(make_dataset({"train": [samples]}, replace(CODES, crops=2)))
    found = {problem.key: problem.reason for problem in report.problems}
    assert len(found) == len(report.problems) == 6
    assert found["absent"] == "has no .codes.1.npy, the dataset says 2 crops"
    assert found["broken"] == ".codes.1.npy: a code is 64, the codec has 64"
    assert found["offsets0"] == ".json: codes_offsets are [0], the dataset says 2 crops"


def test_features_are_what_the_dataset_says(make_dataset: MakeDataset, audio_sample: MakeSample) -> None:
    _, parts = audio_sample(0)
    features = np.ones((3, 4), np.float16)
    samples = {
        "good": {"t5.npy": npy(features), "t5.1.npy": npy(features), "mine.npy": npy(np.zeros(3, np.int8))},
        "wide": {"t5.npy": npy(features[:, :3])},
        "nan": {"t5.1.npy": npy(features * np.nan)},
        "dtype": {"t5.npy": npy(features.astype(np.float64))},
        "pickled": {"mine.npy": npy(np.array([{}], object), allow_pickle=True)},
    }
    dataset = make_dataset({"train": [[(key, {**parts, **more}) for key, more in samples.items()]]})
    about = {"attribute": "description", "encoder": "t5", "encoder_hash": "", "dim": 4, "dtype": "<f2"}
    edit_info(dataset / "train", features={"t5": about})
    says = {
        "wide": ".t5.npy: t5 is 3 wide, the dataset says 4",
        "nan": ".t5.1.npy: t5 has NaN or infinite values",
        "dtype": ".t5.npy: t5 are no .npy of float16",
        "pickled": ".mine.npy: is no .npy of numbers",
    }
    found = {problem.key: problem.reason for problem in check(dataset).problems}
    assert found.keys() == says.keys()
    for key, text in says.items():
        assert found[key].startswith(text), found[key]


def test_the_summary_of_durations_is_held_against_the_indexes(dataset: Path) -> None:
    path = dataset / "train/durations.bin"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert reasons(check(dataset)) == ["train: durations.bin has other durations than the indexes"]
    path.write_bytes(b"x" * len(data))
    assert reasons(check(dataset)) == ["train: durations.bin is not of these shards"]
    assert repair(dataset).after.ok
    path.unlink()
    assert check(dataset).ok


def test_the_index_must_say_what_the_audio_is(make_dataset: MakeDataset, audio_sample: MakeSample) -> None:
    stereo = audio.encode(torch.zeros(2, 800), 8000)
    shorter = audio.encode(torch.zeros(1, 700), 8000)
    samples = [
        (name, {**audio_sample(i)[1], "flac": data})
        for i, (name, data) in enumerate((("two", stereo), ("short", shorter)))
    ]
    found = reasons(check(make_dataset({"train": [samples]})))
    assert [text.partition("two: ")[2] or text.partition("short: ")[2] for text in found] == [
        "800 samples at 8000 Hz, 2 ch; the index says 800 at 8000 Hz, 1 ch",
        "700 samples at 8000 Hz, 1 ch; the index says 800 at 8000 Hz, 1 ch",
    ]


def test_what_is_in_two_splits_leaks(make_dataset: MakeDataset, audio_sample: MakeSample) -> None:
    splits = {
        "train": [
            [audio_sample(0), audio_sample(1, source="long.flac", artist="Ann")],
            [audio_sample(2, artist="Bea"), audio_sample(3, key="copy"), audio_sample(4, source="alone")],
        ],
        "test": [
            [audio_sample(3, key="same", source="other.flac"), audio_sample(5, source="long.flac")],
            [audio_sample(6, artist="Ann"), audio_sample(7, artist="Cem")],
        ],
    }
    dataset = make_dataset(splits)
    train = "train/000000.tar: clip1"
    leaks = [
        "train/000001.tar: copy: the same audio are in another split, test/000000.tar: same",
        f"{train}: its source is also in another split, test/000000.tar: clip5",
    ]
    assert reasons(check(dataset)) == leaks
    by_artist = check(dataset, groups=(*GROUPS, "artist"))
    assert reasons(by_artist) == [
        *leaks,
        f"{train}: its artist is also in another split, test/000001.tar: clip6",
    ]
    assert {problem.also_in for problem in by_artist.problems} == {
        f"test/00000{place}" for place in ("0.tar: same", "0.tar: clip5", "1.tar: clip6")
    }
    assert reasons(check(dataset, decode=False)) == leaks


def test_what_is_there_twice_in_a_split_is_a_note_but_a_key_is_a_problem(
    make_dataset: MakeDataset, audio_sample: MakeSample
) -> None:
    shards = [
        [audio_sample(0), audio_sample(1)],
        [audio_sample(0, key="again"), audio_sample(2, key="clip1")],
    ]
    dataset = make_dataset({"train": shards, "valid": [[audio_sample(9, key="clip0")]]})
    (dataset / "train/000009.tar").write_bytes(b"")
    report = check(dataset)
    assert reasons(report) == ["train/000001.tar: clip1: its key is also that of train/000000.tar: clip1"]
    assert [str(note) for note in report.notes] == [
        "train/000009.tar: is in the folder but not in dataset.json",
        "train/000001.tar: again: the same audio as train/000000.tar: clip0",
    ]


def test_durations_of_dataset_and_index_agree(dataset: Path) -> None:
    values = json.loads((dataset / "train/dataset.json").read_text())
    values["shards"][0]["duration"] += 1
    edit_info(dataset / "train", **values)
    assert reasons(check(dataset)) == [
        "train/000000.tar: 0.250 s of audio by its index, dataset.json says 1.250 s"
    ]


@pytest.mark.slow
def test_workers_change_nothing_and_machines_can_read_it(
    make_dataset: MakeDataset, audio_sample: MakeSample
) -> None:
    samples = [audio_sample(seed) for seed in range(6)]
    samples[4] = ("broken", {**samples[4][1], "flac": b"junk"})
    dataset = make_dataset({"train": [samples[:3], samples[3:5]], "test": [samples[5:]]})
    values = check(dataset).values()
    assert json.loads(json.dumps(check(dataset, workers=2).values())) == json.loads(json.dumps(values))
    assert values["sound"] is False
    assert values["splits"]["train"]["num_samples"] == 5
    assert [(p["shard"], p["key"]) for p in values["problems"]] == [("000001.tar", "broken")]


def test_a_long_part_is_never_whole_in_memory(make_dataset: MakeDataset, audio_sample: MakeSample) -> None:
    key, parts = audio_sample(0, suffix=".wav")
    wav = audio.encode(torch.zeros(1, 16_000_000), 8000, suffix=".wav")  # 32 MB
    dataset = make_dataset({"train": [[(key, {**parts, "wav": wav})]]})
    tracemalloc.start()
    try:
        report = check(dataset)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "16000000 samples at 8000 Hz" in reasons(report)[0]
    assert peak < len(wav) / 4


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
