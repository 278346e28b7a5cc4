"""A run folder: written atomically, and by one job at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType


def write_text_atomically(path: Path, text: str) -> None:
    """Write beside the target and rename, so that a reader sees the old text or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class RunLock:
    """Refuses a second job on the same run folder; the lock ends with the process, however it ends."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / ".lock"

    def __enter__(self) -> RunLock:
        # Ranks of one job share the folder: only the first takes the lock.
        self._file = None
        if int(os.environ.get("LOCAL_RANK", 0)) == 0 and int(os.environ.get("SLURM_PROCID", 0)) == 0:
            self._file = self.path.open("w")
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self._file.close()
                raise ValueError(f"another job is training in {self.path.parent}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
