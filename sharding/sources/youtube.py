"""Audio of YouTube collections: found by video and start, whatever downloader named the files.

    Y<id>.wav   <id>.wav                        the segment, cut
    <id>_30.wav   <id>_000030.wav               ... with its start in s
    <id>_30_40.wav   <id>_30000_40000.wav       ... with start and end, in s or ms
    Y<id>_30.000_40.000.wav   [<id>]-[30-40].wav

Videos disappear, so clips without audio are left out and counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharding.sources.clip import Clip
from sharding.sources.table import warn_absent
from sharding.sources.tree import Tree

_NUMBER = r"(\d+(?:\.\d+)?)"
_NAME = re.compile(rf"\[?Y?(?P<video>[\w-]{{11}})\]?(?:[_-]\[?{_NUMBER}(?:[_-]{_NUMBER})?\]?)?")


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a video, from start to end (s), and the line of the table that names it."""

    video: str
    start: float
    end: float
    split: str
    attributes: dict[str, Any]
    table: Path
    line: int


def video_clips(tree: Tree, segments: Iterable[Segment], *, whole_videos: bool = False) -> list[Clip]:
    """The segments whose audio is there. The group is the video.

    whole_videos: a file named by its video alone holds all of it, and the clip is the stretch; otherwise it is
        the segment already. A file with a start in its name is the segment in any case.
    """
    files = _files_by_video(tree)
    clips: list[Clip] = []
    absent: dict[Path, list[tuple[int, str]]] = {}
    num_named: Counter[Path] = Counter()
    starts: dict[str, float] = {}
    for segment in segments:
        num_named[segment.table] += 1
        found = _file_of(segment, files.get(segment.video, []))
        if found is None:
            what = f"audio of {segment.video} at {segment.start:g} s"
            absent.setdefault(segment.table, []).append((segment.line, what))
            continue
        start_in_name, name = found
        whole = whole_videos and start_in_name is None
        if not whole:
            if name in starts:
                raise ValueError(
                    f"{tree.root / name} could be its video at {starts[name]:g} s or at {segment.start:g} s: "
                    "its name must have the start"
                )
            starts[name] = segment.start
        clips.append(_clip(tree, name, segment, whole))
    if not clips:
        raise ValueError(
            f"{tree.root} has audio of none of the {num_named.total()} clips that its tables name"
        )
    for table, missing in absent.items():
        warn_absent(table, num_named[table], missing)
    return clips


def _clip(tree: Tree, name: str, segment: Segment, whole: bool) -> Clip:
    stem, dot, suffix = name.rpartition(".")
    return Clip(
        f"{stem}_{segment.start:g}{dot}{suffix}" if whole else name,
        tree.root / name,
        {**segment.attributes, "youtube_id": segment.video, "youtube_start": segment.start},
        segment.split,
        group=segment.video,
        start=segment.start if whole else 0.0,
        duration=segment.end - segment.start if whole else None,
    )


def _files_by_video(tree: Tree) -> dict[str, list[tuple[float | None, str]]]:
    """Video -> (start as in the file's name, its name)."""
    files: dict[str, list[tuple[float | None, str]]] = {}
    for name in tree.audio:
        match = _NAME.fullmatch(name.rpartition("/")[2].rpartition(".")[0])
        if match:
            start = None if match[2] is None else float(match[2])
            files.setdefault(match["video"], []).append((start, name))
    return files


def _file_of(segment: Segment, files: list[tuple[float | None, str]]) -> tuple[float | None, str] | None:
    by_start = dict(reversed(files))
    for start in (segment.start, 1000 * segment.start, float(int(segment.start)), None):
        if start in by_start:
            return start, by_start[start]
    return None
