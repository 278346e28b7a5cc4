from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import webdataset

from lightning_audio import audio
from sharding.checking.check import check
from sharding.schema import DatasetInfo, ShardIndex, split_folders
from sharding.sources import find_clips
from sharding.writing.write import write_shards


def make_folder(folder: Path, count: int = 12, rate: int = 16000, suffix: str = ".wav") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    for i in range(count):
        wav = 0.3 * torch.randn(1, 2000 + 100 * i, generator=generator)
        audio.write(folder / f"clip {i}{suffix}", wav, rate)
        (folder / f"clip {i}.json").write_text(json.dumps({"description": f"noise {i}", "number": i}))
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_shards_hold_the_files_as_they_came(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in")
    report = write_shards(find_clips(source), tmp_path / "out", samples_per_shard=4)
    assert {split: info.num_samples for split, info in report.splits.items()} == {
        "train": 10,
        "valid": 1,
        "test": 1,
    }
    folder = tmp_path / "out/train"
    info = DatasetInfo.load(folder)
    assert info == report.splits["train"]
    assert (info.sample_rates, info.channels, len(info.shards)) == ({16000: 10}, {1: 10}, 3)
    index = ShardIndex.load(folder / "000000.index.json")
    tar = (folder / "000000.tar").read_bytes()
    for sample, key in enumerate(index.keys):
        spans = {part: table[sample].tolist() for part, table in index.parts.items()}
        attributes = json.loads(tar[spans["json"][0] :][: spans["json"][1]])
        wav = tar[spans["wav"][0] :][: spans["wav"][1]]
        assert wav == (source / attributes["source"]).read_bytes()
        assert key == attributes["source"].removesuffix(".wav").replace(" ", "_")
        assert index.num_samples[sample] == 2000 + 100 * attributes["number"]
    assert report.skipped == []
    assert check(tmp_path / "out").ok


@pytest.mark.slow
def test_bytes_do_not_depend_on_workers_nor_on_the_clock(tmp_path: Path) -> None:
    clips = find_clips(make_folder(tmp_path / "in"))
    for name, workers in (("one", 1), ("two", 2)):
        write_shards(
            clips, tmp_path / name, samples_per_shard=4, sample_rate=8000, channels=2, workers=workers
        )
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    wav, rate = audio.read(find_in_tar(tmp_path / "one/train", "flac"))
    assert rate == 8000
    assert wav.shape[0] == 2


def find_in_tar(folder: Path, part: str) -> bytes:
    offset, size = ShardIndex.load(folder / "000000.index.json").parts[part][0]
    return (folder / "000000.tar").read_bytes()[offset : offset + size]


def test_tar_and_webdataset_read_the_shards(tmp_path: Path) -> None:
    write_shards(find_clips(make_folder(tmp_path / "in")), tmp_path / "out", samples_per_shard=100)
    tar = tmp_path / "out/train/000000.tar"
    if shutil.which("tar"):
        names = subprocess.run(["tar", "tf", tar], capture_output=True, text=True, check=True).stdout.split()
        assert len(names) == 20
        assert all(name.startswith("clip_") for name in names)
    # webdataset's own decoders include pickle: only ours here
    dataset = webdataset.WebDataset(str(tar), shardshuffle=False)
    samples = list(dataset)
    keys = ShardIndex.load(tar.with_suffix(".index.json")).keys
    assert [sample["__key__"] for sample in samples] == keys
    assert all(
        json.loads(sample["json"])["number"] >= 0 and audio.read(sample["wav"])[1] == 16000
        for sample in samples
    )


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".opus"])
def test_unsound_files_are_left_out_and_named(suffix: str, tmp_path: Path) -> None:
    rate = 48000 if suffix == ".opus" else 16000
    source = make_folder(tmp_path / "in", 4, rate, suffix)
    audio.write(source / f"long{suffix}", 0.1 * torch.randn(1, 2 * rate), rate)
    whole = (source / f"long{suffix}").read_bytes()
    (source / f"cut{suffix}").write_bytes(whole[: len(whole) // 2])
    (source / f"empty{suffix}").write_bytes(b"")
    (source / f"text{suffix}").write_bytes(b"this is no audio" * 100)
    report = write_shards(find_clips(source), tmp_path / "out", fractions={"train": 1.0})
    assert report.num_samples == 5
    reasons = {skip.name.partition(".")[0]: skip.reason for skip in report.skipped}
    assert reasons.keys() == {"cut", "empty", "text"}
    assert "empty" in reasons["empty"]
    lines = (tmp_path / "out/train/skipped.jsonl").read_text().splitlines()
    assert {json.loads(line)["name"].partition(".")[0] for line in lines} == reasons.keys()
    assert report.splits["train"].num_skipped == 3


def test_nothing_half_written_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_folder(tmp_path / "in", 3)
    clips = find_clips(source)
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "a.wav").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"none of the 1 files could be used, e.g. a.wav"):
        write_shards(find_clips(bad), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad", "in"]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ShardIndex, "save", full)
    with pytest.raises(OSError, match="No space"):
        write_shards(clips, tmp_path / "out")
    monkeypatch.undo()
    [partial, *_] = sorted(path.name for path in tmp_path.iterdir())
    assert partial.startswith(".out.")
    assert not list((tmp_path / partial).glob("*/*/*"))  # no receipt, nothing in work
    write_shards(clips, tmp_path / "out")  # once there is space again
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad", "in", "out"]


def test_only_a_dataset_is_overwritten(tmp_path: Path) -> None:
    clips = find_clips(make_folder(tmp_path / "in", 3))
    write_shards(clips, tmp_path / "out")
    with pytest.raises(FileExistsError, match="exists already"):
        write_shards(clips, tmp_path / "out")
    write_shards(clips[:1], tmp_path / "out", overwrite=True)
    assert list(split_folders(tmp_path / "out")) == ["train"]
    with pytest.raises(FileExistsError, match="no dataset"):
        write_shards(clips, tmp_path / "in", overwrite=True)


def test_real_sounds_by_fold(shared_data: Path, tmp_path: Path) -> None:
    clips = [
        clip
        for clip in find_clips(shared_data / "sounds", caption_from="folder")
        if clip.name.split("/")[0] in ("rain", "sea_waves")
    ]
    report = write_shards(clips, tmp_path / "out", group_pattern=r"^\d", samples_per_shard=16)
    assert report.num_samples == 64
    assert not report.skipped
    assert check(tmp_path / "out").ok
    folds = {
        split: {
            key.split("_")[-1][0]
            for file in folder.glob("*.index.json")
            for key in ShardIndex.load(file).keys
        }
        for split, folder in split_folders(tmp_path / "out").items()
    }
    assert {split: len(found) for split, found in folds.items()} == {"train": 2, "valid": 1, "test": 1}
    assert set.union(*folds.values()) == set("1234")


def test_real_music_of_several_rates(shared_data: Path, tmp_path: Path) -> None:
    write_shards(find_clips(shared_data / "music"), tmp_path / "kept", fractions={"train": 1.0})
    assert DatasetInfo.load(tmp_path / "kept/train").sample_rates.keys() == {22050, 44100}
    report = write_shards(
        find_clips(shared_data / "manifest_example"), tmp_path / "m", sample_rate=32000, channels=1
    )
    assert report.num_samples == 2
    assert check(tmp_path / "m").ok
