"""A melody as a condition: which of twelve pitch classes is the loudest, frame by frame (MusicGen-Melody)."""

from __future__ import annotations

import hashlib
import math
import random
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_audio.audio import convert
from lightning_audio.batch import length_mask
from lightning_audio.conditioning.base import Condition, Conditioner, Precomputed, WavCondition, pad_rows
from lightning_audio.conditioning.separation import Separator


@lru_cache(maxsize=8)
def chroma_filters(sample_rate: int, n_fft: int, *, num_chroma: int = 12) -> Tensor:
    """Weights [num_chroma, n_fft // 2 + 1] from frequency bins to pitch classes, C first.

    A bin at frequency f lies at num_chroma * log2(f / 27.5 Hz) on a circle of num_chroma classes that starts
    at A. It feeds each class by a Gaussian of their distance on the circle, twice as narrow as the bin is
    wide there (and as a class at the least); the classes' weights have norm 1; and another Gaussian, of 2
    octaves about octave 5 (880 Hz), makes the middle of the range count. These are librosa's filters for
    tuning 0.
    """
    frequency = torch.arange(n_fft, dtype=torch.float64)[1:] * sample_rate / n_fft
    place = num_chroma * torch.log2(frequency / 27.5)
    place = torch.cat(
        [place[:1] - 1.5 * num_chroma, place]
    )  # 0 Hz has no logarithm: 1.5 octaves below the first
    width = torch.cat([place.diff().clamp(min=1), place.new_ones(1)])
    half = round(num_chroma / 2)
    distance = place - torch.arange(num_chroma, dtype=torch.float64)[:, None]
    distance = torch.remainder(distance + half, num_chroma) - half
    weights = F.normalize(torch.exp(-0.5 * (2 * distance / width) ** 2), dim=0)
    weights = weights * torch.exp(-0.5 * ((place / num_chroma - 5) / 2) ** 2)
    weights = weights.roll(-3 * (num_chroma // 12), dims=0)  # from A to C
    return weights[:, : n_fft // 2 + 1].float()


class Chromagram(nn.Module):
    """Waveforms [B, 1, L] -> chroma [B, T, num_chroma], one-hot at the strongest class where `argmax`.

    The window is 2 ** radix2_exp samples and moves by a quarter of it; a shorter waveform is padded to one
    window.
    """

    def __init__(
        self, *, sample_rate: int, num_chroma: int = 12, radix2_exp: int = 14, argmax: bool = True
    ) -> None:
        super().__init__()
        self.n_fft = 2**radix2_exp
        self.hop_length = self.n_fft // 4
        self.sample_rate, self.num_chroma, self.argmax = sample_rate, num_chroma, argmax

    def num_frames(self, num_samples: int) -> int:
        return 1 + max(num_samples, self.n_fft) // self.hop_length

    @torch.no_grad()
    def forward(self, wav: Tensor) -> Tensor:
        wav = wav[:, 0].float()
        missing = max(0, self.n_fft - wav.shape[-1])
        wav = F.pad(wav, (missing // 2, missing - missing // 2))
        window = torch.hann_window(self.n_fft, device=wav.device)
        spectrum = torch.stft(
            wav, self.n_fft, self.hop_length, window=window, center=True, return_complex=True
        )
        power = spectrum.abs().square() / window.square().sum()  # [B, F, T]
        filters = chroma_filters(self.sample_rate, self.n_fft, num_chroma=self.num_chroma).to(wav.device)
        chroma = F.normalize(filters @ power, p=math.inf, dim=1, eps=1e-6).transpose(1, 2)
        if not self.argmax:
            return chroma
        return F.one_hot(chroma.argmax(dim=-1), self.num_chroma).float()


class ChromaConditioner(Conditioner):
    """The chromagram of a melody: of a `WavCondition` of any rate, length and channels, or `Precomputed`.

    sample_rate: Hz at which it is computed, the model's.
    duration: seconds; outside of training a shorter melody is repeated and a longer one cut to fill it. In
        training, on melodies cut from the clips themselves, and with None each keeps its length, and what is
        past it is masked.
    silence_for_none: what no melody is outside of training. False: nothing, masked, as in training. True: what a
        released MusicGen-Melody expects for its null rows, the chroma of silence, where the argmax of zeros is
        C: not masked.
    separator: applied first, so that drums and bass do not decide; None where the melody is a stem already.
        It is no submodule and in no checkpoint.
    cache_size: chromagrams of that many waveforms are kept, for melodies that come again: in the rows of
        guidance, in the next call, in every validation. Zero keeps those of a call only.

    Each waveform is taken by itself: its frames do not depend on its neighbours in the batch.
    """

    rank: ClassVar[int] = 1

    def __init__(
        self,
        *,
        sample_rate: int,
        duration: float | None = None,
        num_chroma: int = 12,
        radix2_exp: int = 14,
        argmax: bool = True,
        silence_for_none: bool = False,
        separator: Separator | None = None,
        cache_size: int = 1024,
    ) -> None:
        super().__init__()
        self.dim = num_chroma
        self.silence_for_none = silence_for_none
        self.chromagram = Chromagram(
            sample_rate=sample_rate, num_chroma=num_chroma, radix2_exp=radix2_exp, argmax=argmax
        )
        self.num_frames = (
            None if duration is None else self.chromagram.num_frames(int(duration * sample_rate))
        )
        self.cache_size = cache_size
        self._separator = [] if separator is None else [separator]  # in a list, so that it is not registered
        self._known: OrderedDict[int, Tensor] = OrderedDict()

    def prepare(self, values: Sequence[Any], *, rng: random.Random | None = None) -> dict[str, Tensor]:
        """wav [B, C, L] as the separator wants it, or mono at our rate; num_samples [B], 0 for none; key [B].

        Of what is precomputed: frames [B, T, num_chroma], num_frames [B].
        """
        source = self._source() if any(isinstance(value, WavCondition) for value in values) else None
        rate = source.sample_rate if source else self.chromagram.sample_rate
        channels = source.channels if source else 1
        wavs = [self._waveform(value, rate, channels) for value in values]
        num_samples = torch.tensor([wav.shape[-1] for wav in wavs])
        longest = max(1, int(num_samples.max()))
        padded = [F.pad(wav, (0, longest - wav.shape[-1])) for wav in wavs]
        prepared = {
            "wav": torch.stack(padded),
            "num_samples": num_samples,
            "key": torch.tensor([_content_key(wav) for wav in wavs]),
        }
        if any(isinstance(value, Precomputed) for value in values):
            given = [self._given(value) for value in values]
            prepared["frames"], _ = pad_rows(given)
            prepared["num_frames"] = torch.tensor([len(frames) for frames in given])
        return prepared

    def _source(self) -> Separator | None:
        return self._separator[0] if self._separator and self._separator[0].is_ready else None

    def _waveform(self, value: Any, rate: int, channels: int) -> Tensor:
        if value is None or isinstance(value, Precomputed):
            return torch.zeros(channels, 0)
        if not isinstance(value, WavCondition) or value.wav.shape[-1] == 0:
            raise ValueError(f"a melody is a WavCondition with at least one sample, got {value!r}")
        return convert(value.wav.cpu().float(), value.sample_rate, rate, channels)

    def _given(self, value: Any) -> Tensor:
        if not isinstance(value, Precomputed):
            return torch.zeros(0, self.dim)
        if value.embedding.shape[1] != self.dim:
            raise ValueError(
                f"a precomputed melody has {value.embedding.shape[1]} classes, the model {self.dim}"
            )
        return value.embedding.cpu().float()

    @torch.no_grad()
    def forward(self, prepared: dict[str, Tensor]) -> Condition:
        lengths, keys = prepared["num_samples"].tolist(), prepared["key"].tolist()
        given = prepared["num_frames"].tolist() if "num_frames" in prepared else [0] * len(keys)
        found: dict[int, Tensor] = {}
        rows = []
        for row, (key, length) in enumerate(zip(keys, lengths, strict=True)):
            if given[row]:
                rows.append(prepared["frames"][row, : given[row]])
                continue
            if key not in found:
                known = self._known.get(key)
                wav = prepared["wav"][row, :, :length]
                found[key] = self._frames(wav) if known is None else known.to(wav.device)
            rows.append(found[key])
        self._remember(found)
        rows = [self._matched(frames) for frames in rows]
        embedding, _ = pad_rows(rows)
        has_melody = [bool(length or frames) for length, frames in zip(lengths, given, strict=True)]
        valid = [
            len(frames) if has or (self.silence_for_none and not self.training) else 0
            for frames, has in zip(rows, has_melody, strict=True)
        ]
        return Condition(
            embedding, length_mask(torch.tensor(valid, device=embedding.device), embedding.shape[1])
        )

    def _frames(self, wav: Tensor) -> Tensor:
        """Chroma [T, num_chroma] of one waveform [C, L]; of silence where it is empty."""
        source = self._source() if wav.shape[-1] else None
        if wav.shape[-1] == 0:
            wav = wav.new_zeros(1, 1)
        elif source is not None:
            wav = convert(source(wav[None])[0], source.sample_rate, self.chromagram.sample_rate, 1)
        return self.chromagram(wav[None])[0]

    def _matched(self, frames: Tensor) -> Tensor:
        """Repeated and cut to the duration, where there is one to match."""
        if self.num_frames is None or self.training:
            return frames
        return frames.repeat(math.ceil(self.num_frames / len(frames)), 1)[: self.num_frames]

    def _remember(self, found: dict[int, Tensor]) -> None:
        for key, frames in found.items():
            self._known[key] = frames
            self._known.move_to_end(key)
        while len(self._known) > self.cache_size:
            self._known.popitem(last=False)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and loader workers begin with nothing in memory."""
        return {**self.__dict__, "_known": OrderedDict()}


def _content_key(wav: Tensor) -> int:
    """A number that only equal waveforms share."""
    digest = hashlib.blake2b(wav.contiguous().numpy().tobytes(), digest_size=8)
    return int.from_bytes(digest.digest(), "big", signed=True)
