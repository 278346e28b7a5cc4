"""FSD50K: 51,197 Freesound clips with 200 labels of AudioSet's ontology.

    FSD50K.ground_truth/dev.csv      fname,labels,mids,split                (split: train or val)
    FSD50K.ground_truth/eval.csv     fname,labels,mids
    FSD50K.dev_audio/64760.wav       named by Freesound's number
    FSD50K.eval_audio/37199.wav
    FSD50K.metadata/dev_clips_info_FSD50K.json   {"64760": {"title", "description", "tags", "license", "uploader"}}

Either part is enough and the metadata may be absent. Labels are spread upwards, a clip of "Electric_guitar" is
one of "Guitar" and "Music" too, and so is its caption; what the uploader wrote is kept as other attributes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sharding.sources.clip import Clip, split_name
from sharding.sources.labels import caption_from_labels
from sharding.sources.table import refuse_absent, table_rows
from sharding.sources.tree import Tree, list_audio

_COLUMNS = {"dev": ("fname", "labels", "split"), "eval": ("fname", "labels")}


def fsd50k(path: str | Path) -> list[Clip]:
    """All clips in the official splits: of dev train and val, and eval as test."""
    tree = list_audio(path)
    clips = [clip for part in _COLUMNS for clip in _part(tree, part)]
    if not clips:
        raise FileNotFoundError(f"there is no FSD50K.ground_truth/dev.csv nor eval.csv in {tree.root}")
    return clips


def _part(tree: Tree, part: str) -> list[Clip]:
    table = tree.optional_file(f"FSD50K.ground_truth/{part}.csv")
    if table is None:
        return []
    about = _uploaders_words(tree, part)
    clips: list[Clip] = []
    absent: list[tuple[int, str]] = []
    for line, row in table_rows(table, _COLUMNS[part]):
        name = tree.audio_named(f"{row['fname']}.wav", f"FSD50K.{part}_audio")
        split = split_name(row.get("split", "test"))
        if split is None:
            raise ValueError(f"{table} line {line}: the split {row['split']!r} is neither train nor val")
        if name is None:
            absent.append((line, f"{row['fname']}.wav"))
            continue
        labels = row["labels"].split(",")
        attributes = {
            "description": caption_from_labels(labels),
            "labels": labels,
            **about.get(row["fname"], {}),
        }
        group = attributes.get("artist") or row["fname"]
        clips.append(Clip(name, tree.root / name, attributes, split, group=group))
    refuse_absent(table, absent)
    return clips


def _uploaders_words(tree: Tree, part: str) -> dict[str, dict[str, Any]]:
    """Freesound's number -> title, keywords, license and artist."""
    file = tree.optional_file(f"{part}_clips_info_FSD50K.json")
    if file is None:
        return {}
    try:
        return {
            number: {
                "title": info["title"],
                "keywords": info["tags"],
                "license": info["license"],
                "artist": info["uploader"],
            }
            for number, info in json.loads(file.read_bytes()).items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{file} is not FSD50K's metadata: {error!r}") from error
