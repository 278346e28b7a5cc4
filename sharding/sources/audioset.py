"""AudioSet: 10 s of YouTube videos, each with several of 527 labels.

balanced_train_segments.csv      three lines of "#", then   YTID, start, end, "/m/068hy,/m/07q6cd_"
unbalanced_train_segments.csv    (any one of the three is enough)
eval_segments.csv
class_labels_indices.csv         index,mid,display_name         (or ontology.json: [{"id", "name", ...}])
.../Y<YTID>.wav                  the audio, named in one of the ways of `youtube`
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from sharding.sources.clip import Clip
from sharding.sources.labels import caption_from_labels
from sharding.sources.table import plain_rows, seconds, table_rows
from sharding.sources.tree import Tree, list_audio
from sharding.sources.youtube import Segment, video_clips

_SPLITS = {
    "balanced_train_segments.csv": "train",
    "unbalanced_train_segments.csv": "train",
    "eval_segments.csv": "test",
}


def audioset(path: str | Path, *, whole_videos: bool = False) -> list[Clip]:
    """The segments whose audio is there. Both train sets are train, eval is test, and there is no valid."""
    tree = list_audio(path)
    tables = {tree.optional_file(name): split for name, split in _SPLITS.items()}
    tables.pop(None, None)
    if not tables:
        raise FileNotFoundError(f"there is no {' nor '.join(_SPLITS)} in {tree.root}")
    names = label_names(tree)
    segments = (
        segment
        for table, split in tables.items()
        if table is not None
        for segment in _segments(table, split, names)
    )
    return video_clips(tree, segments, whole_videos=whole_videos)


def label_names(tree: Tree) -> dict[str, str]:
    """Machine identifier -> name of a label, "/m/0bt9lr" -> "Dog", from either of the files that tell it."""
    table = tree.file("class_labels_indices.csv", "ontology.json")
    if table.suffix == ".csv":
        return {row["mid"]: row["display_name"] for _, row in table_rows(table, ("mid", "display_name"))}
    try:
        return {entry["id"]: entry["name"] for entry in json.loads(table.read_bytes())}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{table} is not AudioSet's ontology: {error!r}") from error


def _segments(table: Path, split: str, names: dict[str, str]) -> Iterator[Segment]:
    for line, row in plain_rows(table, skip_space=True):
        if row[0].startswith("#"):
            continue
        if len(row) != 4:
            raise ValueError(f"{table} line {line} has {len(row)} fields, not 4")
        mids = row[3].split(",")
        unknown = [mid for mid in mids if mid not in names]
        if unknown:
            raise ValueError(f"{table} line {line}: no table names the label {unknown[0]!r}")
        labels = [names[mid] for mid in mids]
        attributes = {"description": caption_from_labels(labels), "labels": labels}
        start, end = seconds(row[1], table, line), seconds(row[2], table, line)
        yield Segment(row[0], start, end, split, attributes, table, line)
