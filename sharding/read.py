"""Reading a tar from front to back: its members, checked to be harmless, and the samples that they form."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sharding.schema import ShardIndex


def members(tar: Path) -> Iterator[tuple[str, str, int, int]]:
    """(key, part, offset, size) of each file in the tar; ValueError for what a shard must not hold."""
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                name = member.name
                if not member.isreg():
                    raise ValueError(f"{tar.name}: {name!r} is no plain file")
                if name.startswith("/") or ".." in name.split("/"):
                    raise ValueError(f"{tar.name}: {name!r} points outside")
                folder, _, base = name.rpartition("/")
                stem, dot, part = base.partition(".")
                if not (stem and dot and part):
                    raise ValueError(f"{tar.name}: {name!r} is no key.part")
                yield (f"{folder}/{stem}" if folder else stem), part, member.offset_data, member.size
    except tarfile.TarError as error:
        raise ValueError(f"{tar.name} is no tar that can be read: {error}") from error


def spans(tar: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """Keys, and part -> int64 [N, 2] of (offset, size) as in `ShardIndex`, found by reading the tar."""
    keys: list[str] = []
    found: dict[str, dict[int, tuple[int, int]]] = {}
    for key, part, offset, size in members(tar):
        if not keys or keys[-1] != key:
            keys.append(key)
        found.setdefault(part, {})[len(keys) - 1] = (offset, size)
    if len(set(keys)) < len(keys):
        raise ValueError(f"{tar.name} has a key twice, or its parts apart")
    return keys, {part: span_table(places, len(keys)) for part, places in found.items()}


def span_table(places: dict[int, tuple[int, int]], num_samples: int) -> np.ndarray:
    """{sample: (offset, size)} -> int64 [N, 2], with (0, -1) where a sample lacks the part."""
    table = np.tile(np.array([0, -1], np.int64), (num_samples, 1))
    for sample, span in places.items():
        table[sample] = span
    return table


def read_part(file: BinaryIO, index: ShardIndex, sample: int, part: str) -> bytes:
    """The bytes of one part of one sample of an open tar; ValueError where it is absent or cut."""
    offset, size = index.parts[part][sample].tolist() if part in index.parts else (0, -1)
    if size < 0:
        raise ValueError(f"{index.keys[sample]} has no .{part}")
    file.seek(offset)
    data = file.read(size)
    if len(data) < size:
        raise ValueError(f"{index.keys[sample]}.{part} is cut: {len(data)} of {size} bytes")
    return data
