"""All clips of an evaluation, one after another from disk, past all measures; what is wrong with a clip is named.

Memory holds a few clips at a time, whatever their number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from eval.clip_scores import clip_faults
from eval.protocols.judged import Canary, Judged
from eval.protocols.measures import JUDGED, Measure
from eval.protocols.ranks import everywhere

_AHEAD = 4
"""Clips that are read and resampled while others are scored."""
_WHOLE = 0.9
"""Of its reference's length: a clip that is shorter is named."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Clips(Protocol):
    """The clips of an evaluation by their place, all at `sample_rate` Hz and of one number of channels.

    `wav` and `target` raise ValueError or OSError where a clip should be and cannot be read.
    """

    sample_rate: int

    def __len__(self) -> int: ...

    def key(self, place: int) -> str: ...

    def caption(self, place: int) -> str | None: ...

    def wav(self, place: int) -> Tensor | None:
        """What is judged, [C, L]; None: nothing was asked for here."""
        ...

    def target(self, place: int) -> Tensor | None:
        """The reference, [C, L]; None: there is none here."""
        ...


@dataclass
class Tally:
    """What became of the clips.

    durations: s, of those that were scored, by key.   missing: those that were not, name to reason.
    faults: those that were, though something is wrong with them.
    """

    durations: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)

    def joined(self) -> Tally:
        """That of all ranks, sorted by name."""
        total = Tally()
        for tally in everywhere(self):
            total.durations |= tally.durations
            total.missing |= tally.missing
            total.faults |= tally.faults
        return Tally(
            durations=dict(sorted(total.durations.items())),
            missing=dict(sorted(total.missing.items())),
            faults=dict(sorted(total.faults.items())),
        )


@torch.no_grad()
def score(
    clips: Clips,
    measures: Sequence[Measure],
    canaries: dict[str, Canary],
    *,
    rank: int = 0,
    world_size: int = 1,
    track: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Tally:
    """Feeds the measures with every `world_size`-th clip; gives what became of the clips of all ranks.

    track: the same places, with progress shown.
    """
    for measure in measures:
        measure.prepare(canaries)
    tally = Tally()
    places = range(rank, len(clips), world_size)
    for place, loaded in zip(track(places), ahead(partial(_load, clips), places), strict=True):
        _score_clip(clips, place, loaded, measures, canaries, tally)
    return tally.joined()


def ahead(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`map`, with the next few results made in threads meanwhile."""
    with ThreadPoolExecutor(_AHEAD) as threads:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(threads.submit(work, item))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@dataclass(frozen=True)
class _Loaded:
    """wav, target, other: of the judged clip, its reference and another item's; a text says why there is none."""

    wav: Tensor | str | None
    target: Tensor | str | None
    other: Judged | None


def _load(clips: Clips, place: int) -> _Loaded:
    wav, target = _readable(clips.wav, place), _readable(clips.target, place)
    # Far away, since neighbours may be of one recording.
    far = (place + max(1, len(clips) // 2)) % len(clips)
    other_target = _readable(clips.target, far) if far != place else None
    other = None
    if isinstance(other_target, Tensor):
        caption = clips.caption(far)
        other = Judged(clips.key(far), far, other_target, other_target, clips.sample_rate, caption)
    return _Loaded(wav, target, other)


def _readable(read: Callable[[int], Tensor | None], place: int) -> Tensor | str | None:
    """The clip, or what is wrong with it where it cannot be scored."""
    try:
        wav = read(place)
    except (ValueError, OSError) as error:
        return " ".join(str(error).split())
    fault = None if wav is None else _fault(wav)
    return wav if fault in (None, "silent") else fault


def _fault(wav: Tensor) -> str | None:
    return clip_faults(wav[None], [""]).get("")


def _score_clip(
    clips: Clips,
    place: int,
    loaded: _Loaded,
    measures: Sequence[Measure],
    canaries: dict[str, Canary],
    tally: Tally,
) -> None:
    key, caption, rate = clips.key(place), clips.caption(place), clips.sample_rate
    wav, target = loaded.wav, loaded.target
    if isinstance(target, str):
        tally.missing[f"reference {key}"] = target
        return
    if isinstance(wav, str):
        tally.missing[key] = wav
        wav = None
    if target is not None:
        if _fault(target):
            tally.faults[f"reference {key}"] = "silent"
        for measure in measures:
            measure.reference(Judged(key, place, target, target, rate, caption))
    judged = None
    if wav is not None:
        if (fault := _fault(wav)) or (fault := _too_short(wav, target, rate)):
            tally.faults[key] = fault
        length = wav.shape[-1] if target is None else target.shape[-1]
        judged = Judged(key, place, wav[:, :length], target, rate, caption)
        tally.durations[key] = judged.wav.shape[-1] / rate
        for measure in measures:
            measure.update(JUDGED, judged)
    if target is None:
        return
    for name, canary in canaries.items():
        if judged is None and not canary.changes_audio:
            continue
        made = canary(judged or Judged(key, place, target, target, rate, caption), loaded.other)
        if made is not None:
            for measure in measures:
                measure.update(name, made)


def _too_short(wav: Tensor, target: Tensor | None, sample_rate: int) -> str | None:
    if target is None or wav.shape[-1] >= _WHOLE * target.shape[-1]:
        return None
    return f"short: {wav.shape[-1] / sample_rate:.2f} s, its reference {target.shape[-1] / sample_rate:.2f} s"
