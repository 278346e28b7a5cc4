"""BBC Sound Effects: 16,000 effects and atmospheres, each with a line of description.

    BBCSoundEffects.csv              location,description,secs,category,CDNumber,CDName,tracknum
    .../07076051.wav                 the audio under its location, or with a description before it:
    sounds/<CDName>/<description>.07076051.wav

Neighbours on a CD are often takes of one recording, so the CD is the group; there are no official splits. Half a
terabyte is rarely there in full: sounds without audio are left out and counted.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from sharding.sources.clip import Clip
from sharding.sources.table import table_rows, warn_absent
from sharding.sources.tree import list_audio

_COLUMNS = ("location", "description", "category", "CDNumber", "CDName")


def bbc_sound_effects(path: str | Path) -> list[Clip]:
    """The sounds whose audio is there, with the description as it was written."""
    tree = list_audio(path)
    table = tree.file("BBCSoundEffects.csv")
    # "Heavy rain.07076051.wav" and "07076051.flac" are both the sound 07076051.
    files = {PurePosixPath(name).stem.rpartition(".")[2]: name for name in reversed(tree.audio)}
    clips: list[Clip] = []
    absent: list[tuple[int, str]] = []
    for line, row in table_rows(table, _COLUMNS):
        name = files.get(PurePosixPath(row["location"]).stem)
        if name is None:
            absent.append((line, row["location"]))
            continue
        told = {
            "description": " ".join(row["description"].split()),
            "labels": [row["category"]] if row["category"] else [],
            "album": row["CDName"],
        }
        attributes = {key: value for key, value in told.items() if value}
        group = row["CDNumber"] or row["CDName"] or None
        clips.append(Clip(name, tree.root / name, attributes, group=group))
    if not clips:
        raise ValueError(f"{tree.root} has audio of none of the {len(absent)} sounds that {table.name} names")
    warn_absent(table, len(clips) + len(absent), absent)
    return clips
