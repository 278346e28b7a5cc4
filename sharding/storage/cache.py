"""Remote files kept on this machine: each is fetched once for all processes, and their size is bounded."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sharding.storage.download import Patience, Transport, download

_HASH = re.compile(r"[0-9a-f]{64}")
_MAX_BYTES = 1 << 40
# For this long (s) a file that could not be had is not asked for again, by any process on the machine: else the
# samples of a lost shard would each wait for all the tries.
_FAILURE_KEPT = 60.0
_PARTIAL = ".part"
_PARTIAL_KEPT = 3600.0


class ShardCache:
    """A folder of files named by their sha256, shared by all processes of a machine.

    folder: on a local disk, since it is locked by `flock` (None: one of this user's under the temporary folder).
    max_bytes: of all files together; those opened longest ago make room. A process that has such a file open goes
        on reading it. What is just being fetched comes on top, at most a file per process.
    timeout, deadline, tries, backoff: see `Patience`.   options: for fsspec's file system, {"anon": True}, ...
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        max_bytes: int = 1 << 36,
        timeout: float = 30.0,
        deadline: float = 900.0,
        tries: int = 3,
        backoff: float = 1.0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, got {max_bytes}")
        self.folder = _own_folder() if folder is None else Path(folder)
        self.max_bytes = max_bytes
        self.patience = Patience(timeout=timeout, deadline=deadline, tries=tries, backoff=backoff)
        self.options = dict(options or {})

    def fetch(self, bring: Transport, name: str, *, sha256: str, num_bytes: int | None = None) -> Path:
        """The local copy of the remote file `name`, checked when it comes. OSError or ValueError with the reason.

        It may be gone again before it is opened, when the cache is full: then ask once more.
        """
        if not _HASH.fullmatch(sha256):
            raise ValueError(f"{name}: {sha256[:80]!r} is no sha256")
        if num_bytes is not None and num_bytes > self.max_bytes:
            raise ValueError(
                f"{name} has {num_bytes} bytes, the cache {self.folder} may hold {self.max_bytes}"
            )
        path = self.folder / sha256
        if self._touch(path, num_bytes):
            return path
        with _locked(self.folder / "locks" / sha256) as lock:
            if self._touch(path, num_bytes):  # another process was first
                return path
            _refuse_again(lock)
            try:
                limit = min(self.max_bytes, _MAX_BYTES) if num_bytes is None else num_bytes
                with self._download(bring, name, limit, lambda file: _check(file, sha256, num_bytes)) as file:
                    self._publish(file, path)
            except (OSError, ValueError) as error:
                _note(lock, error)
                raise
            _note(lock, None)
        return path

    def read(self, bring: Transport, name: str, *, max_bytes: int) -> bytes:
        """A small remote file as it is now; it is not kept."""
        with self._download(bring, name, max_bytes, lambda file: None) as file:
            return file.read_bytes()

    @contextmanager
    def _download(
        self, bring: Transport, name: str, max_bytes: int, check: Callable[[Path], None]
    ) -> Iterator[Path]:
        self.folder.mkdir(parents=True, exist_ok=True)
        # A new name every time: a transfer that was given up may still write to its own.
        handle, temporary = tempfile.mkstemp(dir=self.folder, suffix=_PARTIAL)
        os.close(handle)
        try:
            download(bring, name, Path(temporary), max_bytes=max_bytes, patience=self.patience, check=check)
            yield Path(temporary)
        finally:
            Path(temporary).unlink(missing_ok=True)

    def _publish(self, file: Path, path: Path) -> None:
        """Moves a finished file to its place, after those that were opened longest ago have made room for it."""
        with _locked(self.folder / "locks" / "all"):
            room = self.max_bytes - file.stat().st_size
            kept = []
            for entry in os.scandir(self.folder):
                with suppress(FileNotFoundError):  # partial files go at any time
                    status = entry.stat()
                    if entry.name.endswith(_PARTIAL) and time.time() - status.st_mtime > _PARTIAL_KEPT:
                        Path(entry.path).unlink()  # of a process that was killed
                    elif _HASH.fullmatch(entry.name):
                        kept.append((status.st_mtime_ns, status.st_size, entry.path))
            used = sum(size for _, size, _ in kept)
            for _, size, oldest in sorted(kept):
                if used <= room:
                    break
                Path(oldest).unlink(missing_ok=True)
                used -= size
            file.replace(path)

    def _touch(self, path: Path, num_bytes: int | None) -> bool:
        """Whether the file is there, from now on as the one that was opened last."""
        try:
            if num_bytes is not None and path.stat().st_size != num_bytes:
                return False
            os.utime(path)
        except FileNotFoundError:
            return False
        return True


def _own_folder() -> Path:
    """Under the temporary folder, which on a cluster is the node's own disk."""
    folder = Path(tempfile.gettempdir()) / f"lightning-audio-shards-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user; give the shard cache a folder")
    return folder


def _check(file: Path, sha256: str, num_bytes: int | None) -> None:
    size = file.stat().st_size
    if num_bytes is not None and size != num_bytes:
        raise ValueError(f"is cut: {size} of {num_bytes} bytes came")
    with file.open("rb") as data:
        digest = hashlib.file_digest(data, "sha256").hexdigest()
    if digest != sha256:
        raise ValueError(f"what came has sha256 {digest[:12]}..., dataset.json says {sha256[:12]}...")


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Waits until no other process holds the lock; gives its file, in which a failure is noted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)


def _note(lock: int, error: Exception | None) -> None:
    os.ftruncate(lock, 0)
    if error is not None:
        missing = isinstance(error, FileNotFoundError)
        os.pwrite(lock, json.dumps([time.time(), missing, str(error)]).encode(), 0)


def _refuse_again(lock: int) -> None:
    try:
        when, missing, reason = json.loads(os.pread(lock, 1 << 16, 0))
    except ValueError:  # nothing noted, or a process died noting it
        return
    if 0 <= time.time() - when < _FAILURE_KEPT:
        raise (FileNotFoundError if missing else OSError)(reason)
