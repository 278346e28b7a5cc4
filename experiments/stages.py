"""A long job as named stages: each is done once, and a job that was killed goes on with the first that is not."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lightning_audio.atomic import write_text


@dataclass(frozen=True)
class StageRecord:
    """A finished stage: its name, wall time in seconds over all its lives, and a line on what it made."""

    name: str
    seconds: float
    detail: str


class StageLog:
    """Remembers in `<folder>/stages.json` which stages are done."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "stages.json"
        stored = json.loads(self.path.read_text()) if self.path.exists() else {"done": [], "spent": {}}
        self.done = {record["name"]: StageRecord(**record) for record in stored["done"]}
        self._spent: dict[str, float] = stored["spent"]

    def run(self, name: str, work: Callable[[], str]) -> None:
        """Do `work` unless it is done; it gives a line on what it made."""
        if name in self.done:
            print(f"{name}: done already ({self.done[name].detail})", flush=True)
            return
        print(f"{name} ...", flush=True)
        began = time.monotonic()
        try:
            detail = work()
        except BaseException:
            self._spent[name] = self._spent.get(name, 0.0) + time.monotonic() - began
            self._save()
            raise
        seconds = self._spent.pop(name, 0.0) + time.monotonic() - began
        self.done[name] = StageRecord(name, seconds, detail)
        self._save()
        print(f"{name}: {detail} ({seconds:.0f} s)", flush=True)

    def _save(self) -> None:
        records = [vars(record) for record in self.done.values()]
        write_text(self.path, json.dumps({"done": records, "spent": self._spent}, indent=1))
