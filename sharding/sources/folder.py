"""A folder of audio, at any depth, with a sidecar JSON beside a file or without.

music/train/song.flac    split "train", if the top folders are named train, valid (val, dev) or test
music/train/song.json    {"description": "...", "artist": "...", ...}, all of it optional
music/train/song.txt     not read: what it holds is anyone's guess
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

from sharding.sources.clip import Clip, is_audio, split_name


def folder(path: str | Path, *, caption_from: str | None = None) -> list[Clip]:
    """Every audio file under `path`, with its sidecar's attributes.

    caption_from: where a file has no description, make one of its "folder" name ("sea_waves" -> "sea waves")
        or of its "file" name. None: it stays without one.
    """
    if caption_from not in (None, "folder", "file"):
        raise ValueError(f"caption_from is {caption_from!r}; it is 'folder', 'file' or nothing")
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {path}")
    files = sorted(file for file in path.rglob("*") if is_audio(file) and file.is_file())
    if not files:
        raise FileNotFoundError(f"no audio in {path} (looked for .wav, .flac, .ogg, .opus, .mp3, .aiff)")
    clips = [_clip(file, path, caption_from) for file in files]
    # Only when all top folders are splits: a class that happens to be called "test" is none.
    in_splits = all(clip.split for clip in clips)
    return clips if in_splits else [Clip(clip.name, clip.path, clip.attributes) for clip in clips]


def _clip(file: Path, root: Path, caption_from: str | None) -> Clip:
    name = PurePosixPath(file.relative_to(root))
    attributes = read_sidecar(file.with_suffix(".json"))
    if caption_from and not attributes.get("description"):
        source = file.stem if caption_from == "file" else file.parent.name
        attributes["description"] = " ".join(source.replace("_", " ").replace("-", " ").split())
    split = split_name(name.parts[0]) if len(name.parts) > 1 else None
    return Clip(str(name), file, attributes, split)


def read_sidecar(path: Path) -> dict[str, Any]:
    """The attributes in a sidecar JSON; none where there is no such file."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} should hold a JSON object, holds a {type(values).__name__}")
    return values
