"""A table with one row per file: CSV, TSV or JSONL.

    file,description,artist,split
    rain/01.wav,"rain on a tin roof",Ann,train

`file` (or path, file_name, filename, audio) is relative to the audio's folder, by default the table's own;
`description` (or caption, text) and all other columns become attributes; `split` decides where it is there, and
else no `artist` is in two splits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from sharding.sources.clip import Clip, artist_of, json_lines, split_name
from sharding.sources.table import refuse_absent, table_rows

_FILE = ("file", "path", "file_name", "filename", "audio")
_DESCRIPTION = ("description", "caption", "text")


def captions_table(table: str | Path, *, root: str | Path | None = None) -> list[Clip]:
    """The files that `table` names, other columns as attributes. Several rows of a file: several captions."""
    table = Path(table)
    if not table.is_file():
        raise FileNotFoundError(f"there is no captions file {table}")
    root = table.parent if root is None else Path(root)
    clips: dict[str, Clip] = {}
    missing: list[tuple[int, str]] = []
    for line, row in _rows(table):
        clip = _clip(table, line, row, root)
        if not clip.path.is_file():
            missing.append((line, str(clip.path)))
        elif clip.name in clips:
            clips[clip.name] = _with_another_caption(clips[clip.name], clip)
        else:
            clips[clip.name] = clip
    refuse_absent(table, missing)
    if not clips:
        raise ValueError(f"{table} names no files")
    return list(clips.values())


def _rows(table: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    suffix = table.name.lower().removesuffix(".gz").rpartition(".")[2]
    if suffix == "jsonl":
        return json_lines(table)
    if suffix in ("csv", "tsv"):
        rows = table_rows(table, delimiter="\t" if suffix == "tsv" else ",")
        # An empty field says nothing; it is no attribute that is the empty text.
        return ((line, {name: text for name, text in row.items() if text}) for line, row in rows)
    raise ValueError(f"{table} is no captions file: known are .csv, .tsv and .jsonl")


def _clip(table: Path, line: int, row: dict[str, Any], root: Path) -> Clip:
    names = {name.lower(): name for name in row}
    file_column = next((names[name] for name in _FILE if name in names), None)
    if file_column is None:
        raise ValueError(
            f"{table} line {line} names no file: it wants a column {', '.join(_FILE[:-1])} or {_FILE[-1]}"
        )
    values = dict(row)
    file = str(values.pop(file_column))
    text = next((names[name] for name in _DESCRIPTION if name in names), None)
    description = {"description": values.pop(text)} if text else {}
    split = None
    if "split" in names:
        split = split_name(str(values.pop(names["split"])))
        if split is None:
            raise ValueError(
                f"{table} line {line}: split {row[names['split']]!r} is none of train, valid, test"
            )
    attributes = {**description, **values}
    return Clip(str(PurePosixPath(file)), root / file, attributes, split, group=artist_of(attributes))


def _with_another_caption(first: Clip, other: Clip) -> Clip:
    captions: list[Any] = []
    for clip in (first, other):
        text = clip.attributes.get("description", [])
        captions += text if isinstance(text, list) else [text]
    unique = list(dict.fromkeys(captions))
    description = unique[0] if len(unique) == 1 else unique
    return replace(first, attributes={**first.attributes, "description": description})
