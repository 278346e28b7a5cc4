"""FMA, the Free Music Archive: 106,574 tracks with genres, whole or 30 s of each, in sets of growing size.

    fma_metadata/tracks.csv          three lines of header: group (album, artist, set, track), name, "track_id"
    fma_metadata/genres.csv          genre_id,#tracks,parent,title,top_level
    fma_small/000/000002.mp3         the audio; or fma_medium, fma_large, fma_full

No artist is in two of the official splits. The table names all tracks and a set has some of them, so tracks that
are not there are left out and counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sharding.sources.clip import Clip, split_name
from sharding.sources.labels import caption_from_labels
from sharding.sources.table import plain_rows, table_rows, warn_absent
from sharding.sources.tree import list_audio

_COLUMNS = ("set.split", "artist.id", "artist.name", "track.title", "track.genres", "track.license")


def fma(path: str | Path) -> list[Clip]:
    """The tracks whose audio is there, in the official splits."""
    tree = list_audio(path)
    table = tree.file("tracks.csv")
    genre_names = {
        row["genre_id"]: row["title"] for _, row in table_rows(tree.file("genres.csv"), ("genre_id", "title"))
    }
    clips: list[Clip] = []
    absent: list[tuple[int, str]] = []
    for line, track, row in _tracks(table):
        number = track.zfill(6)
        name = tree.audio_named(f"{number}.mp3", number[:3])
        if name is None:
            absent.append((line, f"{number}.mp3"))
            continue
        split = split_name(row["set.split"])
        if split is None:
            raise ValueError(
                f"{table} line {line}: the split {row['set.split']!r} is none of train, valid, test"
            )
        attributes = _attributes(row, genre_names, f"{table} line {line}")
        clips.append(Clip(name, tree.root / name, attributes, split, group=row["artist.id"]))
    if not clips:
        raise ValueError(f"{tree.root} has audio of none of the {len(absent)} tracks that {table.name} names")
    warn_absent(table, len(clips) + len(absent), absent)
    return clips


def _tracks(table: Path) -> Iterator[tuple[int, str, dict[str, str]]]:
    """(line, track's number, row by "group.name") of the table with its header of three lines."""
    rows = plain_rows(table)
    groups, names, _ = (next(rows, (0, []))[1] for _ in range(3))
    columns = [f"{group}.{name}" for group, name in zip(groups, names, strict=False)]
    absent = [name for name in _COLUMNS if name not in columns]
    if absent:
        raise ValueError(
            f"{table} has no column {' nor '.join(map(repr, absent))} in its header of three lines"
        )
    for line, row in rows:
        if len(row) != len(columns):
            raise ValueError(f"{table} line {line} has {len(row)} fields, the header {len(columns)}")
        yield line, row[0], dict(zip(columns, row, strict=True))


def _attributes(row: dict[str, str], genre_names: dict[str, str], where: str) -> dict[str, Any]:
    try:
        numbers = [str(int(number)) for number in json.loads(row["track.genres"] or "[]")]
        genres = [genre_names[number] for number in numbers]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{where}: {row['track.genres']!r} are no genres of genres.csv") from error
    caption = {"description": caption_from_labels(genres), "genre": genres} if genres else {}
    return {
        **caption,
        "title": row["track.title"],
        "artist": row["artist.name"],
        "license": row["track.license"],
    }
