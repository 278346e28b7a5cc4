"""Where clips come from: one small file per layout, each a function that gives `Clip`s.

A source is any list of `Clip`; `find_clips` picks the layout by what lies at the path.
"""

from __future__ import annotations

from pathlib import Path

from sharding.sources.audiocraft import audiocraft_manifest, is_manifest
from sharding.sources.captions import captions_table
from sharding.sources.clip import Clip
from sharding.sources.folder import folder

__all__ = ["Clip", "audiocraft_manifest", "captions_table", "find_clips", "folder"]


def find_clips(
    path: str | Path, *, captions: str | Path | None = None, caption_from: str | None = None
) -> list[Clip]:
    """The clips at `path`: a folder of audio, a captions table (.csv, .tsv, .jsonl) or AudioCraft's manifest.

    captions: a table that names files under `path`.  caption_from: "folder" or "file", see `folder`.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}")
    if captions is not None:
        return captions_table(captions, root=path)
    if is_manifest(path):
        return audiocraft_manifest(path)
    if path.is_file():
        return captions_table(path)
    return folder(path, caption_from=caption_from)
