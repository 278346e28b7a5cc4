"""The table of clips beside a card: what each clip is, where its audio is, and its own scores.

It is what a comparison of two systems is paired by. Numbers that belong to a set and to no clip (a Fréchet distance)
are on the card alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lightning_audio.atomic import write_text

CLIPS_FILE = "clips.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ClipRow:
    """One clip.

    key: its name, the same in every evaluation of the same item.   prompt: what was asked for, to be read.
    audio: path of the file, from the card's folder; None where it was not kept.
    scores: measurement's name on the card -> this clip's score; NaN where it could not be scored.
    """

    key: str
    prompt: str = ""
    audio: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)


def save_clips(folder: str | Path, rows: Sequence[ClipRow]) -> Path:
    """Writes `clips.json` into a card's folder, whole or not at all."""
    keys = [row.key for row in rows]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"{len(keys)} clips have {len(set(keys))} names; {twice!r} is of several")
    clips = [
        {**asdict(row), "scores": {n: v if math.isfinite(v) else None for n, v in row.scores.items()}}
        for row in rows
    ]
    data = {"schema_version": SCHEMA_VERSION, "clips": clips}
    return write_text(
        Path(folder) / CLIPS_FILE, json.dumps(data, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    )


def load_clips(folder: str | Path) -> list[ClipRow]:
    """The table in a card's folder, in its order; empty where there is none.

    ValueError for another schema version, for what is no table, and for audio outside of the folder.
    """
    path = Path(folder) / CLIPS_FILE
    if not path.exists():
        return []
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no table of clips: {error}") from error
    found = data.get("schema_version") if isinstance(data, dict) else None
    if found != SCHEMA_VERSION:
        raise ValueError(f"{path} has version {found}, this program reads version {SCHEMA_VERSION}")
    try:
        rows = [
            ClipRow(
                key=str(clip["key"]),
                prompt=str(clip["prompt"]),
                audio=None if clip["audio"] is None else str(clip["audio"]),
                scores={n: math.nan if v is None else float(v) for n, v in clip["scores"].items()},
            )
            for clip in data["clips"]
        ]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is no whole table of clips: {error!r}") from error
    for row in rows:
        # A card may come from someone else: its page must not read files that lie elsewhere.
        if row.audio is not None and not _is_inside(Path(folder), row.audio):
            raise ValueError(
                f"{path}: the audio of {row.key!r} is {row.audio!r}, outside of the card's folder"
            )
    return rows


def _is_inside(folder: Path, path: str) -> bool:
    return (folder / path).resolve().is_relative_to(folder.resolve())
