from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from sharding.sources import Clip, find_clips
from sharding.splits import assign_splits, split_groups


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"audio")


def test_a_folder_with_sidecars_and_split_folders(tmp_path: Path) -> None:
    touch(tmp_path, "train/a.wav", "val/b.FLAC", "test/deep/c.mp3", "train/notes.txt", "train/._a.wav")
    (tmp_path / "train/a.json").write_text('{"description": "rain", "artist": "Ann"}')
    clips = {clip.name: clip for clip in find_clips(tmp_path)}
    assert {name: clip.split for name, clip in clips.items()} == {
        "train/a.wav": "train",
        "val/b.FLAC": "valid",
        "test/deep/c.mp3": "test",
    }
    assert clips["train/a.wav"].attributes == {"description": "rain", "artist": "Ann"}


def test_captions_come_from_names_only_when_asked(tmp_path: Path) -> None:
    touch(tmp_path, "sea_waves/x-1.ogg", "test/y.ogg")
    assert [clip.attributes for clip in find_clips(tmp_path)] == [{}, {}]
    assert [clip.split for clip in find_clips(tmp_path)] == [None, None]  # not all top folders are splits
    assert find_clips(tmp_path, caption_from="folder")[0].attributes == {"description": "sea waves"}
    assert find_clips(tmp_path, caption_from="file")[0].attributes == {"description": "x 1"}


def test_captions_in_csv_and_jsonl(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "b.wav")
    (tmp_path / "c.csv").write_text(
        '\ufefffile,Caption,mood,split\na.wav,"rain, heavy",calm,train\n'
        "b.wav,wind,,dev\na.wav,drops,,train\n",
        encoding="utf-8",
    )
    expected = [
        Clip("a.wav", tmp_path / "a.wav", {"description": ["rain, heavy", "drops"], "mood": "calm"}, "train"),
        Clip("b.wav", tmp_path / "b.wav", {"description": "wind"}, "valid"),
    ]
    assert find_clips(tmp_path / "c.csv") == expected
    assert find_clips(tmp_path, captions=tmp_path / "c.csv") == expected
    (tmp_path / "c.jsonl").write_text('{"path": "a.wav", "description": "rain", "bpm": 90}\n\n')
    assert find_clips(tmp_path / "c.jsonl") == [
        Clip("a.wav", tmp_path / "a.wav", {"description": "rain", "bpm": 90})
    ]


def test_an_audiocraft_manifest_whose_tree_moved(tmp_path: Path) -> None:
    touch(tmp_path, "train/song.mp3", "valid/other.mp3")
    line = {
        "path": "/somewhere/else/song.mp3",
        "duration": 1.0,
        "sample_rate": 48000,
        "weight": 2.0,
        "info_path": None,
    }
    with gzip.open(tmp_path / "train/data.jsonl.gz", "wt") as file:
        file.write(json.dumps(line) + "\n")
    (tmp_path / "valid/data.jsonl").write_text(
        json.dumps({**line, "path": "x/other.mp3", "weight": None}) + "\n"
    )
    sidecar = {"genre": "Jazz", "moods": "Calm, warm", "keywords": "", "bpm": "", "key": "C,D", "duration": 3}
    (tmp_path / "train/song.json").write_text(json.dumps(sidecar))
    first, second = find_clips(tmp_path)
    assert (first.split, second.split) == ("train", "valid")
    assert first.attributes == {"genre": "jazz", "moods": ["calm", "warm"], "weight": 2.0}


def test_the_real_manifest(shared_data: Path) -> None:
    clips = find_clips(shared_data / "manifest_example")
    assert [clip.attributes["description"] for clip in clips] == [
        "A cool song from Voyager.",
        "This is an electronic song sending positive vibes.",
    ]
    assert clips[0].attributes["moods"] == ["uplifting", "motivational"]


@pytest.mark.parametrize(
    ("files", "start", "error", "says"),
    [
        ({}, "", FileNotFoundError, "no audio in"),
        ({}, "absent", FileNotFoundError, "there is no"),
        (
            {"a.csv": "file,caption\nx.wav,hm\ny.wav,hm\n"},
            "a.csv",
            FileNotFoundError,
            r"line 2: there is no .*x.wav.*1 oth",
        ),
        ({"a.csv": "caption\nhm\n"}, "a.csv", ValueError, "names no file"),
        ({"a.csv": "file,caption\n"}, "a.csv", ValueError, "names no files"),
        ({"a.csv": "file\nx.wav,more\n"}, "a.csv", ValueError, "more fields"),
        ({"x.wav": "", "a.csv": "file,split\nx.wav,blue\n"}, "a.csv", ValueError, "'blue'"),
        ({"a.jsonl": '{"file": "x.wav"\n'}, "a.jsonl", ValueError, "line 1"),
        ({"a.jsonl": "[1]\n"}, "a.jsonl", ValueError, "line 1: holds a list"),
        ({"a.txt": "x"}, "a.txt", ValueError, "no captions file"),
        ({"data.jsonl": '{"path": "x.wav"}\n'}, "", FileNotFoundError, "line 1: there is no x.wav"),
        ({"x.wav": "", "x.json": "[]"}, "", ValueError, "JSON object"),
    ],
)
def test_bad_sources_are_one_clear_line(
    files: dict[str, str], start: str, error: type[Exception], says: str, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(error, match=says) as caught:
        find_clips(tmp_path / start)
    assert "\n" not in str(caught.value)


def test_splits_keep_groups_together_in_the_stated_fractions() -> None:
    clips = [Clip(f"{i // 4}-{i}.wav", Path("x"), {"artist": i // 4}) for i in range(400)]
    by_pattern = assign_splits(clips, group_pattern=r"^(\d+)-")
    by_attribute = assign_splits(clips, group="artist")
    assert [clip.split for clip in by_pattern] == [clip.split for clip in by_attribute]
    sides: dict[str, set[str | None]] = {}
    for clip in by_pattern:
        sides.setdefault(clip.name.split("-")[0], set()).add(clip.split)
    assert all(len(side) == 1 for side in sides.values())
    counts = {split: sum(clip.split == split for clip in by_pattern) for split in ("train", "valid", "test")}
    assert counts == {"train": 360, "valid": 20, "test": 20}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 30])
def test_small_sets_leave_no_split_empty_while_they_can(count: int) -> None:
    split_of = split_groups([str(i) for i in range(count)], {"train": 0.9, "valid": 0.05, "test": 0.05})
    assert len(split_of) == count
    assert len(set(split_of.values())) == min(count, 3)
    assert "train" in split_of.values()


def test_bad_splits() -> None:
    clips = [Clip("a.wav", Path("a"), {}, "train"), Clip("b.wav", Path("b"))]
    with pytest.raises(ValueError, match="1 of 2 clips have no split"):
        assign_splits(clips)
    with pytest.raises(ValueError, match="artist"):
        assign_splits(clips[1:], group="artist")
    with pytest.raises(ValueError, match="sum to 1"):
        assign_splits(clips[1:], fractions={"train": 0.5})
