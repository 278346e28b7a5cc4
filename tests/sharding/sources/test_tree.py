from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sharding.sources.tree import list_audio, list_tree

Plant = Callable[[dict[str, str]], Path]


def test_a_tree_is_listed_in_the_order_of_paths(plant: Plant) -> None:
    names = ["a b/x.wav", "a/b/x.FLAC", "a/b.mp3", "c.csv", "a/.x.wav", ".hidden/x.wav", "notes"]
    tree = list_tree(plant(dict.fromkeys(names, "")))
    paths = [Path(name) for name in names if not any(part.startswith(".") for part in Path(name).parts)]
    assert [Path(name) for name in tree.audio] == [
        path for path in sorted(paths) if path.suffix in (".wav", ".FLAC", ".mp3")
    ]
    assert tree.others == ["c.csv", "notes"]


def test_links_are_followed_once_and_never_in_a_circle(plant: Plant, tmp_path: Path) -> None:
    root = plant({"here/a.wav": "", "list.csv": ""})
    (tmp_path / "far").mkdir()
    (tmp_path / "far/b.wav").write_bytes(b"")
    (root / "audio").symlink_to(tmp_path / "far")
    (root / "here/up").symlink_to(root)
    (tmp_path / "far/up").symlink_to(root)
    (root / "gone.wav").symlink_to(tmp_path / "nothing.wav")
    assert list_tree(root).audio == ["audio/b.wav", "here/a.wav"]


def test_files_are_looked_up_by_the_end_of_their_path(plant: Plant) -> None:
    tree = list_tree(
        plant({"x/meta/a.csv": "", "y/a.csv": "", "z/other_a.csv": "", "1/t.wav": "", "2/t.wav": ""})
    )
    assert tree.file("absent.csv", "a.csv") == tree.root / "y/a.csv"  # the shallowest
    assert tree.file("meta/a.csv") == tree.root / "x/meta/a.csv"
    assert tree.optional_file("ta/a.csv") is None
    assert tree.audio_named("t.wav", "2") == "2/t.wav"
    assert tree.audio_named("t.wav", "3") is None  # two of them, and no folder that tells which
    with pytest.raises(FileNotFoundError, match=r"there is no b.csv nor c.csv in .*tree"):
        tree.file("b.csv", "c.csv")


def test_a_folder_without_audio_is_refused(plant: Plant) -> None:
    root = plant({"a.csv": ""})
    with pytest.raises(FileNotFoundError, match="no audio in"):
        list_audio(root)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        list_tree(root / "a.csv")
