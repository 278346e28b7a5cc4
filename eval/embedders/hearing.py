"""How a clip reaches a network: through which resampler, at which level. Both change scores, so both are named.

Two resamplers, since a distance of 44.1 kHz references moves with the filter: the project's own, and the one of
`frechet-audio-distance`, for values that are to equal that package's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from lightning_audio.audio import convert_channels, normalize_loudness, normalize_peak, resample

Resampler = Callable[[Tensor, int, int], Tensor]
"""[C, L] from a rate to another (both Hz) -> [C, L']; says its name as `str`."""

Level = Callable[[Tensor, int], Tensor]
"""[C, L] at a sample rate (Hz) -> the same at another level; says its rule as `str`."""


@dataclass(frozen=True)
class Julius:
    """Windowed sinc of julius, as everywhere in this project."""

    def __call__(self, wav: Tensor, from_rate: int, to_rate: int) -> Tensor:
        return resample(wav, from_rate, to_rate)

    def __str__(self) -> str:
        return "julius"


@dataclass(frozen=True)
class KaiserBest:
    """The filter "kaiser_best" of resampy 0.4: 50 zero crossings under a Kaiser window; zeros beyond the ends.

    resampy reads its filter from a table of 8192 points a crossing, whose step it rounds down to whole points:
    that makes the filter of most ratios a little wider, and is kept, since it is heard in the fourth digit.
    """

    def __call__(self, wav: Tensor, from_rate: int, to_rate: int) -> Tensor:
        if from_rate == to_rate:
            return wav
        common = math.gcd(from_rate, to_rate)
        old, new = from_rate // common, to_rate // common
        num_samples = wav.shape[-1] * new // old
        taps = _kaiser_taps(old, new).to(wav.device, wav.dtype)  # [new, width]
        reach = taps.shape[-1] // 2
        # Each phase looks at its own place; a stride of `old` brings all of them to their next one.
        places = [phase * old // new for phase in range(new)]
        kernel = taps.new_zeros(taps.shape[-1] + places[-1], new)
        for phase, place in enumerate(places):
            kernel[place : place + taps.shape[-1], phase] = taps[phase]
        padded = nn.functional.pad(wav, (reach - 1, reach + len(kernel)))
        made = padded.unfold(-1, len(kernel), old) @ kernel  # [C, strides, new]
        return made.flatten(1)[:, :num_samples]

    def __str__(self) -> str:
        return "resampy kaiser_best"


@functools.lru_cache(maxsize=16)
def _kaiser_taps(old: int, new: int) -> Tensor:
    """Weights of each output phase over the samples around it, [new, 2 · reach]; the place itself is at reach - 1."""
    crossings, points, rolloff, beta = 50, 8192, 0.917347, 12.9846
    scale = min(1.0, new / old)
    half = rolloff * np.sinc(rolloff * np.linspace(0, crossings, crossings * points + 1))
    half = scale * half * np.kaiser(2 * len(half) - 1, beta)[len(half) - 1 :]
    step = int(scale * points)
    reach = len(half) // step + 2
    taps = np.zeros((new, 2 * reach))
    for phase in range(new):
        behind = scale * (phase * old % new) / new  # of the last sample before the output, in table units
        for side, distance in ((-1, behind), (1, scale - behind)):
            at = distance * points + np.arange(reach) * step
            at = at[at < len(half) - 1][: (len(half) - int(distance * points)) // step]
            weights = np.interp(at, np.arange(len(half)), half)
            indices = reach - 1 + side * np.arange(len(at)) + (side > 0)
            taps[phase, indices] = weights
    return torch.from_numpy(taps)


@dataclass(frozen=True)
class AsGiven:
    """No change of level."""

    def __call__(self, wav: Tensor, sample_rate: int) -> Tensor:
        return wav

    def __str__(self) -> str:
        return "as given"


@dataclass(frozen=True)
class Peak:
    """Every clip's largest sample at `peak` (dBFS): what AudioCraft does before VGGish. Silence stays silent."""

    peak: float = -1.0

    def __call__(self, wav: Tensor, sample_rate: int) -> Tensor:
        return normalize_peak(wav, peak=self.peak) if wav.numel() else wav

    def __str__(self) -> str:
        return f"peak at {self.peak:g} dBFS"


@dataclass(frozen=True)
class Loudness:
    """Every clip at `loudness` (LUFS, BS.1770)."""

    loudness: float = -14.0

    def __call__(self, wav: Tensor, sample_rate: int) -> Tensor:
        return normalize_loudness(wav, sample_rate, loudness=self.loudness)

    def __str__(self) -> str:
        return f"{self.loudness:g} LUFS"


@dataclass(frozen=True)
class Hearing:
    """What is done to a clip before a network hears it: channels, then resampling, then level.

    sixteen_bits: rounded to 16 bits at the end, as where clips pass through WAV files.
    """

    resampler: Resampler = field(default_factory=Julius)
    level: Level = field(default_factory=AsGiven)
    sixteen_bits: bool = False

    def __call__(self, wav: Tensor, from_rate: int, to_rate: int, channels: int) -> Tensor:
        """[C, L] at `from_rate` (Hz) -> [channels, L'] at `to_rate` (Hz), float32."""
        wav = wav.float()
        if not wav.shape[-1]:
            return wav.new_zeros(channels, 0)
        if wav.shape[0] > channels:  # fewer channels first: less to resample
            wav = convert_channels(wav, channels)
        wav = convert_channels(self.resampler(wav, from_rate, to_rate), channels)
        wav = self.level(wav, to_rate)
        return (wav * 32768).round().clamp(-32768, 32767) / 32768 if self.sixteen_bits else wav

    def __str__(self) -> str:
        bits = ", 16 bits" if self.sixteen_bits else ""
        return f"resampler {self.resampler}, level {self.level}{bits}"
