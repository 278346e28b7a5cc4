"""What is in a dataset more than once, told from digests: keys, audio under two names, tracks in two splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

DIGEST_BYTES = 16
DIGEST = f"S{DIGEST_BYTES}"
"""numpy's name for a digest; an empty one is of nothing, and is like no other."""


class Repetition(NamedTuple):
    """Two places, numbers into the digests, that have the same; `place` is the one to do without."""

    place: int
    other: int


def digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=DIGEST_BYTES).digest()


def within_splits(digests: np.ndarray, split_of: np.ndarray) -> Iterator[Repetition]:
    """Those in one split: each but the first.  digests S16 [N]; split_of int [N], ascending."""
    for same in _runs(digests):
        for split in np.unique(split_of[same]):
            first, *others = same[split_of[same] == split].tolist()
            yield from (Repetition(place, first) for place in others)


def across_splits(digests: np.ndarray, split_of: np.ndarray) -> Iterator[Repetition]:
    """Those in two splits: all but those of the last, so that a test set stays and training loses them."""
    for same in _runs(digests):
        last = int(same[-1])
        yield from (Repetition(place, last) for place in same[split_of[same] != split_of[last]].tolist())


def _runs(digests: np.ndarray) -> Iterator[np.ndarray]:
    """The places, ascending, of each value that is there more than once."""
    order = np.argsort(digests, kind="stable")
    ordered = digests[order]
    starts = (
        np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.zeros(0, np.int64)
    )
    stops = np.r_[starts[1:], len(ordered)]
    repeated = stops - starts > 1
    for start, stop in zip(starts[repeated].tolist(), stops[repeated].tolist(), strict=True):
        if ordered[start]:
            yield order[start:stop]
