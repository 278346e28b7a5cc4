"""A mixture without what hides its melody: drums and bass taken out by Demucs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor


class Separator(Protocol):
    """Takes out of a mixture what carries the melody: [B, C, L] -> the same shape, at its own rate.

    is_ready: whether it can; where it cannot, what it would be given is taken for the melody itself.
    """

    sample_rate: int
    channels: int

    @property
    def is_ready(self) -> bool: ...

    def __call__(self, wav: Tensor) -> Tensor: ...


class StemSeparator:
    """The sum of some stems of Demucs, which is loaded on first use and is in no checkpoint.

    keep: of "drums", "bass", "other", "vocals".   model: a published Demucs, of `sample_rate` Hz in `channels`.
    folder: with its weights, where they are not in the cache of torch hub.
    required: without the package `demucs` a melody is refused. False: with a warning it is taken as it is, which
        is right for a stem, and for a mixture lets drums and bass have a say.
    """

    def __init__(
        self,
        *,
        keep: Sequence[str] = ("vocals", "other"),
        model: str = "htdemucs",
        folder: str | None = None,
        sample_rate: int = 44_100,
        channels: int = 2,
        required: bool = False,
    ) -> None:
        self.keep, self.model, self.folder, self.required = list(keep), model, folder, required
        self.sample_rate, self.channels = sample_rate, channels
        self._demucs: Any = None
        self._has_warned = False

    @property
    def is_ready(self) -> bool:
        """Whether the package is there; ModuleNotFoundError, or a warning, where it is not."""
        if find_spec("demucs") is not None:
            return True
        missing = "to take a melody out of a mixture needs the package demucs (pip install demucs)"
        if self.required:
            raise ModuleNotFoundError(
                f"{missing}; or give the melody's own stem to a model without a separator"
            )
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(f"{missing}; without it melodies are taken for stems", stacklevel=3)
        return False

    @torch.no_grad()
    def __call__(self, wav: Tensor) -> Tensor:
        """[B, C, L] -> [B, C, L]"""
        from demucs.apply import apply_model

        demucs = self._loaded().to(wav.device)
        with torch.autocast(wav.device.type, enabled=False):
            stems = apply_model(demucs, wav.float(), device=wav.device)  # [B, stems, C, L]
        kept: Tensor = stems[:, [demucs.sources.index(name) for name in self.keep]].sum(dim=1)
        return kept

    def _loaded(self) -> Any:
        if self._demucs is None:
            from demucs import pretrained

            demucs = pretrained.get_model(self.model, None if self.folder is None else Path(self.folder))
            if (demucs.samplerate, demucs.audio_channels) != (self.sample_rate, self.channels):
                raise ValueError(
                    f"{self.model} works on {demucs.audio_channels} channels at {demucs.samplerate} Hz, "
                    f"the separator is for {self.channels} at {self.sample_rate} Hz"
                )
            if unknown := sorted(set(self.keep) - set(demucs.sources)):
                raise ValueError(f"{self.model} has no stems {unknown}; it has {list(demucs.sources)}")
            self._demucs = demucs.eval()
        return self._demucs

    def __getstate__(self) -> dict[str, Any]:
        """Copies and loader workers load Demucs for themselves, if they need it at all."""
        return {**self.__dict__, "_demucs": None}
