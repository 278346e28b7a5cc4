"""The audio of an evaluation, made item by item into a folder; killed, it goes on with what is there.

A file is named by its item's key. Which items are finished stands in journals, one of each rank, beside the settings
that made them: other settings begin anew.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from torch import Tensor

from experiments.evaluation.items import Item
from experiments.evaluation.makers import Maker, ReadItem
from experiments.evaluation.ranks import Rank
from lightning_audio.atomic import write_text
from lightning_audio.audio import write

FOLDER = "generated"
SETTINGS_FILE = "settings.json"
# Another number for another way to make audio of the same settings.
_VERSION = 1

Level = Callable[[Tensor, int], Tensor]


class Generations:
    """The folder.  settings: all that its audio follows from."""

    def __init__(self, out: Path, settings: dict[str, Any]) -> None:
        self.folder = out / FOLDER
        self.settings = json.loads(json.dumps({"version": _VERSION, **settings}))  # as it is read again
        self.hash = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    def path(self, key: str) -> Path:
        return self.folder / f"{quote(key, safe='')}.wav"

    def open(self) -> str:
        """Makes the folder ready, by the first rank; gives a line that says what is done already, or was dropped."""
        record = self.folder / SETTINGS_FILE
        line = ""
        if self.folder.exists():
            stored = json.loads(record.read_text()) if record.exists() else None
            if stored is None and any(self.folder.iterdir()):
                raise ValueError(f"{self.folder} holds files of something else; give another out=")
            if stored is not None and stored["hash"] == self.hash:
                done = len(self.finished())
                return f"going on: {done} clips are made already" if done else ""
            if stored is not None:
                line = (
                    f"other settings ({_changes(stored['settings'], self.settings)}): making all clips anew"
                )
                shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(
            record, json.dumps({"hash": self.hash, "settings": self.settings}, indent=1, sort_keys=True)
        )
        return line

    def finished(self) -> dict[str, str | None]:
        """Keys of the items that are done, and what is wrong with those of which no file could be written."""
        done: dict[str, str | None] = {}
        for journal in sorted(self.folder.glob("done-*.jsonl")):
            for line in journal.read_text(encoding="utf-8").splitlines():
                try:
                    record = json.loads(line)
                    key, fault = record["key"], record["fault"]
                except (json.JSONDecodeError, KeyError):
                    continue  # torn by a kill: that item is made again
                if fault is not None or self.path(key).exists():
                    done[key] = fault
        return done

    def make(
        self,
        maker: Maker,
        items: Sequence[Item],
        read: ReadItem,
        *,
        rank: Rank,
        batch_size: int,
        level: Level,
        track: Callable[[Iterable[Sequence[Item]]], Iterable[Sequence[Item]]] = iter,
    ) -> None:
        """Makes this rank's share of what is not done yet.  level: brings a clip to the loudness of the protocol."""
        done = self.finished()
        left = [item for item in items[rank.rank :: rank.world_size] if item.key not in done]
        batches = [left[start : start + batch_size] for start in range(0, len(left), batch_size)]
        with (self.folder / f"done-{rank.rank}.jsonl").open("a", encoding="utf-8") as journal:
            if journal.tell():
                journal.write("\n")  # the last line may be torn
            for batch in track(batches):
                for item, wav in zip(batch, self._made(maker, batch, read), strict=True):
                    fault = wav if isinstance(wav, str) else self._write(item, wav, maker.sample_rate, level)
                    journal.write(json.dumps({"key": item.key, "fault": fault}) + "\n")
                    journal.flush()

    def _made(self, maker: Maker, batch: Sequence[Item], read: ReadItem) -> list[Tensor | str]:
        """A clip for each item, or why there is none: a maker may need the item's reference, which may be broken."""
        readable: dict[str, str] = {}

        def checked(item: Item) -> Tensor:
            try:
                return read(item)
            except (ValueError, OSError) as error:
                readable[item.key] = str(error)
                raise _UnreadableError from error

        try:
            return list(maker.make(batch, checked))
        except _UnreadableError:
            if len(batch) == 1:
                return [f"its reference cannot be read: {readable[batch[0].key]}"]
            return [wav for item in batch for wav in self._made(maker, [item], read)]

    def _write(self, item: Item, wav: Tensor, sample_rate: int, level: Level) -> str | None:
        """The file; or what is wrong with a clip that no file can hold."""
        if not wav.isfinite().all():
            return "not finite"
        # As floats: nothing is clipped or rounded that the metrics would not have clipped or rounded.
        write(self.path(item.key), level(wav.float(), sample_rate), sample_rate, subtype="FLOAT")
        return None


class _UnreadableError(Exception):
    """A reference that a maker needs cannot be read."""


def _changes(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The settings that differ, with both values."""
    flat = {name: _flat(settings) for name, settings in (("old", old), ("new", new))}
    names = sorted(flat["old"].keys() | flat["new"].keys())
    changed = [
        f"{name} {flat['old'].get(name)} -> {flat['new'].get(name)}"
        for name in names
        if flat["old"].get(name) != flat["new"].get(name)
    ]
    return ", ".join(changed)


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value[:12] if isinstance(value, str) and len(value) == 64 else value
    return found
