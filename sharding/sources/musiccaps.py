"""MusicCaps: music of AudioSet, 10 s each, described by musicians.

    musiccaps-public.csv             ytid,start_s,end_s,audioset_positive_labels,aspect_list,caption,author_id,
                                     is_balanced_subset,is_audioset_eval
    .../<ytid>.wav                   the audio, named in one of the ways of `youtube`

The aspects, a list as Python writes one, become `keywords`. Clips of AudioSet's eval set are test, the others
train: that is the only division the table states. Published scores are on all 5,521 clips, none of them trained
on: `everything_is_test`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from sharding.sources.clip import Clip
from sharding.sources.table import seconds, table_rows
from sharding.sources.tree import list_audio
from sharding.sources.youtube import Segment, video_clips

_COLUMNS = (
    "ytid",
    "start_s",
    "end_s",
    "audioset_positive_labels",
    "aspect_list",
    "caption",
    "is_audioset_eval",
)


def musiccaps(
    path: str | Path, *, everything_is_test: bool = False, whole_videos: bool = False
) -> list[Clip]:
    """The clips whose audio is there; with `everything_is_test` for evaluation alone."""
    tree = list_audio(path)
    segments = _segments(tree.file("musiccaps-public.csv"), everything_is_test)
    return video_clips(tree, segments, whole_videos=whole_videos)


def _segments(table: Path, everything_is_test: bool) -> Iterator[Segment]:
    for line, row in table_rows(table, _COLUMNS):
        attributes = {
            "description": row["caption"],
            "keywords": _aspects(row["aspect_list"], table, line),
            "audioset_labels": row["audioset_positive_labels"].split(","),
        }
        is_test = everything_is_test or row["is_audioset_eval"].strip().lower() == "true"
        split = "test" if is_test else "train"
        start, end = seconds(row["start_s"], table, line), seconds(row["end_s"], table, line)
        yield Segment(row["ytid"], start, end, split, attributes, table, line)


def _aspects(text: str, table: Path, line: int) -> list[str]:
    try:
        aspects = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"{table} line {line}: {text[:60]!r} is no list of aspects") from error
    if not isinstance(aspects, list):
        raise ValueError(f"{table} line {line}: {text[:60]!r} is no list of aspects")
    return [str(aspect) for aspect in aspects]
