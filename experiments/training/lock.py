"""A run folder belongs to one job at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType


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
