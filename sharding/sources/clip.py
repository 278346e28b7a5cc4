"""One clip of a source, and what the sources share: finding audio, reading tables, names of splits."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_audio.audio import SUFFIXES

_SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "val", "validation", "dev"), "valid"),
    **dict.fromkeys(("test", "testing", "eval", "evaluate", "evaluation"), "test"),
}


@dataclass(frozen=True)
class Clip:
    """A file of audio, what is known of it, and the split that its source puts it in (None: no split).

    name: its path inside the source, with forward slashes; keys are made from it.
    """

    name: str
    path: Path
    attributes: dict[str, Any] = field(default_factory=dict)
    split: str | None = None


def split_name(text: str) -> str | None:
    """train, valid or test for the names that collections use for them; None for any other."""
    return _SPLIT_NAMES.get(text.strip().lower())


def is_audio(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of a JSONL file, gzipped or not; a bad line is a ValueError that names it."""
    number = 0
    with (
        gzip.open(path, "rt", encoding="utf-8")
        if path.suffix == ".gz"
        else path.open(encoding="utf-8") as file
    ):
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    value = json.loads(line)
                    if not isinstance(value, dict):
                        raise ValueError(f"holds a {type(value).__name__}, not an object")
                    yield number, value
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(f"{path} line {number}: {error}") from error


def refuse_missing(table: Path, missing: list[tuple[int, str]]) -> None:
    """FileNotFoundError for the files that a table names and that are not there."""
    if missing:
        line, name = missing[0]
        others = f" (nor {len(missing) - 1} others that it names)" if len(missing) > 1 else ""
        raise FileNotFoundError(f"{table} line {line}: there is no {name}{others}")
