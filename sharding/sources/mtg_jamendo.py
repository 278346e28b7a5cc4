"""MTG-Jamendo: 55,000 full tracks with tags of genre, instrument and mood or theme.

    data/splits/split-0/autotagging-train.tsv    TRACK_ID ARTIST_ID ALBUM_ID PATH DURATION TAGS, and in each row
                                     as many tags as there are, such as genre---rock  (also -validation, -test)
    .../48/948.mp3                   the audio, or 48/948.low.mp3 of the smaller version

No artist is in two parts of a split. The audio comes in a hundred archives, so tracks that are not there are left
out and counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from sharding.sources.clip import Clip
from sharding.sources.labels import caption_from_labels
from sharding.sources.table import plain_rows, warn_absent
from sharding.sources.tree import Tree, list_audio

_PARTS = {"train": "train", "validation": "valid", "test": "test"}
_HEADER = ["TRACK_ID", "ARTIST_ID", "ALBUM_ID", "PATH", "DURATION", "TAGS"]
_ATTRIBUTES = {"genre": "genre", "instrument": "instrument", "mood/theme": "moods"}


def mtg_jamendo(path: str | Path, *, subset: str = "autotagging", split_number: int = 0) -> list[Clip]:
    """The tracks whose audio is there, in one of the five official splits.

    subset: "autotagging" has all tags; "autotagging_genre", "_instrument", "_moodtheme", "_top50tags" some.
    """
    tree = list_audio(path)
    clips = [
        clip for part in _PARTS for clip in _part(tree, f"split-{split_number}/{subset}-{part}.tsv", part)
    ]
    if not clips:
        raise ValueError(f"{tree.root} has audio of none of the tracks that its tables name")
    return clips


def _part(tree: Tree, table_name: str, part: str) -> Iterator[Clip]:
    table = tree.file(table_name)
    rows = plain_rows(table, delimiter="\t")
    header = next(rows, (0, []))[1]
    if header != _HEADER:
        raise ValueError(f"{table} has the columns {', '.join(header)}; they should be {', '.join(_HEADER)}")
    absent: list[tuple[int, str]] = []
    num_named = 0
    for line, row in rows:
        if len(row) < len(_HEADER):
            raise ValueError(f"{table} line {line} has {len(row)} fields, not {len(_HEADER)} or more")
        num_named += 1
        place = PurePosixPath(row[3])
        low = place.with_suffix(f".low{place.suffix}")
        name = next((found for file in (place, low) if (found := _audio(tree, file))), None)
        if name is None:
            absent.append((line, row[3]))
            continue
        attributes = _attributes(row[5:], table, line)
        yield Clip(name, tree.root / name, {**attributes, "artist": row[1]}, _PARTS[part], group=row[1])
    warn_absent(table, num_named, absent)


def _audio(tree: Tree, place: PurePosixPath) -> str | None:
    return tree.audio_named(place.name, place.parent.name)


def _attributes(tags: Sequence[str], table: Path, line: int) -> dict[str, Any]:
    """The tags as a caption, and by their kind: genre, instrument and moods."""
    attributes: dict[str, Any] = {}
    labels: list[str] = []
    for tag in tags:
        kind, _, label = tag.partition("---")
        if kind not in _ATTRIBUTES or not label:
            raise ValueError(f"{table} line {line}: {tag!r} is no tag of {', '.join(_ATTRIBUTES)}")
        attributes.setdefault(_ATTRIBUTES[kind], []).append(label)
        labels.append(label)
    return {"description": caption_from_labels(labels), **attributes}
