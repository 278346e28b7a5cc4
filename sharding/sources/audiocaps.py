"""AudioCaps: captions written for 10 s segments of AudioSet.

    train.csv  val.csv  test.csv     audiocap_id,youtube_id,start_time,caption    (any one is enough)
    .../<youtube_id>.wav             the audio, named in one of the ways of `youtube`

Valid and test have five rows, and so five captions, for each clip. All clips are AudioSet's: who trains on both
sees them twice, and who evaluates on AudioCaps must leave its test clips out of AudioSet.
"""

from __future__ import annotations

from pathlib import Path

from sharding.sources.clip import Clip
from sharding.sources.table import seconds, table_rows
from sharding.sources.tree import list_audio
from sharding.sources.youtube import Segment, video_clips

_SPLITS = {"train.csv": "train", "val.csv": "valid", "test.csv": "test"}
_SECONDS = 10.0


def audiocaps(path: str | Path, *, whole_videos: bool = False) -> list[Clip]:
    """The clips whose audio is there, with all their captions, in the official splits."""
    tree = list_audio(path)
    segments: dict[tuple[str, float], Segment] = {}
    for name, split in _SPLITS.items():
        table = tree.optional_file(name)
        if table is None:
            continue
        for line, row in table_rows(table, ("audiocap_id", "youtube_id", "start_time", "caption")):
            start = seconds(row["start_time"], table, line)
            video, attributes = row["youtube_id"], {"description": [], "audiocap_id": row["audiocap_id"]}
            new = Segment(video, start, start + _SECONDS, split, attributes, table, line)
            segment = segments.setdefault((video, start), new)
            if segment.split != split:
                raise ValueError(f"{table} line {line}: {video} is in {segment.split} and in {split}")
            segment.attributes["description"].append(row["caption"])
    for segment in segments.values():
        if len(segment.attributes["description"]) == 1:
            (segment.attributes["description"],) = segment.attributes["description"]
    if not segments:
        raise FileNotFoundError(f"there is no {' nor '.join(_SPLITS)} in {tree.root}")
    return video_clips(tree, segments.values(), whole_videos=whole_videos)
