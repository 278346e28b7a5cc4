"""Clotho v2: Freesound recordings of 15 to 30 s, five captions each.

    clotho_captions_development.csv  file_name,caption_1,...,caption_5      (also _validation, _evaluation)
    clotho_metadata_development.csv  file_name,keywords,sound_id,sound_link,start_end_samples,manufacturer,license
    development/*.wav                the audio, in a folder development or clotho_audio_development

The metadata may be absent. It is in Latin-1, its keywords parted by ";", and "manufacturer" is who recorded it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sharding.sources.clip import Clip
from sharding.sources.table import refuse_absent, table_rows
from sharding.sources.tree import Tree, list_audio

_SPLITS = {"development": "train", "validation": "valid", "evaluation": "test"}
_CAPTIONS = tuple(f"caption_{number}" for number in range(1, 6))


def clotho(path: str | Path) -> list[Clip]:
    """All clips with their five captions. Development is train, validation valid, evaluation test."""
    tree = list_audio(path)
    clips: list[Clip] = []
    for part, split in _SPLITS.items():
        table = tree.optional_file(f"clotho_captions_{part}.csv")
        if table is None:
            continue
        about = _metadata(tree, part)
        absent: list[tuple[int, str]] = []
        for line, row in table_rows(table, ("file_name", *_CAPTIONS)):
            name = tree.audio_named(row["file_name"].strip(), part, f"clotho_audio_{part}")
            if name is None:
                absent.append((line, row["file_name"]))
                continue
            attributes = about.get(row["file_name"].strip(), {})
            captions = [row[caption] for caption in _CAPTIONS]
            clips.append(
                Clip(
                    name,
                    tree.root / name,
                    {"description": captions, **attributes},
                    split,
                    # Recordings that Freesound no longer has are "Not found".
                    group=attributes.get("sound_id") if attributes.get("sound_id", "").isdigit() else None,
                )
            )
        refuse_absent(table, absent)
    if not clips:
        looked_for = (f"clotho_captions_{part}.csv" for part in _SPLITS)
        raise FileNotFoundError(f"there is no {' nor '.join(looked_for)} in {tree.root}")
    return clips


def _metadata(tree: Tree, part: str) -> dict[str, dict[str, Any]]:
    """File name -> what the metadata says of it."""
    table = tree.optional_file(f"clotho_metadata_{part}.csv")
    if table is None:
        return {}
    columns = ("file_name", "keywords", "sound_id", "manufacturer", "license")
    return {
        row["file_name"].strip(): {
            "keywords": [word for word in row["keywords"].split(";") if word],
            "sound_id": row["sound_id"],
            "artist": row["manufacturer"],
            "license": row["license"],
        }
        for _, row in table_rows(table, columns, encoding="latin-1")
    }
