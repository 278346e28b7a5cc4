"""Bought sound libraries: folders of files whose names say what is heard, some with a table beside them.

    <library>/<what is heard> 01.wav
    <library>/metadata.csv           optional: a column Filename, and Description, Keywords, Category, SubCategory

The table is what Soundminer and spreadsheets export; the names of its columns are taken in any case. Spreadsheets
themselves (.xlsx) are not read: save them as CSV.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from sharding.sources.clip import Clip
from sharding.sources.labels import caption_from_labels, labels_from_name, recording_name
from sharding.sources.table import table_rows
from sharding.sources.tree import Tree, list_audio

Place = Callable[[PurePosixPath], tuple[str, dict[str, Any]]]
"""File's name -> its group, and what the folders say of it."""


def sound_library(path: str | Path, place: Place) -> list[Clip]:
    """Every audio file. Its description is the table's, or made of the labels in its name."""
    tree = list_audio(path)
    told = _tables(tree)
    clips: list[Clip] = []
    for name in tree.audio:
        file = PurePosixPath(name)
        labels = labels_from_name(file.stem)
        group, from_folders = place(file)
        attributes = {
            "description": caption_from_labels(labels),
            "labels": labels,
            **from_folders,
            **told.get(file.name.lower(), {}),
        }
        clips.append(Clip(name, tree.root / name, attributes, group=group))
    return clips


def recording(file: PurePosixPath) -> tuple[str, dict[str, Any]]:
    """Grouped by recording: files of a folder that differ in the number of the take alone."""
    folder = {"library": file.parent.name} if file.parent.name else {}
    return str(file.parent / recording_name(file.stem)).lower(), folder


def _tables(tree: Tree) -> dict[str, dict[str, Any]]:
    """Lower-case file name -> what the tables say of it. Tables without a column of file names are not for us."""
    told: dict[str, dict[str, Any]] = {}
    for table in tree.named(".csv"):
        for _, row in table_rows(table):
            values = {re.sub(r"[\s_]+", "", column).lower(): text.strip() for column, text in row.items()}
            if "filename" not in values:
                break
            told[values["filename"].lower()] = _told(values)
    return told


def _told(values: dict[str, str]) -> dict[str, Any]:
    categories = [values[column] for column in ("category", "subcategory") if values.get(column)]
    keywords = [word.strip() for word in re.split(r"[,;]", values.get("keywords", "")) if word.strip()]
    told = {"description": values.get("description"), "keywords": keywords, "categories": categories}
    return {name: value for name, value in told.items() if value}
