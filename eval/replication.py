"""Does a model play back what it was trained on? The nearest training clip of each generation, two ways.

By embedding: the training clip that sounds most alike. By codes: the training clip that the most of a generation's
first codebook is word for word in, as n-grams, which finds a copied stretch wherever in a long clip it is. Neither is
proof: a close embedding may be a common style, a short shared stretch a drum loop. Both are to be listened to.

Training clips stream past, so that memory does not grow with them: what is held is of the generations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eval.page.listening import Clip, Fact, Listening, Sound

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class NearestByEmbedding:
    """A generation, the training clip with the most alike embedding, and their cosine."""

    generation: str
    training: str
    cosine: float


@torch.no_grad()
def nearest_by_embedding(
    keys: Sequence[str],
    embeddings: Tensor,
    training: Iterable[tuple[Sequence[str], Tensor]],
    *,
    block: int = 4096,
) -> list[NearestByEmbedding]:
    """For each generation the training clip with the largest cosine; of equals the one that came first.

    embeddings: [N, D], one for each key.   training: batches of keys and embeddings [B, D], as they come.
    block: rows of training that are compared at once; N times as many cosines are held in float32.
    ValueError for a generation whose embedding is not finite or zero: it is near to nothing. Such training clips are
    passed over.
    """
    queries = _directions(embeddings)
    if len(keys) != len(queries):
        raise ValueError(f"{len(keys)} generations have {len(queries)} embeddings")
    if bad := [key for key, row in zip(keys, queries, strict=True) if not row.isfinite().all()]:
        raise ValueError(f"{len(bad)} of {len(keys)} generations have no usable embedding, {bad[0]} first")
    best = torch.full((len(keys),), -torch.inf, device=queries.device)
    names: list[str | None] = [None] * len(keys)
    for batch_keys, rows in training:
        if rows.ndim != 2 or rows.shape != (len(batch_keys), queries.shape[1]):
            raise ValueError(
                f"training embeddings are {tuple(rows.shape)}, want [{len(batch_keys)}, {queries.shape[1]}]"
            )
        for start in range(0, len(rows), block):
            directions = _directions(rows[start : start + block]).to(queries.device)
            cosines = (queries @ directions.T).nan_to_num(-torch.inf)  # [N, block]
            value, place = cosines.max(1)
            for i in (value > best).nonzero().flatten().tolist():
                best[i], names[i] = value[i], batch_keys[start + int(place[i])]
    if any(name is None for name in names):
        raise ValueError("there is no training clip with a usable embedding")
    return [NearestByEmbedding(k, n or "", float(c)) for k, n, c in zip(keys, names, best, strict=True)]


def _directions(rows: Tensor) -> Tensor:
    """Rows [N, D] of length 1; NaN where they have no direction."""
    rows = rows.float()
    return rows / rows.norm(dim=1, keepdim=True)


@dataclass(frozen=True)
class NearestByCodes:
    """A generation, and the training clip that most of its first codebook is in.

    share: of the generation's n-grams, those that occur in the training clip.
    longest: frames of the longest stretch that both have, from frame `start` of the generation and
        `training_start` of the training clip on.
    training: None where no n-gram of the generation occurs in any training clip.
    """

    generation: str
    training: str | None
    share: float
    longest: int
    start: int
    training_start: int


class CodeIndex:
    """The n-grams of the generations' first codebook, to be looked for in training clips.

    length: frames of an n-gram: as long as chance does not make it. With a thousand codes in use effectively two
        clips share one of 8 frames by chance once in 10^24 pairs of places, and with thirty once in 10^11.
    An n-gram of one code alone (silence, a held sound) is nobody's, and no match by itself.

    Holds 24 bytes for each frame of the generations, 36 MB for 500 of 60 s at 50 Hz, and some times that while it
    is made.
    """

    def __init__(self, generations: Iterable[tuple[str, np.ndarray]], *, length: int = 8) -> None:
        """generations: keys and first codebooks [T]"""
        if length < 2:
            raise ValueError(f"n-grams are of {length} frames, want 2 or more")
        self.length = length
        self.keys: list[str] = []
        self.codes: list[np.ndarray] = []
        hashes, places = [], []
        for key, codes in generations:
            self.keys.append(key)
            self.codes.append(_checked(codes, key))
            found = _hashes(self.codes[-1], length)
            kept = np.flatnonzero(_varied(self.codes[-1], length))
            hashes.append(found[kept])
            places.append(np.stack([np.full(len(kept), len(self.keys) - 1), kept], axis=1).astype(np.int32))
        if not self.keys:
            raise ValueError("there are no generations to look for")
        order = np.argsort(np.concatenate(hashes), kind="stable")
        self._hashes = np.concatenate(hashes)[order]
        self._places = np.concatenate(places)[order]  # [M, 2]: generation, frame
        self._counts = np.bincount(self._places[:, 0], minlength=len(self.keys))
        self._best = [NearestByCodes(key, None, 0.0, 0, 0, 0) for key in self.keys]

    def look_in(self, key: str, codes: np.ndarray) -> None:
        """Look through one training clip.  codes: its first codebook [T]"""
        codes = _checked(codes, key)
        hashes = _hashes(codes, self.length)
        first = np.searchsorted(self._hashes, hashes, "left")
        count = np.searchsorted(self._hashes, hashes, "right") - first
        frames = np.repeat(np.arange(len(hashes)), count)
        if not len(frames):
            return
        ends = count.cumsum()
        rows = np.arange(len(frames)) - np.repeat(ends - count, count) + np.repeat(first, count)
        matches = np.column_stack([self._places[rows], frames])  # [M, 3]: generation, its frame, this clip's
        for generation in np.unique(matches[:, 0]).tolist():
            own = matches[matches[:, 0] == generation, 1:]
            self._best[generation] = max(
                self._best[generation], self._judge(generation, key, codes, own), key=_closeness
            )

    def _judge(self, generation: int, key: str, codes: np.ndarray, places: np.ndarray) -> NearestByCodes:
        """places: [M, 2], frame of the generation and of the training clip"""
        own, steps = self.codes[generation], np.arange(self.length)
        # Hashes may collide: only n-grams that are equal count.
        places = places[(own[places[:, :1] + steps] == codes[places[:, 1:] + steps]).all(1)]
        if not len(places):
            return NearestByCodes(self.keys[generation], None, 0.0, 0, 0, 0)
        share = len(np.unique(places[:, 0])) / int(self._counts[generation])
        longest, start, shift = max(
            _longest_stretch(own, codes, shift, places[places[:, 1] - places[:, 0] == shift, 0])
            for shift in np.unique(places[:, 1] - places[:, 0]).tolist()
        )
        return NearestByCodes(self.keys[generation], key, share, longest, start, start + shift)

    def nearest(self) -> list[NearestByCodes]:
        """Of each generation, over all training clips so far: the longest stretch, and of equals the larger share."""
        return list(self._best)


def _closeness(match: NearestByCodes) -> tuple[int, float]:
    return match.longest, match.share


def _longest_stretch(
    own: np.ndarray, codes: np.ndarray, shift: int, matched: np.ndarray
) -> tuple[int, int, int]:
    """Length, start in `own`, and the shift, of the longest run of equal codes with a matched n-gram in it.

    shift: from a frame of `own` to the same sound in `codes`.   matched: frames of `own` [M]
    """
    first = max(0, -shift)
    frames = np.arange(first, min(len(own), len(codes) - shift))
    equal = np.concatenate([[False], own[frames] == codes[frames + shift], [False]])
    edges = np.flatnonzero(np.diff(equal))
    starts, ends = edges[::2], edges[1::2]
    runs = np.unique(np.searchsorted(starts, matched - first, "right") - 1)
    best = runs[(ends - starts)[runs].argmax()]
    return int(ends[best] - starts[best]), int(starts[best]) + first, shift


def _checked(codes: np.ndarray, key: str) -> np.ndarray:
    if codes.ndim != 1:
        raise ValueError(f"the first codebook of {key} is {codes.shape}, want [T]")
    return codes.astype(np.int64)


def _hashes(codes: np.ndarray, length: int) -> np.ndarray:
    """Of each n-gram, 64 bits.  [T] -> [T - length + 1] uint64"""
    count = max(0, len(codes) - length + 1)
    found = np.zeros(count, dtype=np.uint64)
    for step in range(length):  # overflow is wanted
        found = (found + codes[step : step + count].astype(np.uint64) + np.uint64(1)) * _MULTIPLIER
        found ^= found >> np.uint64(29)
    return found


def _varied(codes: np.ndarray, length: int) -> np.ndarray:
    """True where an n-gram holds more than one code.  [T] -> [T - length + 1] bool"""
    changes = np.concatenate([[0], (np.diff(codes) != 0).cumsum()]) if len(codes) else np.zeros(0)
    count = max(0, len(codes) - length + 1)
    varied: np.ndarray = changes[length - 1 :][:count] > changes[:count]
    return varied


def replication_listening(
    by_embedding: Sequence[NearestByEmbedding],
    by_codes: Sequence[NearestByCodes],
    *,
    generated: Callable[[str], Sound],
    training: Callable[[str], Sound],
    frame_rate: float,
    num_shown: int = 12,
) -> Listening:
    """A section of the page: the closest generations beside their nearest training clips, the worst first.

    generated, training: give a clip's sound by its key.   frame_rate: of the codes, in Hz.
    Half of the clips are the closest by codes, the rest the closest by embedding.
    """
    copied = sorted((m for m in by_codes if m.training is not None), key=_closeness, reverse=True)
    alike = sorted(by_embedding, key=lambda match: match.cosine, reverse=True)
    clips = []
    for code in copied[: num_shown // 2]:
        assert code.training is not None
        at = f"from {code.start / frame_rate:.1f} s, there from {code.training_start / frame_rate:.1f} s"
        facts = [
            Fact("longest same stretch of codes", f"{code.longest / frame_rate:.2f} s, {at}"),
            Fact("of its n-grams in there", f"{100 * code.share:.0f} %"),
        ]
        clips.append(_pair(code.generation, code.training, facts, generated, training))
    for near in alike[: num_shown - len(clips)]:
        facts = [Fact("cosine of embeddings", f"{near.cosine:.3f}")]
        clips.append(_pair(near.generation, near.training, facts, generated, training))
    about = (
        "The generations that come closest to a training clip, by the longest stretch of equal codes and by embedding, "
        "and that clip. A close pair is no proof of copying, and a distant one no proof of the contrary: listen."
    )
    return Listening("Nearest training clips", about, clips)


def _pair(
    generation: str,
    key: str,
    facts: Sequence[Fact],
    generated: Callable[[str], Sound],
    training: Callable[[str], Sound],
) -> Clip:
    return Clip(f"{generation} / {key}", [generated(generation), training(key)], facts)
