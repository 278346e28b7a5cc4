"""A folder of audio, at any depth, with a sidecar JSON beside a file or without.

music/train/song.flac    split "train", if the top folders are named train, valid (val, dev) or test
music/train/song.json    {"description": "...", "artist": "...", ...}, all of it optional
music/train/song.txt     not read: what it holds is anyone's guess
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from sharding.schema import parse_attributes
from sharding.sources.clip import Clip, artist_of, split_name
from sharding.sources.tree import list_audio


def folder(
    path: str | Path, *, caption_from: str | None = None, sidecars: str | Path | None = None
) -> list[Clip]:
    """Every audio file under `path`, with its sidecar's attributes. The group is the artist, where one is told.

    caption_from: where a file has no description, make one of its "folder" name ("sea_waves" -> "sea waves")
        or of its "file" name. None: it stays without one.
    sidecars: a folder of sidecars, in the same tree as the audio's; None: they lie beside it.
    """
    if caption_from not in (None, "folder", "file"):
        raise ValueError(f"caption_from is {caption_from!r}; it is 'folder', 'file' or nothing")
    tree = list_audio(path)
    elsewhere = Path(path) if sidecars is None else Path(sidecars)
    if not elsewhere.is_dir():
        raise FileNotFoundError(f"there is no folder {elsewhere}")
    # Only sidecars that the listing saw are opened: asking for each of a million files takes minutes.
    there = None if sidecars else set(tree.others)
    clips: list[Clip] = []
    for name in tree.audio:
        stem = name[: name.rfind(".")]
        attributes = (
            read_sidecar(elsewhere / f"{stem}.json") if there is None or f"{stem}.json" in there else {}
        )
        if caption_from and not attributes.get("description"):
            parent, _, base = f"{tree.root.name}/{stem}".rpartition("/")
            source = base if caption_from == "file" else parent.rpartition("/")[2]
            attributes["description"] = " ".join(source.replace("_", " ").replace("-", " ").split())
        clips.append(Clip(name, tree.root / name, attributes, top_split(name), group=artist_of(attributes)))
    return keep_splits(clips)


def top_split(name: str) -> str | None:
    """The split that the first folder of a name stands for."""
    top, slash, _ = name.partition("/")
    return split_name(top) if slash else None


def keep_splits(clips: list[Clip]) -> list[Clip]:
    """The clips, with their splits if each has one: a class that happens to be called "test" is none."""
    if all(clip.split for clip in clips) or not any(clip.split for clip in clips):
        return clips
    return [replace(clip, split=None) for clip in clips]


def read_sidecar(path: Path) -> dict[str, Any]:
    """The attributes in a sidecar JSON; none where there is no such file."""
    if not path.is_file():
        return {}
    try:
        return parse_attributes(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
