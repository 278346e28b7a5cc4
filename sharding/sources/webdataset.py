"""Tars in the form of the webdataset package, ours among them: the files of a sample share the name's start.

    train/000000.tar         song.flac            the audio, in any format that is read
                             song.json            its attributes; a caption in description, caption or text
                             song.txt             its caption
                             song.melody.flac     further audio of the sample: the condition "melody"

Only the headers and the texts are read here; the audio stays in the tar, as a stretch of it. Other members are
passed over, and none is ever unpickled or written to disk. A member that `sharding.read.members` finds harmful
is refused by name. Tars must not be compressed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sharding.read import members
from sharding.schema import MAX_ATTRIBUTES_BYTES, parse_attributes
from sharding.sources.clip import Clip, artist_of, split_name
from sharding.sources.folder import keep_splits
from sharding.sources.table import warn_absent
from sharding.sources.tree import has_audio_suffix, list_tree

_CAPTIONS = ("description", "caption", "text")
_Spans = dict[str, tuple[int, int]]


def is_webdataset(path: Path) -> bool:
    """Whether `path` is a tar, or a folder with tars (itself, or in its split folders) and no audio beside them."""
    if path.is_file():
        return path.suffix == ".tar"
    below = [path, *(folder for folder in path.iterdir() if split_name(folder.name) and folder.is_dir())]
    names = [file.name for folder in below for file in folder.iterdir() if not file.name.startswith(".")]
    return any(name.endswith(".tar") for name in names) and not any(map(has_audio_suffix, names))


def webdataset(path: str | Path) -> list[Clip]:
    """The samples of a tar, or of all tars under a folder.

    A tar in a folder train, valid, ..., or whose name starts so ("train-000012.tar"), is of that split if all are.
    The group is the artist, or the track from which samples were cut, as our shards tell by `source`.
    """
    path = Path(path)
    if path.is_file():
        root, tars = path.parent, [path]
    else:
        root = path
        tars = list_tree(path).named(".tar")
    if not tars:
        raise FileNotFoundError(f"there are no .tar files in {path}")
    clips = [clip for tar in tars for clip in _clips(tar, tar.relative_to(root).with_suffix("").as_posix())]
    if not clips:
        raise ValueError(f"no sample in {path} has audio")
    return keep_splits(clips)


def _clips(tar: Path, tar_name: str) -> Iterator[Clip]:
    split = split_name(tar.parent.name) or split_name(tar.stem.split("-")[0].split("_")[0])
    without_audio: list[tuple[int, str]] = []
    samples = _samples(tar)
    with tar.open("rb") as file:
        for number, (key, parts) in enumerate(samples.items(), start=1):
            audio = {part: span for part, span in parts.items() if has_audio_suffix(f".{part}")}
            own = [part for part in audio if "." not in part]
            if len(own) > 1:
                raise ValueError(f"{tar}: {key} has audio twice, as {' and '.join(own)}")
            if not own:
                without_audio.append((number, f"audio of {key}"))
                continue
            attributes = _attributes(file.fileno(), parts, f"{tar}: {key}")
            track = attributes.get("source")
            yield Clip(
                f"{tar_name}/{key}.{own[0]}",
                tar,
                attributes,
                split,
                group=artist_of(attributes) or (track if isinstance(track, str) else None),
                span=audio.pop(own[0]),
                conditions={
                    condition: Clip(f"{tar_name}/{key}.{part}", tar, span=span)
                    for part, span in audio.items()
                    if (condition := part.rpartition(".")[0]).isidentifier()
                },
            )
    warn_absent(tar, len(samples), without_audio)


def _samples(tar: Path) -> dict[str, _Spans]:
    """Key -> part -> (offset, size), in the order of the tar."""
    samples: dict[str, _Spans] = {}
    for key, part, offset, size in members(tar):
        parts = samples.setdefault(key, {})
        if part.lower() in parts:
            raise ValueError(f"{tar}: {key}.{part} is there twice")
        parts[part.lower()] = (offset, size)
    return samples


def _attributes(file: int, parts: _Spans, where: str) -> dict[str, Any]:
    """What the sample's .json says, with the caption, which may be its .txt, as `description`."""
    try:
        attributes = parse_attributes(_text(file, *parts["json"])) if "json" in parts else {}
        caption = next((attributes.pop(name) for name in _CAPTIONS if attributes.get(name)), None)
        if caption is None and "txt" in parts:
            caption = _text(file, *parts["txt"]).decode(errors="replace").strip()
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return {"description": caption, **attributes} if caption else attributes


def _text(file: int, offset: int, size: int) -> bytes:
    if size > MAX_ATTRIBUTES_BYTES:
        raise ValueError(f"its text has {size} bytes, more than {MAX_ATTRIBUTES_BYTES}")
    return os.pread(file, size, offset)
