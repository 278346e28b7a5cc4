"""A stretch of a file as a file of its own: a member of a tar is read without reading the tar."""

from __future__ import annotations

import io
import os
from typing import Any


class FileSpan(io.RawIOBase):
    """`size` bytes of an open file from `offset` on.

    Reads by position and never moves the file's own, so that spans of one descriptor may be read in turn, and by
    processes that inherited it. Closing a span leaves the file open.
    """

    def __init__(self, file: int, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._place = file, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")[: max(0, self._size - self._place)]
        count = os.preadv(self._file, [view], self._offset + self._place) if len(view) else 0
        self._place += count
        return count
