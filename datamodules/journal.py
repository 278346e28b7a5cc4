"""What the stream gave out, and what it could not: the audit and the quarantine."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Failure(NamedTuple):
    """A sample that could not be used."""

    shard: str
    key: str
    reason: str


class Journal:
    """Counts samples and failures of one rank; stops the run when there are too many failures.

    folder: where `audit-rank<r>.jsonl` and `quarantine-rank<r>.jsonl` are appended to; made when first
    needed.
    max_bad_ratio: of the samples seen, counted on at least 1000 so that a first bad one does not end a run.
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

    def record(
        self,
        positions: Sequence[int],
        keys: Sequence[str] | None,
        failures: Sequence[Failure],
        *,
        training: bool,
    ) -> None:
        """One batch: where in the stream its samples stand, their keys (None: there was none to use)."""
        self.num_seen += len(positions)
        self.num_bad += len(failures)
        for failure in failures:
            self._quarantine(Failure(*failure))
        if keys is None:
            raise ValueError(
                f"no sample can be used any more, the last: {failures[-1][1]}: {failures[-1][2]}"
            )
        if self.num_bad > self.max_bad_ratio * max(self.num_seen, 1000):
            raise ValueError(
                f"{self.num_bad} of {self.num_seen} samples could not be used, more than "
                f"{self.max_bad_ratio:.2%} (max_bad_ratio); they are named in {self.quarantine_file}"
            )
        if training and self.audit_file is not None:
            _append(self.audit_file, {"positions": list(positions), "keys": list(keys)})

    def _quarantine(self, failure: Failure) -> None:
        if (failure.shard, failure.key) in self._named:
            return
        self._named.add((failure.shard, failure.key))
        _append(self.quarantine_file, failure._asdict())
        warnings.warn(f"left out {failure.key} of {failure.shard}: {failure.reason}", stacklevel=2)


def _append(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(value) + "\n")
