"""Random access to the parts of samples in tar shards. Nothing that is read can run code or choose a path."""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

from lightning_audio.span import FileSpan
from sharding.schema import ATTRIBUTES_PART, ShardIndex, ShardInfo, parse_attributes
from sharding.storage.folders import Folder, as_folder, open_fetched

# Parts up to this size are read at once; of longer ones only what the decoder asks for.
_WHOLE = 1 << 20
_READ_AHEAD = 1 << 17


class ShardReader:
    """Reads parts of the shards in `folder`, with at most `max_open` files open; pickles without them.

    max_part_bytes: what is larger is refused.
    """

    def __init__(self, folder: Path | Folder, *, max_open: int = 64, max_part_bytes: int = 1 << 31) -> None:
        self.folder = as_folder(folder)
        self.max_open = max_open
        self.max_part_bytes = max_part_bytes
        self._files: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def read(self, shard: ShardInfo, index: ShardIndex, sample: int, part: str) -> bytes:
        """All bytes of a part; ValueError where it is absent, too large or past the end of the tar."""
        file, offset, size = self._span(shard, index, sample, part)
        data = os.pread(file, size, offset)
        if len(data) < size:
            raise ValueError(f".{part} is cut: {len(data)} of {size} bytes")
        return data

    def open(self, shard: ShardInfo, index: ShardIndex, sample: int, part: str) -> BinaryIO:
        """A part as a file to read from; use it before the next call."""
        file, offset, size = self._span(shard, index, sample, part)
        if size <= _WHOLE:
            return io.BytesIO(self.read(shard, index, sample, part))
        return io.BufferedReader(FileSpan(file, offset, size), _READ_AHEAD)

    def attributes(self, shard: ShardInfo, index: ShardIndex, sample: int) -> dict[str, Any]:
        """The sample's attributes."""
        return parse_attributes(self.read(shard, index, sample, ATTRIBUTES_PART))

    def close(self) -> None:
        while self._files:
            os.close(self._files.popitem()[1][0])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict()}

    def __del__(self) -> None:
        self.close()

    def _span(self, shard: ShardInfo, index: ShardIndex, sample: int, part: str) -> tuple[int, int, int]:
        """(file descriptor, offset, size), checked against the file: an index can be wrong or hostile."""
        offset, size = index.parts[part][sample].tolist() if part in index.parts else (0, -1)
        if size < 0:
            raise ValueError(f"has no .{part}")
        if size > self.max_part_bytes:
            raise ValueError(f".{part} has {size} bytes, more than {self.max_part_bytes}")
        file, length = self._open(shard)
        if offset < 0 or offset + size > length:
            raise ValueError(f".{part} lies at {offset} to {offset + size}, {shard.name} has {length} bytes")
        return file, offset, size

    def _open(self, shard: ShardInfo) -> tuple[int, int]:
        if shard.name in self._files:
            self._files.move_to_end(shard.name)
            return self._files[shard.name]
        while len(self._files) >= self.max_open:
            os.close(self._files.popitem(last=False)[1][0])
        file = open_fetched(
            self.folder,
            shard.name,
            lambda path: os.open(path, os.O_RDONLY | os.O_CLOEXEC),
            sha256=shard.sha256,
            num_bytes=shard.num_bytes,
        )
        self._files[shard.name] = (file, os.fstat(file).st_size)
        return self._files[shard.name]
