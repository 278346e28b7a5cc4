"""Repair: what is broken goes, what is sound stays byte for byte, and a repair that is killed can be done again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sharding.checking.check import check
from sharding.checking.repair import QUARANTINE_FILE, repair
from sharding.read import spans
from sharding.schema import CodesInfo, DatasetInfo, ShardIndex
from sharding.writing.shard import file_hash

MakeDataset = Callable[..., Path]
MakeSample = Callable[..., tuple[str, dict[str, bytes]]]
CODES = CodesInfo(codec_hash="abc", frame_rate=100.0, num_codebooks=2, cardinality=64)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def quarantine(folder: Path) -> list[tuple[str, str | None, str]]:
    lines = (folder / QUARANTINE_FILE).read_text().splitlines()
    return [tuple(json.loads(line).values()) for line in lines]  # type: ignore[misc]


def keys(folder: Path) -> list[str]:
    return [key for shard in DatasetInfo.load(folder).shards for key in spans(folder / shard.name)[0]]


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.fixture
def dataset(make_dataset: MakeDataset, audio_sample: MakeSample) -> Path:
    """train: clips 0 to 2, 3 to 5 and 6 to 8;  valid: clip 9."""
    train = [[audio_sample(seed) for seed in range(start, start + 3)] for start in (0, 3, 6)]
    return make_dataset({"train": train, "valid": [[audio_sample(9)]]})


def test_a_sound_dataset_is_left_alone(dataset: Path) -> None:
    before = tree(dataset)
    report = repair(dataset)
    assert (report.dropped, report.changed, report.after.ok) == ([], [], True)
    assert tree(dataset) == before


def test_a_broken_sample_is_dropped_and_named(dataset: Path) -> None:
    before = tree(dataset)
    folder = dataset / "train"
    offset, _ = ShardIndex.load(folder / "000001.index.json").parts["flac"][1].tolist()
    overwrite(folder / "000001.tar", offset, b"JUNK")
    report = repair(dataset)
    assert report.after.ok, report.after.problems
    assert check(dataset).ok
    assert keys(folder) == ["clip0", "clip1", "clip2", "clip3", "clip5", "clip6", "clip7", "clip8"]
    ((shard, key, reason),) = quarantine(folder)
    assert (shard, key) == ("000001.tar", "clip4")
    assert reason.startswith(".flac: ")
    assert report.changed == [
        "train/000001.tar",
        "train/000001.index.json",
        "train/durations.bin",
        "train/dataset.json",
    ]
    after = tree(dataset)
    assert {name for name in before if after[name] != before[name]} == set(report.changed)
    assert after.keys() - before.keys() == {f"train/{QUARANTINE_FILE}"}
    info = DatasetInfo.load(folder)
    assert info.num_samples == sum(info.sample_rates.values()) == sum(info.channels.values()) == 8
    assert info.duration == pytest.approx(0.8)
    # The samples that stayed are byte for byte what they were.
    _, table = spans(folder / "000001.tar")
    for part in ("flac", "json"):
        start, length = table[part][1].tolist()
        assert after["train/000001.tar"][start : start + length] in before["train/000001.tar"]


def test_what_is_missing_or_says_wrong_is_put_right(dataset: Path) -> None:
    before = tree(dataset)
    folder = dataset / "train"
    (folder / "000000.tar").unlink()
    (folder / "000001.index.json").write_text('{"keys": [1]}')
    (folder / "000002.index.json").unlink()
    values = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**values, "channels": {"2": 9}}))
    report = repair(dataset)
    assert report.after.ok, report.after.problems
    assert quarantine(folder) == [("000000.tar", None, "the tar is missing")]
    assert keys(folder) == [f"clip{seed}" for seed in range(3, 9)]
    after = tree(dataset)
    for number in (1, 2):  # and the new index is the very one that was lost
        for name in (f"train/00000{number}.tar", f"train/00000{number}.index.json"):
            assert after[name] == before[name]
    assert "train/000000.index.json" not in after
    assert DatasetInfo.load(folder).channels == {1: 6}


@pytest.mark.parametrize(
    ("index_too", "kept"), [(False, ["clip0", "clip1"]), (True, ["clip0"])], ids=["index whole", "index lost"]
)
def test_a_tar_that_cannot_be_walked_is_saved_as_far_as_may_be(
    index_too: bool, kept: list[str], dataset: Path
) -> None:
    folder = dataset / "train"
    index = ShardIndex.load(folder / "000000.index.json")
    # The header of the last sample's first part, and what that part holds.
    overwrite(folder / "000000.tar", int(index.parts["flac"][2, 0]) - 512, b"\xff" * 600)
    if index_too:
        (folder / "000000.index.json").unlink()
    report = repair(dataset)
    assert report.after.ok, report.after.problems
    # Without the index, the sample before the damage may have had parts behind it.
    assert [key for key in keys(folder) if key < "clip3"] == kept
    assert any("no header at byte" in reason for _, _, reason in quarantine(folder))


def test_a_cut_tar_keeps_its_whole_samples(dataset: Path) -> None:
    folder = dataset / "train"
    data = (folder / "000002.tar").read_bytes()
    offset = int(ShardIndex.load(folder / "000002.index.json").parts["flac"][2, 0])
    (folder / "000002.tar").write_bytes(data[: offset + 100])
    assert repair(dataset).after.ok
    assert keys(folder)[-2:] == ["clip6", "clip7"]


def test_a_shard_of_which_nothing_is_left_goes(dataset: Path) -> None:
    (dataset / "train/000001.tar").write_bytes(b"junk" * 1000)
    (dataset / "train/000001.index.json").unlink()
    assert repair(dataset).after.ok
    assert [shard.name for shard in DatasetInfo.load(dataset / "train").shards] == [
        "000000.tar",
        "000002.tar",
    ]
    assert not (dataset / "train/000001.tar").exists()
    assert not (dataset / "train/.repair").exists()


def test_training_loses_what_leaks_and_a_key_is_there_once(
    make_dataset: MakeDataset, audio_sample: MakeSample
) -> None:
    train = [
        [audio_sample(0), audio_sample(1), audio_sample(2, source="track")],
        [audio_sample(3, key="clip0"), audio_sample(4), audio_sample(6)],
    ]
    test = [[audio_sample(1, key="heard"), audio_sample(5, source="track")]]
    dataset = make_dataset({"train": train, "test": test})
    before = tree(dataset / "test")
    report = repair(dataset)
    assert report.after.ok, report.after.problems
    assert keys(dataset / "train") == ["clip0", "clip4", "clip6"]
    assert tree(dataset / "test") == before
    assert [(shard, key) for shard, key, _ in quarantine(dataset / "train")] == [
        ("000000.tar", "clip1"),
        ("000000.tar", "clip2"),
        ("000001.tar", "clip0"),
    ]


def test_codes_whose_index_is_lost_get_the_same_again(
    make_dataset: MakeDataset, code_sample: MakeSample
) -> None:
    dataset = make_dataset({"train": [[code_sample(0), code_sample(1)]]}, CODES)
    before = tree(dataset)
    (dataset / "train/000000.index.json").unlink()
    assert repair(dataset).after.ok
    assert tree(dataset) == before
    index = ShardIndex.load(dataset / "train/000000.index.json")
    bad_codes = index.parts["codes.npy"][0, 0] + 128
    overwrite(dataset / "train/000000.tar", int(bad_codes), np.full(20, 64, np.uint16).tobytes())
    assert repair(dataset).after.ok
    assert keys(dataset / "train") == ["clip1"]
    assert quarantine(dataset / "train") == [
        ("000000.tar", "clip0", ".codes.npy: a code is 64, the codec has 64")
    ]


class KilledError(BaseException):
    """Like SIGKILL: nothing of ours catches it."""


def test_killed_at_any_step_it_can_be_mended_again(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = dataset / "train"
    for number in (0, 1):
        offset, _ = ShardIndex.load(folder / f"00000{number}.index.json").parts["flac"][1].tolist()
        overwrite(folder / f"00000{number}.tar", offset, b"JUNK")
    (folder / "000002.tar").unlink()
    broken = dataset.with_name("broken")
    shutil.copytree(dataset, broken)
    repair(dataset)
    expected = tree(dataset)
    replace, unlink, steps = Path.replace, Path.unlink, [0]

    def step(original: Callable[..., object], last: int) -> Callable[..., object]:
        def run(self: Path, *rest: object, **options: object) -> object:
            if steps[0] == last:
                raise KilledError
            steps[0] += 1
            return original(self, *rest, **options)

        return run

    killed = 0
    for last in range(100):
        shutil.rmtree(dataset)
        shutil.copytree(broken, dataset)
        steps[0] = 0
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", step(replace, last))
            patch.setattr(Path, "unlink", step(unlink, last))
            try:
                repair(dataset)
                break
            except KilledError:
                killed += 1
        report = repair(dataset)
        assert report.after.ok, (last, report.after.problems)
        assert sorted(quarantine(folder), key=str) == sorted(
            (tuple(json.loads(line).values()) for line in expected[f"train/{QUARANTINE_FILE}"].splitlines()),
            key=str,
        )
        assert {**tree(dataset), f"train/{QUARANTINE_FILE}": b""} == {
            **expected,
            f"train/{QUARANTINE_FILE}": b"",
        }, last
    assert killed > 8


def test_where_most_is_broken_nothing_is_touched(make_dataset: MakeDataset, code_sample: MakeSample) -> None:
    dataset = make_dataset({"train": [[code_sample(seed) for seed in range(3)]]}, CODES)
    values = json.loads((dataset / "train/dataset.json").read_text())
    values["codes"]["num_codebooks"] = 4
    (dataset / "train/dataset.json").write_text(json.dumps(values))
    before = tree(dataset)
    with pytest.raises(ValueError, match=r"3 of 3 samples of train are broken, more than 50%.*2 codebooks"):
        repair(dataset)
    assert tree(dataset) == before
    assert repair(dataset, max_dropped=1.0).after.splits["train"].num_samples == 0


def test_without_its_description_nothing_is_touched(dataset: Path) -> None:
    (dataset / "train/dataset.json").write_text("{")
    before = tree(dataset)
    with pytest.raises(ValueError, match="not JSON"):
        repair(dataset)
    assert tree(dataset) == before


def test_spans_that_overlap_are_never_copied(dataset: Path) -> None:
    """An index whose hash is right, that says that every sample is the whole tar, over a tar that cannot be walked."""
    folder = dataset / "train"
    overwrite(folder / "000000.tar", 0, b"\xff" * 512)
    path = folder / "000000.index.json"
    index = ShardIndex.load(path)
    index.parts["flac"][:] = [0, (folder / "000000.tar").stat().st_size]
    index.save(path)
    values = json.loads((folder / "dataset.json").read_text())
    values["shards"][0] |= {"index_sha256": file_hash(path), "sha256": file_hash(folder / "000000.tar")}
    (folder / "dataset.json").write_text(json.dumps(values))
    assert repair(dataset).after.ok
    assert keys(folder) == [f"clip{seed}" for seed in range(3, 9)]
