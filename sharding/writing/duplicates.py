"""Clips whose audio is the same, byte for byte, under two names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

from sharding.schema import SPLITS
from sharding.sources.clip import Clip

_GLANCE_BYTES = 4096
_READERS = 8


def duplicates(clips: Sequence[Clip], sizes: Sequence[int]) -> dict[int, int]:
    """Which clips repeat another: {its place: the place of the one to keep}.  sizes: of each file, in bytes.

    Kept is one of the test set before one of the valid set before one of the train set, so that a test set stays
    whole and training loses what is in it; then the first by name. Only files of one size are looked at, first
    at a few bytes in their middle, and only those that are alike there are read.
    """
    groups = list(_alike(range(len(clips)), lambda place: _stretch(clips[place], sizes[place])))
    for read in (_glance, _whole):
        places = [place for group in groups for place in group]
        with ThreadPoolExecutor(_READERS) as pool:
            digests = pool.map(lambda place, read=read: _digest(clips[place], read), places)
            content = dict(zip(places, digests, strict=True))
        groups = [alike for group in groups for alike in _alike(group, content.__getitem__)]
    found: dict[int, int] = {}
    for group in groups:
        kept, *others = sorted(group, key=lambda place: (-_split_rank(clips[place]), clips[place].name))
        found |= dict.fromkeys(others, kept)
    return found


def _alike(places: Iterable[int], content: Callable[[int], Hashable]) -> Iterator[list[int]]:
    """Two places or more that have the same content."""
    groups: dict[Hashable, list[int]] = {}
    for place in places:
        groups.setdefault(content(place), []).append(place)
    return (group for group in groups.values() if len(group) > 1)


def _stretch(clip: Clip, size: int) -> Hashable:
    return size, clip.start, clip.duration, tuple(sorted(clip.conditions))


def _split_rank(clip: Clip) -> int:
    return SPLITS.index(clip.split) if clip.split in SPLITS else -1


def _digest(clip: Clip, read: Callable[[BinaryIO], bytes]) -> bytes:
    """Of the clip's audio and its conditions'; what cannot be read is like nothing else."""
    try:
        digests = []
        for part in (clip, *(clip.conditions[name] for name in sorted(clip.conditions))):
            with part.open() as file:
                digests.append(read(file))
        return b"".join(digests)
    except OSError:
        return clip.name.encode(errors="surrogateescape")


def _glance(file: BinaryIO) -> bytes:
    """A few bytes of the middle: beginnings are headers and fades."""
    file.seek(max(0, file.seek(0, 2) - _GLANCE_BYTES) // 2)
    return hashlib.sha256(file.read(_GLANCE_BYTES)).digest()


def _whole(file: BinaryIO) -> bytes:
    return hashlib.file_digest(file, "sha256").digest()  # type: ignore[arg-type]
