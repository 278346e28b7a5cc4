"""Encoded audio on its way into a tar, on disk: memory stays flat however long a file is."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from lightning_audio.span import FileSpan


class Spool:
    """A nameless temporary file in `folder` that takes one encoded file after the other."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def clear(self) -> None:
        """Forget what is there: spans that were given are no longer valid."""
        os.truncate(self._file.fileno(), 0)

    def write(self, encode: Callable[[BinaryIO], int]) -> tuple[BinaryIO, int]:
        """What `encode` writes into the file that it is given, as a file to read, and what `encode` gave back."""
        file = self._file.fileno()
        target = _Tail(file, os.fstat(file).st_size)
        try:
            given = encode(target)  # type: ignore[arg-type]
        finally:
            if target.error is not None:
                raise target.error
        return io.BufferedReader(FileSpan(file, target.start, target.size)), given


class _Tail(io.RawIOBase):
    """The end of a file, from `start` on, as a file of its own.

    libsndfile swallows what a Python file raises, and a full disk would look like audio that cannot be encoded:
    the error is kept here, to be raised afterwards.
    """

    def __init__(self, file: int, start: int) -> None:
        self._file, self.start, self.size, self._place = file, start, 0, 0
        self.error: OSError | None = None

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self.size}[whence] + offset
        return self._place

    def write(self, data: bytes) -> int:  # type: ignore[override]
        try:
            written = os.pwrite(self._file, data, self.start + self._place)
        except OSError as error:
            self.error = self.error or error
            return 0
        self._place += written
        self.size = max(self.size, self._place)
        return written
