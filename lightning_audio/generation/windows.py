"""Clips longer than a model was trained on: overlapping windows, and melodies that move along with them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_audio.batch import Attributes
from lightning_audio.conditioning.base import WavCondition
from lightning_audio.lm.autoregressive import Decoding
from lightning_audio.lm.patterns import Pattern
from lightning_audio.lm.sampling import Sampler, SamplingSettings
from lightning_audio.lm.token_lm import TokenLM


@dataclass(frozen=True)
class Windows:
    """How long clips are cut.

    length, stride: frames of a window, and from one to the next.
    duration: s of a window.   frame_rate: frames per second.
    sliding: attributes whose waveforms follow the time of the clip.
    """

    length: int
    stride: int
    duration: float
    frame_rate: float
    sliding: Collection[str]

    def over(self, total: int, known: int) -> Iterator[tuple[int, int]]:
        """(first frame, length) of each run that it takes to make `total` frames, of which `known` are there."""
        start = 0
        while known >= start + self.length:  # a long prompt
            start += self.stride
        while known < total:
            length = min(total - start, self.length)
            yield start, length
            known = start + length
            start += self.stride

    def items_at(self, start: int, items: Sequence[Attributes], lengths: Sequence[int]) -> list[Attributes]:
        """The items as the window from frame `start` on sees them: it begins to hear a melody at its own time.

        The melody of a clip that fits into one window (`lengths`, in frames) is the whole one.
        """
        time = start / self.frame_rate
        return [
            {name: self._heard(name, value, time) for name, value in item.items()}
            if length > self.length
            else item
            for item, length in zip(items, lengths, strict=True)
        ]

    def _heard(self, name: str, value: object, time: float) -> object:
        """A waveform from `time` (s) on, as long as a window; one that is shorter goes round and round."""
        if name not in self.sliding or not isinstance(value, WavCondition):
            return value
        first, count = int(time * value.sample_rate), int(self.duration * value.sample_rate)
        around = torch.arange(first, first + count, device=value.wav.device) % value.wav.shape[-1]
        return replace(value, wav=value.wav[:, around])


class WindowedDecoding:
    """The codes of clips of any length: one `Decoding` after another, each going on from the end of the last.

    lengths: frames of each item.   prompt [B, K, T']: codes of the first frames.
    apart: see `guidance_passes`.
    frames_done: how far the work is, as a share of all frames; for a progress bar.
    """

    def __init__(
        self,
        lm: TokenLM,
        items: Sequence[Attributes],
        *,
        lengths: Sequence[int],
        windows: Windows,
        sampler: Sampler,
        settings: SamplingSettings,
        prompt: Tensor,
        apart: bool,
    ) -> None:
        self.lm, self.items, self.lengths, self.windows = lm, items, lengths, windows
        self.sampler, self.settings, self.apart = sampler, settings, apart
        self.total = max(lengths)
        self.frames_done = prompt.shape[-1]
        self._before = prompt  # what stood before the window that is being written, its overlap included
        self._decoding: Decoding | None = None
        self._start = 0

    def __iter__(self) -> Iterator[int]:
        """Does one step at a time, and says how many frames are then complete."""
        for start, length in self.windows.over(self.total, self._before.shape[-1]):
            known = self._before.shape[-1]
            decoding = self._decoding = self._window(start, length)
            self._start = start
            for step, done in enumerate(decoding, start=1):
                self.frames_done = known + (start + length - known) * step // len(decoding)
                yield start + done
            self._before, self._decoding = self.codes(), None

    def codes(self) -> Tensor:
        """[B, K, T] as far as it is known; within the running window, -1 where a code is yet to come."""
        if self._decoding is None:
            return self._before
        return torch.cat([self._before[..., : self._start], self._decoding.codes()], dim=-1)

    def _window(self, start: int, length: int) -> Decoding:
        ends = [max(end - start, 0) for end in self.lengths]
        return Decoding(
            self.lm,
            self.windows.items_at(start, self.items, self.lengths),
            num_frames=length,
            sampler=self.sampler,
            cfg_coef=self.settings.cfg_coef,
            two_step_cfg=self.settings.two_step_cfg,
            cfg_coef_beta=self.settings.cfg_coef_beta,
            prompt=self._before[..., start:],
            first_frame=start,
            apart=self.apart,
            lengths=ends if min(ends) < length else None,
        )


def can_end_early(lm: TokenLM, lengths: Sequence[int]) -> bool:
    """Whether clips of these lengths can be written together: a shorter one's codes stand where they would alone."""
    if "input_interpolate" in lm.conditioning.way_of.values():  # stretched to the length of the longest
        return False
    return all(_begins_alike(lm.pattern, length, max(lengths)) for length in set(lengths))


def _begins_alike(pattern: Pattern, length: int, longest: int) -> bool:
    return torch.equal(pattern.steps(longest)[:, :length], pattern.steps(length))
