"""Bringing one remote file here: by fsspec or by a command, in bounded time and size, tried again when it fails."""

from __future__ import annotations

import os
import random
import shlex
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import fsspec
from fsspec.callbacks import Callback

_PIPE = "pipe:"
_BLOCK = 1 << 20


class Watch(Callback):
    """What a running transfer is told and tells: bytes so far, and to stop. fsspec calls it at every block."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__()
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.last = time.monotonic()
        self.stopped = False
        self.on_stop: Callable[[], None] = lambda: None

    def relative_update(self, inc: int = 1) -> None:
        self.num_bytes += inc
        self.last = time.monotonic()
        if self.stopped:
            raise OSError("given up")
        if self.num_bytes > self.max_bytes:
            raise ValueError(f"has more than {self.max_bytes} bytes")

    def stop(self) -> None:
        self.stopped = True
        self.on_stop()


class Transport(Protocol):
    """How files of one place are brought here."""

    def __call__(self, name: str, target: Path, watch: Watch) -> None:
        """Writes the remote file `name` to `target`; FileNotFoundError where the other side has none."""


@dataclass(frozen=True)
class FsspecTransport:
    """Files under a URL that fsspec knows: http, https, s3, gs, memory, ...  options: of its file system."""

    url: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        protocol = self.url.partition("://")[0]
        try:
            fsspec.get_filesystem_class(protocol)
        except ImportError as error:
            raise ImportError(
                f"{self.url}: {protocol}:// needs a package that is absent ({error}); "
                "pip install 'lightning-audio[remote]'"
            ) from error

    def __call__(self, name: str, target: Path, watch: Watch) -> None:
        # Asked for anew each time: fsspec keeps file systems by process and thread, for none survives a fork.
        files, root = fsspec.url_to_fs(self.url, **self.options)
        files.get_file(f"{root.rstrip('/')}/{name}", str(target), callback=watch)


@dataclass(frozen=True)
class PipeTransport:
    """What a shell command writes to its standard output; `{name}` in it is the file's name."""

    command: str

    def __post_init__(self) -> None:
        if "{name}" not in self.command:
            raise ValueError(f"{_PIPE}{self.command} should hold {{name}}, where the file's name goes")

    def __call__(self, name: str, target: Path, watch: Watch) -> None:
        command = self.command.replace("{name}", shlex.quote(name))
        with tempfile.TemporaryFile() as errors, target.open("wb") as out:
            process = subprocess.Popen(
                ["/bin/sh", "-c", command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # so that all of a pipeline can be stopped
            )
            assert process.stdout is not None
            watch.on_stop = lambda: _kill(process)
            try:
                while block := os.read(process.stdout.fileno(), _BLOCK):
                    out.write(block)
                    watch.relative_update(len(block))
                code = process.wait()
            finally:
                _kill(process)
                process.stdout.close()
            if code:
                errors.seek(0)
                said = errors.read(_BLOCK).decode(errors="replace").strip().splitlines()
                raise OSError(f"{command!r} ended with {code}{': ' + said[-1] if said else ''}")


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def is_remote(location: str | Path) -> bool:
    """Whether it is a URL or a `pipe:` command, not a path."""
    return isinstance(location, str) and (location.startswith(_PIPE) or "://" in location)


def transport(location: str, options: Mapping[str, Any]) -> Transport:
    """How files of a remote location are brought here."""
    if location.startswith(_PIPE):
        return PipeTransport(location.removeprefix(_PIPE))
    return FsspecTransport(location, options)


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to wait for a remote file.

    timeout: s without a byte until a transfer counts as stalled.   deadline: s for a file, bytes or not.
    tries: transfers before giving up; after the nth, `backoff` * 2^(n - 1) s pass, give or take half.
    """

    timeout: float = 30.0
    deadline: float = 900.0
    tries: int = 3
    backoff: float = 1.0

    def __post_init__(self) -> None:
        if min(self.timeout, self.deadline) <= 0 or self.tries < 1 or self.backoff < 0:
            raise ValueError(f"timeout and deadline must be positive, tries at least 1, got {self}")


def download(
    bring: Transport,
    name: str,
    target: Path,
    *,
    max_bytes: int,
    patience: Patience,
    check: Callable[[Path], None],
) -> None:
    """Writes a remote file to `target`, whole; OSError or ValueError with the last reason after all tries.

    check: raises ValueError where what came is not what it should be, which is tried again too.
    """
    for attempt in range(patience.tries):
        if attempt:
            # Not the global generator: how often a network fails must not change what is drawn in training.
            time.sleep(patience.backoff * 2 ** (attempt - 1) * random.SystemRandom().uniform(0.5, 1.5))
        try:
            _in_time(bring, name, target, Watch(max_bytes), patience)
            check(target)
            return
        except FileNotFoundError as error:
            raise FileNotFoundError(f"there is no {name}: {error}") from error
        except (OSError, ValueError) as error:
            failure = error
    raise type(failure)(f"{name}: {failure} ({patience.tries} tries)") from failure


def _in_time(bring: Transport, name: str, target: Path, watch: Watch, patience: Patience) -> None:
    """Runs the transfer in a thread of its own: a read that never comes back can be left, not interrupted."""
    done = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            bring(name, target, watch)
        except BaseException as error:
            failures.append(error)
        finally:
            done.set()

    start = time.monotonic()
    threading.Thread(target=run, name=f"download {name}", daemon=True).start()
    while not done.wait(
        max(0.0, min(watch.last + patience.timeout, start + patience.deadline) - time.monotonic())
    ):
        now = time.monotonic()
        if now >= watch.last + patience.timeout or now >= start + patience.deadline:
            watch.stop()
            raise TimeoutError(
                f"stalled: {watch.num_bytes} bytes in {now - start:.3g} s, the last {now - watch.last:.3g} s ago"
            )
    if not failures:
        return
    (error,) = failures
    if isinstance(error, (OSError, ValueError)):
        raise error
    raise OSError(f"{type(error).__name__}: {error}") from error  # each file system has errors of its own
