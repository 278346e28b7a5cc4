"""One tar and its index, written sample by sample, and what is to be remembered of it."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sharding.read import span_table
from sharding.schema import ShardIndex, ShardInfo, index_path
from sharding.writing.prepare import Skipped


@dataclass(frozen=True)
class WrittenShard:
    """What came of a shard; info is None where no clip was good.

    num_clipped: how many of its samples come from clipped audio.
    """

    info: ShardInfo | None
    sample_rates: Counter[int]
    channels: Counter[int]
    skipped: list[Skipped]
    num_clipped: int = 0


class ShardWriter:
    """A tar and its index, written sample by sample; `finish`, after the `with` block, sums it up."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._keys: list[str] = []
        self._spans: dict[str, dict[int, tuple[int, int]]] = {}
        self._audio: list[tuple[int, int, int]] = []

    def __enter__(self) -> ShardWriter:
        self._tar = tarfile.open(self.path, "w", format=tarfile.USTAR_FORMAT)
        return self

    def __exit__(self, *error: object) -> None:
        self._tar.close()

    def add(
        self,
        key: str,
        parts: Mapping[str, bytes | BinaryIO],
        num_samples: int,
        sample_rate: int,
        channels: int,
    ) -> None:
        """One sample; parts by name, without the dot. The numbers (sample_rate in Hz) are its audio's."""
        for part, data in sorted(parts.items()):
            file = io.BytesIO(data) if isinstance(data, bytes) else data
            member = tarfile.TarInfo(f"{key}.{part}")  # mtime 0, no owner: the same bytes every time
            member.size = file.seek(0, 2)
            file.seek(0)
            # A ustar header is one block, always, so the data starts 512 bytes on.
            self._spans.setdefault(part, {})[len(self._keys)] = (self._tar.offset + 512, member.size)
            self._tar.addfile(member, file)
        self._keys.append(key)
        self._audio.append((num_samples, sample_rate, channels))

    def finish(self, skipped: list[Skipped], num_clipped: int = 0) -> WrittenShard:
        """Write the index; an empty shard is removed."""
        if not self._keys:
            self.path.unlink()
            return WrittenShard(None, Counter(), Counter(), skipped)
        parts = {part: span_table(places, len(self._keys)) for part, places in self._spans.items()}
        num_samples, sample_rates, channels = np.array(self._audio, np.int64).T
        index = ShardIndex(self._keys, parts, num_samples, sample_rates, channels)
        index.save(index_path(self.path))
        info = ShardInfo(
            name=self.path.name,
            num_samples=len(index),
            num_bytes=self.path.stat().st_size,
            sha256=file_hash(self.path),
            index_sha256=file_hash(index_path(self.path)),
            duration=round(float(index.durations.sum()), 6),
        )
        return WrittenShard(
            info, Counter(sample_rates.tolist()), Counter(channels.tolist()), skipped, num_clipped
        )


def file_hash(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
