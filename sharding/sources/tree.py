"""The files under a folder, listed once and looked up by name, so that a million of them take seconds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lightning_audio.audio import SUFFIXES


@dataclass(frozen=True)
class Tree:
    """What lies under `root`: names relative to it, with forward slashes, in order.

    audio: files with an audio suffix.   others: all other files.
    """

    root: Path
    audio: list[str]
    others: list[str]

    def file(self, *names: str) -> Path:
        """The first of `names` that is there, at any depth; FileNotFoundError with what was looked for."""
        found = self.optional_file(*names)
        if found is None:
            raise FileNotFoundError(f"there is no {' nor '.join(names)} in {self.root}")
        return found

    def optional_file(self, *names: str) -> Path | None:
        """As `file`, or None."""
        for name in names:
            same = self._others_by_file_name.get(name.rpartition("/")[2], [])
            found = [other for other in same if f"/{other}".endswith(f"/{name}")]
            if found:
                return self.root / min(found, key=lambda other: (other.count("/"), other))
        return None

    def named(self, suffix: str) -> list[Path]:
        """All files that are no audio and whose name ends in `suffix`."""
        return [self.root / name for name in self.others if name.lower().endswith(suffix)]

    def audio_named(self, file_name: str, *folders: str) -> str | None:
        """The audio file of that file name, in a folder named as one of `folders`, or the only one anywhere.

        None where there is none, or several that the folders do not tell apart.
        """
        found = self._audio_by_file_name.get(file_name, [])
        here = [name for name in found if name.rpartition("/")[0].rpartition("/")[2] in folders]
        candidates = here or found
        return candidates[0] if len(candidates) == 1 else None

    @cached_property
    def _audio_by_file_name(self) -> dict[str, list[str]]:
        return _by_file_name(self.audio)

    @cached_property
    def _others_by_file_name(self) -> dict[str, list[str]]:
        return _by_file_name(self.others)


def list_tree(root: str | Path) -> Tree:
    """The tree under the folder `root`; FileNotFoundError where there is none. Hidden files are left out."""
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    audio: list[str] = []
    others: list[str] = []
    for name in _files(root, "", set()):
        (audio if has_audio_suffix(name) else others).append(name)
    return Tree(root, audio, others)


def list_audio(root: str | Path, *looked_for: str) -> Tree:
    """The tree, which must hold audio: FileNotFoundError if it does not."""
    tree = list_tree(root)
    if not tree.audio:
        raise FileNotFoundError(f"no audio in {root} (looked for {', '.join(looked_for or SUFFIXES)})")
    return tree


def has_audio_suffix(name: str) -> bool:
    return name[name.rfind(".") :].lower() in SUFFIXES


def _files(folder: str | Path, prefix: str, seen: set[tuple[int, int]]) -> Iterator[str]:
    """Names in the order of paths, part by part: "a/b" before "a b", and a folder where its name stands."""
    here = os.stat(folder)  # noqa: PTH116 - a Path for each of many folders costs more than the call
    if (here.st_dev, here.st_ino) in seen:  # a link back to a folder above, or a second name of one
        return
    seen.add((here.st_dev, here.st_ino))
    with os.scandir(folder) as entries:
        inside = sorted(entries, key=lambda entry: entry.name)
    for entry in inside:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _files(entry.path, f"{prefix}{entry.name}/", seen)
        elif entry.is_file():
            yield prefix + entry.name


def _by_file_name(names: list[str]) -> dict[str, list[str]]:
    by_file_name: dict[str, list[str]] = {}
    for name in names:
        by_file_name.setdefault(name.rpartition("/")[2], []).append(name)
    return by_file_name
