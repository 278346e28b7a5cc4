"""A clip under judgement, and sets that show what a good and a bad score look like on the very same items.

A canary makes of each item what a broken, a silent, a deaf or a nearly perfect model would have made of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from eval.clip_scores import clip_number


@dataclass(frozen=True)
class Judged:
    """A clip beside the one of the reference set that it stands for, both at `sample_rate` Hz.

    place: the item's number in the set.   wav [C, L], target [C, L']; None: it stands for no one clip.
    """

    key: str
    place: int
    wav: Tensor
    target: Tensor | None
    sample_rate: int
    caption: str | None = None

    @property
    def pair(self) -> tuple[Tensor, Tensor]:
        """wav and target, cut to the length of the shorter."""
        assert self.target is not None
        length = min(self.wav.shape[-1], self.target.shape[-1])
        return self.wav[:, :length], self.target[:, :length]


class Canary(Protocol):
    """changes_audio: False where only what the clip is compared with is another, which no set of clips can show."""

    @property
    def meaning(self) -> str: ...

    @property
    def changes_audio(self) -> bool: ...

    def __call__(self, judged: Judged, other: Judged | None) -> Judged | None:
        """What is judged in place of the clip.  other: another item's; None where there is none."""
        ...


@dataclass(frozen=True)
class Silence:
    meaning: str = "What a silent model scores"
    changes_audio: bool = True

    def __call__(self, judged: Judged, other: Judged | None) -> Judged:
        assert judged.target is not None
        return replace(judged, wav=torch.zeros_like(judged.target))


@dataclass(frozen=True)
class WhiteNoise:
    """rms: its level, linear; -20 dBFS."""

    meaning: str = "What a broken model scores"
    changes_audio: bool = True
    rms: float = 0.1

    def __call__(self, judged: Judged, other: Judged | None) -> Judged:
        assert judged.target is not None
        generator = torch.Generator().manual_seed(clip_number(judged.key))
        return replace(judged, wav=self.rms * torch.randn(judged.target.shape, generator=generator))


@dataclass(frozen=True)
class OtherItem:
    """The clip beside the caption, and the reference, of another item."""

    meaning: str = "The same clips with the captions and references of other items: what a deaf model scores"
    changes_audio: bool = False

    def __call__(self, judged: Judged, other: Judged | None) -> Judged | None:
        return None if other is None else replace(judged, target=other.target, caption=other.caption)


@dataclass(frozen=True)
class Reconstruction:
    """reconstruct: the reference clip [C, L] through the codec, at the same rate."""

    reconstruct: Callable[[Tensor], Tensor]
    meaning: str = "The reference through the codec: about the best that its codes can do"
    changes_audio: bool = True

    def __call__(self, judged: Judged, other: Judged | None) -> Judged:
        assert judged.target is not None
        return replace(judged, wav=self.reconstruct(judged.target))


def canaries(reconstruct: Callable[[Tensor], Tensor] | None) -> dict[str, Canary]:
    """By the name that stands on the card. The reference's own halves are the set measures' business."""
    found: dict[str, Canary] = {
        "silence": Silence(),
        "white noise": WhiteNoise(),
        "shuffled captions": OtherItem(),
    }
    if reconstruct is not None:
        found["codec reconstruction"] = Reconstruction(reconstruct)
    return found
