"""What the stream gave out, and what it could not: the audit and the quarantine."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Failure(NamedTuple):
    """A sample that could not be used, and the place in the stream where it stood."""

    position: int
    shard: str
    key: str
    reason: str


class Journal:
    """Counts samples and failures of one rank; stops the run when there are too many failures.

    folder: where `audit-rank<r>.jsonl` and `quarantine-rank<r>.jsonl` are appended to; made when first
    needed.
    max_bad_ratio: of the samples that this rank has seen since it started, counted on at least 1000 so that a first
    bad one does not end a run. A rank sees an even share of the stream: its ratio is that of the whole.
    """

    def __init__(self, folder: Path, *, audit: bool, max_bad_ratio: float, rank: int) -> None:
        if not 0 <= max_bad_ratio <= 1:
            raise ValueError(f"max_bad_ratio must be in [0, 1], got {max_bad_ratio}")
        self.folder = folder
        self.audit_file = folder / f"audit-rank{rank}.jsonl" if audit else None
        self.quarantine_file = folder / f"quarantine-rank{rank}.jsonl"
        self.max_bad_ratio = max_bad_ratio
        self.num_seen = 0
        self.num_bad = 0
        self._named: set[tuple[str, str]] = set()
        self._written: set[tuple[str, str]] = set()  # by earlier lives: the file itself is the memory of them

    def record(
        self,
        positions: Sequence[int],
        keys: Sequence[str] | None,
        failures: Sequence[Failure],
        *,
        training: bool,
    ) -> None:
        """One batch: where in the stream its samples stand, their keys (None: there was none to use)."""
        failures = [Failure(*failure) for failure in failures]
        self.num_seen += len(positions)
        self.num_bad += len(failures)
        for failure in failures:
            self._quarantine(failure)
        if keys is None:
            raise ValueError(
                f"no sample can be used any more, the last: {failures[-1].key}: {failures[-1].reason}"
            )
        if self.num_bad > self.max_bad_ratio * max(self.num_seen, 1000):
            raise ValueError(
                f"{self.num_bad} of {self.num_seen} samples could not be used, more than "
                f"{self.max_bad_ratio:.2%} (max_bad_ratio); they are named in {self.quarantine_file}"
            )
        if training and self.audit_file is not None:
            line: dict[str, Any] = {"positions": list(positions), "keys": list(keys)}
            if failures:
                line["replaced"] = sorted({failure.position for failure in failures})
            _append(self.audit_file, line)

    def _quarantine(self, failure: Failure) -> None:
        """Warns of the sample once, and names it in the file, unless an earlier life of the run did."""
        name = (failure.shard, failure.key)
        if name in self._named:
            return
        if not self._named:
            self._written = {(line["shard"], line["key"]) for line in _lines(self.quarantine_file)}
        self._named.add(name)
        if name not in self._written:
            _append(self.quarantine_file, failure._asdict())
        warnings.warn(f"left out {failure.key} of {failure.shard}: {failure.reason}", stacklevel=2)


class Audit(NamedTuple):
    """What stood at each position of the stream.

    keys: position -> key, of what was given out.   replaced: positions at which it stood in for a bad sample.
    """

    keys: dict[int, str]
    replaced: set[int]


def read_audit(folder: Path) -> Audit:
    """The audits of all ranks and lives of a run as one; ValueError where two of them disagree on a position.

    Steps after the checkpoint that a killed run came back to are in it twice, with the same keys.
    """
    keys: dict[int, str] = {}
    replaced: set[int] = set()
    for file in sorted(folder.glob("audit-rank*.jsonl")):
        for line in _lines(file):
            for position, key in zip(line["positions"], line["keys"], strict=True):
                if keys.setdefault(position, key) != key:
                    raise ValueError(f"position {position} was {keys[position]}, then {key} ({file})")
            replaced.update(line.get("replaced", ()))
    return Audit(keys, replaced)


def _append(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        # A run that was killed amid a line leaves it without its end.
        cut = file.seek(0, 2) > 0 and file.seek(-1, 2) >= 0 and file.read(1) != b"\n"
        file.write((b"\n" if cut else b"") + json.dumps(value).encode() + b"\n")


def _lines(path: Path) -> list[dict[str, Any]]:
    """The lines that are whole."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_bytes().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
