from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

import sharding.sources
from sharding.sources import LAYOUTS, Clip, find_clips


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


def test_sounds_have_one_description_or_several_in_lower_case(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "b.wav", "c.wav")
    lines = [json.dumps({"path": f"{name}.wav", "duration": 1.0, "sample_rate": 16000}) for name in "abc"]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    (tmp_path / "a.json").write_text('{"description": "A Dog barks"}')
    (tmp_path / "elsewhere").mkdir()
    for name in "ab":
        (tmp_path / f"elsewhere/{name}.json").write_text(
            '{"description": ["Rain", "It RAINS"], "duration": 9}'
        )
    clips = find_clips(tmp_path, sidecars=tmp_path / "elsewhere")
    assert [clip.attributes for clip in clips] == [
        {"description": "a dog barks"},  # the sidecar beside the audio comes first
        {"description": ["rain", "it rains"]},
        {},
    ]
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        find_clips(tmp_path, sidecars=tmp_path / "nowhere")


def test_a_folder_may_have_its_sidecars_elsewhere(tmp_path: Path) -> None:
    touch(tmp_path / "audio", "x/a.wav", "b.wav")
    (tmp_path / "about/x").mkdir(parents=True)
    (tmp_path / "about/x/a.json").write_text('{"description": "rain", "artist": "Ann"}')
    clips = find_clips(tmp_path / "audio", sidecars=tmp_path / "about")
    assert [(clip.name, clip.attributes, clip.group) for clip in clips] == [
        ("b.wav", {}, None),
        ("x/a.wav", {"description": "rain", "artist": "Ann"}, "Ann"),
    ]


def test_every_layout_is_named_by_its_file() -> None:
    files = {path.stem for path in Path(sharding.sources.__file__).parent.glob("*.py")}
    assert set(LAYOUTS) <= files
    for name, function in LAYOUTS.items():
        assert function.__module__ == f"sharding.sources.{name}"


def test_an_unknown_layout_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no layout 'audiocap'; known are audiocaps, .*, wesoundeffects"):
        find_clips(tmp_path, layout="audiocap")
    with pytest.raises(ValueError, match="esc50 says where captions are"):
        find_clips(tmp_path, layout="esc50", caption_from="folder")


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
        ({"x.wav": "", "x.json": "[]"}, "", ValueError, r"x\.json: attributes are a list"),
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
