"""VGGSound: 10 s of YouTube videos, each with one of 309 labels.

vggsound.csv                     no header;   YTID,start,label,split        with split train or test
.../<YTID>_000030.wav            the audio, named in one of the ways of `youtube`
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sharding.sources.clip import Clip, split_name
from sharding.sources.labels import caption_from_labels
from sharding.sources.table import plain_rows, seconds
from sharding.sources.tree import list_audio
from sharding.sources.youtube import Segment, video_clips

_SECONDS = 10.0


def vggsound(path: str | Path, *, whole_videos: bool = False) -> list[Clip]:
    """The clips whose audio is there, in the official train and test; there is no valid."""
    tree = list_audio(path)
    return video_clips(tree, _segments(tree.file("vggsound.csv")), whole_videos=whole_videos)


def _segments(table: Path) -> Iterator[Segment]:
    for line, row in plain_rows(table):
        split = split_name(row[3]) if len(row) == 4 else None
        if split is None:
            raise ValueError(f"{table} line {line} is no video, start, label and split: {row}")
        # A label such as "dog barking, howling" is one text, but names several sounds as AudioSet's do.
        labels = [row[2]]
        attributes = {"description": caption_from_labels(labels), "labels": labels}
        start = seconds(row[1], table, line)
        yield Segment(row[0], start, start + _SECONDS, split, attributes, table, line)
