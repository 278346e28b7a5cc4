"""One clip of a source, and what the sources share: finding audio, reading tables, names of splits."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from lightning_audio.audio import SUFFIXES
from lightning_audio.span import FileSpan

_SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "val", "validation", "dev"), "valid"),
    **dict.fromkeys(("test", "testing", "eval", "evaluate", "evaluation"), "test"),
}


@dataclass(frozen=True, slots=True)  # slots: a million of them are held at once
class Clip:
    """A stretch of audio, what is known of it, and the split that its source puts it in (None: no split).

    name: its path inside the source, with forward slashes and the audio file's suffix; keys are made from it.
    path: the file that holds it.   span: (offset, size) in bytes, where that is an archive and not the audio itself.
    group: what must not be on both sides of a split, such as its artist or recording; None: the clip by itself.
    start, duration: s, which stretch of the audio is meant; None: to its end.
    conditions: further audio of the sample, such as {"melody": Clip(...)}, kept as parts of their own.
    """

    name: str
    path: Path
    attributes: dict[str, Any] = field(default_factory=dict)
    split: str | None = None
    group: str | None = None
    start: float = 0.0
    duration: float | None = None
    span: tuple[int, int] | None = None
    conditions: Mapping[str, Clip] = field(default_factory=dict)

    @property
    def suffix(self) -> str:
        """Of the audio file, in lower case, with the dot."""
        return PurePosixPath(self.name).suffix.lower()

    @property
    def num_bytes(self) -> int:
        """Of the audio file, encoded."""
        return self.path.stat().st_size if self.span is None else self.span[1]

    @contextlib.contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The encoded audio file."""
        with self.path.open("rb") as file:
            yield file if self.span is None else io.BufferedReader(FileSpan(file.fileno(), *self.span))


def artist_of(attributes: Mapping[str, Any]) -> str | None:
    """The group of a clip whose source tells no other: nobody's music is both trained on and tested on."""
    artist = attributes.get("artist")
    return artist if isinstance(artist, str) and artist else None


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
