"""AudioCraft's manifests: `data.jsonl` or `data.jsonl.gz`, each line a file, with music or sound sidecars.

    egs/train/data.jsonl   {"path": "dataset/song.mp3", "duration": 15.0, "sample_rate": 48000, ...}
    dataset/song.mp3
    dataset/song.json      {"title": ..., "artist": ..., "key": ..., "bpm": ..., "genre": ..., "moods": [...],
                            "keywords": ..., "instrument": ..., "description": ...}         of music, or of a sound
                           {"description": "..." or ["...", "..."]}

Paths are absolute, or relative to the working folder (AudioCraft's rule), or found by dropping leading
folders until the rest exists beside the manifest, so that a tree that moved with its manifest is still read.
Sidecars lie beside the audio or, where one is not, in a folder of their own (AudioCraft's external_metadata_source).
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from sharding.sources.clip import Clip, artist_of, json_lines, split_name
from sharding.sources.folder import read_sidecar
from sharding.sources.table import refuse_absent

_NAMES = ("data.jsonl", "data.jsonl.gz")
_LOWER = ("genre", "name", "instrument")
_LISTS = ("moods", "keywords")
# A sidecar with none of these is a sound's: AudioCraft tells the two apart by the dataset that reads them.
_OF_MUSIC = {"title", "artist", "key", "bpm", *_LOWER, *_LISTS}
# What the audio itself says better; AudioCraft overwrites or ignores them too.
_FROM_AUDIO = ("sample_rate", "duration", "file_extension")


def is_manifest(path: Path) -> bool:
    """Whether `path` is such a manifest, or a folder with one (or with one in each of its split folders)."""
    return bool(_manifests(path))


def audiocraft_manifest(path: str | Path, *, sidecars: str | Path | None = None) -> list[Clip]:
    """The clips of a manifest, or of a folder's; a manifest in a folder train, valid, ... is that split.

    sidecars: a folder with `song.json` for the audio that has none beside it. The group is the artist.
    """
    if sidecars is not None and not Path(sidecars).is_dir():
        raise FileNotFoundError(f"there is no folder {sidecars}")
    manifests = _manifests(Path(path))
    if not manifests:
        raise FileNotFoundError(f"no AudioCraft manifest at {path} (looked for {' and '.join(_NAMES)})")
    clips: list[Clip] = []
    for manifest in manifests:
        split = split_name(manifest.parent.name)
        missing: list[tuple[int, str]] = []
        for line, row in json_lines(manifest):
            name = row.get("path")
            if not isinstance(name, str) or not name:
                raise ValueError(f"{manifest} line {line} has no path")
            if row.get("info_path"):
                raise ValueError(f"{manifest} line {line}: metadata inside a zip (info_path) is not read")
            file = _locate(name, manifest.parent)
            if file is None:
                missing.append((line, name))
                continue
            attributes = _attributes(_sidecar(file, sidecars))
            if row.get("weight") is not None:
                attributes["weight"] = row["weight"]
            clips.append(Clip(name.lstrip("/"), file, attributes, split, group=artist_of(attributes)))
        refuse_absent(manifest, missing)
    if not clips:
        raise ValueError(f"{manifests[0]} names no files")
    return clips


def _manifests(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.name in _NAMES or _looks_like_one(path) else []
    here = [path / name for name in _NAMES if (path / name).is_file()]
    if here:
        return here[:1]
    below = sorted(folder for folder in path.iterdir() if split_name(folder.name) and folder.is_dir())
    return [manifest for folder in below for name in _NAMES if (manifest := folder / name).is_file()]


def _looks_like_one(path: Path) -> bool:
    """A .jsonl of another name: its first line has AudioCraft's fields and no caption."""
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        return False
    _, first = next(iter(json_lines(path)), (0, {}))
    return {"path", "duration", "sample_rate"} <= first.keys() and not {
        "caption",
        "description",
    } & first.keys()


def _locate(name: str, beside: Path) -> Path | None:
    parts = PurePosixPath(name).parts
    tries = [
        Path(name),
        *(beside.joinpath(*parts[start:]) for start in range(len(parts)) if parts[start] != "/"),
    ]
    return next((file for file in tries if file.is_file()), None)


def _sidecar(file: Path, sidecars: str | Path | None) -> dict[str, Any]:
    beside = file.with_suffix(".json")
    return read_sidecar(beside if sidecars is None or beside.is_file() else Path(sidecars) / beside.name)


def _attributes(sidecar: dict[str, Any]) -> dict[str, Any]:
    """As AudioCraft reads a sidecar: lower case, lists of moods and keywords, no key change; empty left out."""
    values = {name: value for name, value in sidecar.items() if name not in _FROM_AUDIO}
    if not _OF_MUSIC & values.keys():
        return _lower_description(values)
    for name in _LOWER:
        if isinstance(values.get(name), str):
            values[name] = values[name].lower()
    for name in _LISTS:
        value = values.get(name)
        words = re.split(r"[,\s]+", value) if isinstance(value, str) else value or []
        values[name] = [str(word).lower() for word in words if str(word).strip()]
    key = values.get("key")
    if isinstance(key, str):
        values["key"] = None if "," in key else key.lower()
    return {name: value for name, value in values.items() if value not in (None, "", [])}


def _lower_description(values: dict[str, Any]) -> dict[str, Any]:
    """A sound's sidecar: its description, or each of several, in lower case."""
    told = values.pop("description", None)
    texts = [str(text).lower() for text in (told if isinstance(told, list) else [told]) if text]
    description = {"description": texts if isinstance(told, list) else texts[0]} if texts else {}
    return {**description, **values}
