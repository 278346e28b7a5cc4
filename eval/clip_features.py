"""What a clip sounds like, as one vector for a small classifier; and clips made worse, to learn from."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eval.mel import LogMel

FRAMES_PER_SECOND = 100
TEMPOGRAM_SECONDS = (0.12, 1.2)
"""Lags at which the onset envelope is compared with itself: half a beat at 250 bpm to a beat at 50 bpm."""


class ClipFeatures(nn.Module):
    """What is heard of a clip, as one vector: its spectrum, how it moves, and how its onsets repeat.

    Nothing depends on the clip's gain. forward: wav [B, L] -> [B, size].
    """

    def __init__(self, *, sample_rate: int, num_mels: int = 48) -> None:
        super().__init__()
        hop = round(sample_rate / FRAMES_PER_SECOND)
        # The long window tells neighbouring low notes apart, the short one says when a note starts.
        self.tones = LogMel(sample_rate=sample_rate, window=2048, hop=4 * hop, num_mels=2 * num_mels)
        self.onsets = LogMel(sample_rate=sample_rate, window=512, hop=hop, num_mels=num_mels // 2)
        self.lags = [round(seconds * FRAMES_PER_SECOND) for seconds in TEMPOGRAM_SECONDS]

    def forward(self, wav: Tensor) -> Tensor:
        wav = 0.1 * wav / wav.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-5)  # to -20 dBFS
        return torch.cat([self._spectrum(wav), self._rhythm(wav)], dim=-1)

    def _spectrum(self, wav: Tensor) -> Tensor:
        tones = self.tones(wav).clamp_min(-60.0) / 20.0  # [B, L] -> [B, mels, frames]
        # Where the energy lies, as shares: what a filter or a noise floor changes least.
        power = (10.0 ** (2.0 * tones)).mean(-1)
        shares = power.cumsum(-1) / power.sum(-1, keepdim=True)
        moments = [tones.mean(-1), tones.std(-1), tones.amax(-1), tones.diff(dim=-1).abs().mean(-1)]
        return torch.cat([*moments, shares[:, ::2]], dim=-1)

    def _rhythm(self, wav: Tensor) -> Tensor:
        bands = self.onsets(wav).clamp_min(-50.0) / 20.0
        rises = (bands[..., 2:] - bands[..., :-2]).clamp_min(0.0)  # [B, bands, frames]
        envelope = rises.mean(1)
        envelope = F.avg_pool1d(envelope[:, None], 5, stride=1, padding=2)[:, 0]
        centred = envelope - envelope.mean(-1, keepdim=True)
        # Autocorrelation by FFT, padded so that the end does not meet the beginning.  -> [B, lags]
        length = centred.shape[-1]
        correlation = torch.fft.irfft(torch.fft.rfft(centred, 2 * length).abs().square())[:, :length]
        correlation = correlation / correlation[:, :1].clamp_min(1e-6)
        first, last = self.lags
        if last >= length:
            raise ValueError(
                f"a clip of {length / FRAMES_PER_SECOND:.2f} s is too short to hear its tempo: "
                f"it needs more than {TEMPOGRAM_SECONDS[1]} s"
            )
        tempogram = F.avg_pool1d(correlation[:, None, first : last + 1], 3, stride=2)[:, 0]
        density = torch.stack([envelope.mean(-1), envelope.std(-1), _peaks_per_second(envelope)], dim=-1)
        return torch.cat([tempogram, density], dim=-1)


def _peaks_per_second(envelope: Tensor) -> Tensor:
    """How many onsets a second: local maxima above a third of the clip's strongest.  [B, frames] -> [B]"""
    neighbourhood = F.max_pool1d(envelope[:, None], 9, stride=1, padding=4)[:, 0]
    strong = envelope > envelope.amax(-1, keepdim=True) / 3
    peaks = (envelope == neighbourhood) & strong
    return peaks.sum(-1) * FRAMES_PER_SECOND / envelope.shape[-1]


def degrade(wav: Tensor, generator: torch.Generator) -> Tensor:
    """The clips as a small codec or a bad line might give them back: shorter, darker, coarser, noisier.

    So that the classifier listens to what survives in generations, not to what only a clean synthesiser has.
    wav [B, L] -> [B, 3/4 L]
    """

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(wav), 1, generator=generator)

    start = int(draw(0.0, wav.shape[-1] / 4)[0])
    wav = wav[:, start : start + 3 * wav.shape[-1] // 4]
    spectrum = torch.fft.rfft(wav)
    frequency = torch.linspace(0.0, 1.0, spectrum.shape[-1])  # 1 is half the sample rate
    cutoff, steepness = 2.0 ** draw(-3.5, 1.0), draw(2.0, 24.0)
    wav = torch.fft.irfft(spectrum / (1.0 + (frequency / cutoff) ** steepness), wav.shape[-1])
    wav = wav / wav.abs().amax(-1, keepdim=True).clamp_min(1e-5)
    # Mu-law quantisation, to between 8 and 1024 levels, then a noise floor 3 to 45 dB below the clip.
    levels = 2.0 ** draw(2.0, 9.0)
    companded = torch.sign(wav) * torch.log1p(255.0 * wav.abs()) / math.log(256.0)
    companded = torch.round(companded * levels) / levels
    wav = torch.sign(companded) * torch.expm1(companded.abs() * math.log(256.0)) / 255.0
    noise = wav.square().mean(-1, keepdim=True).sqrt() * 10.0 ** (-draw(3.0, 45.0) / 20.0)
    return wav + noise * torch.randn(wav.shape, generator=generator)
