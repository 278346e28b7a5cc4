"""How close a codec's output is to its input: SI-SDR, mel and STFT distances, and signal to noise in mel bands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from eval.clip_scores import ClipScores, SingleClipScores, is_silent, valid_samples
from eval.mel import LogMel
from lightning_audio.batch import length_mask
from lightning_audio.codec.losses import MultiResolutionSTFTLoss
from lightning_audio.layers.spectrogram import mel_filters, power

SI_SDR_RANGE = (-60.0, 100.0)
"""dB. An estimate with nothing of the target in it would be at minus infinity: it counts as the lower end."""


def constant_baseline(wav: Tensor, num_samples: Tensor | None = None) -> Tensor:
    """Each channel's mean, held: the best constant, and for most audio silence.  [B, C, L] -> [B, C, L]"""
    valid = valid_samples(wav, num_samples)[:, None]
    mean = wav.masked_fill(~valid, 0.0).sum(-1, keepdim=True) / valid.sum(-1, keepdim=True).clamp(min=1)
    return mean * valid


def si_sdr(estimate: Tensor, target: Tensor, num_samples: Tensor | None = None) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB; NaN for a constant target.  [B, C, L] twice -> [B]

    10 log10(c² / (1 - c²)), with c the correlation of the two signals, means removed, all channels together:
    the same as projecting the estimate on the target (Le Roux et al. 2019), but defined for a silent
    estimate.
    """
    valid = valid_samples(target, num_samples)[:, None]

    def centred(wav: Tensor) -> Tensor:
        inside = wav.double().where(valid, 0.0)  # not a product: what lies in the padding may be NaN
        return ((inside - constant_baseline(inside, num_samples)) * valid).flatten(1)

    x, y = centred(target), centred(estimate)
    energy_x, energy_y, product = (x * x).sum(1), (y * y).sum(1), (x * y).sum(1)
    explained = product.square() / (energy_x * energy_y).where(energy_y > 0, torch.ones_like(energy_y))
    # 1 - c² from the residual itself: the subtraction would lose all digits above about 80 dB.
    residual = (y - (product / energy_x)[:, None] * x).square().sum(1)
    unexplained = (residual / energy_y).where(energy_y > 0, torch.ones_like(energy_y))
    low, high = (10.0 ** (bound / 10.0) for bound in SI_SDR_RANGE)
    ratio = explained / unexplained.clamp(min=1e-30)
    # A constant target has a "mean" that differs from it by rounding; nothing can be said about it.
    defined = energy_x > 1e-12 * x.shape[1]
    return torch.where(defined, 10.0 * ratio.clamp(low, high).log10(), torch.nan)


class SiSDR(ClipScores):
    """Mean SI-SDR over clips, in dB. Higher is better."""

    higher_is_better = True

    def score(self, estimate: Tensor, target: Tensor, num_samples: Tensor | None) -> Tensor:
        return si_sdr(estimate, target, num_samples)


class MelDistance(ClipScores):
    """|log-mel difference| in dB, averaged over resolutions, bands, frames and clips. Lower is better.

    windows: STFT windows in samples, hop a quarter of each. A window has `window // 16` mel bands, 80 at
    most. The floor of -80 dB keeps inaudible differences from counting.
    """

    higher_is_better = False

    def __init__(
        self,
        *,
        sample_rate: int,
        windows: Sequence[int] = (64, 128, 256, 512, 1024, 2048),
        floor_db: float = -80.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sample_rate = sample_rate
        self.spectrograms = nn.ModuleList(
            LogMel(sample_rate=sample_rate, window=w, num_mels=min(80, w // 16), floor_db=floor_db)
            for w in windows
        )

    def score(self, estimate: Tensor, target: Tensor, num_samples: Tensor | None) -> Tensor:
        valid = valid_samples(target, num_samples)[:, None]
        lengths = valid.sum((1, 2))
        difference = torch.zeros(len(target), dtype=torch.float64, device=target.device)
        for spectrogram in self.spectrograms:
            assert isinstance(spectrogram, LogMel)
            pair = [spectrogram(wav.float().where(valid, 0.0)) for wav in (estimate, target)]
            apart = (pair[0] - pair[1]).abs().mean((1, 2))  # [B, C, M, T] -> [B, T]
            frames = length_mask(spectrogram.num_frames(lengths), apart.shape[-1])
            difference += (apart.double().where(frames, 0.0).sum(1) / frames.sum(1)) / len(self.spectrograms)
        return torch.where(lengths > 0, difference, torch.nan)


class STFTDistance(SingleClipScores):
    """Spectral convergence and log-magnitude distance, averaged over three resolutions and clips. Lower is better.

    The training loss of the same name (Yamamoto et al. 2020), of each clip by itself. A clip that is shorter than half
    the longest window, or whose target is silent, has none.
    """

    higher_is_better = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.distance = MultiResolutionSTFTLoss()
        self.min_samples = max(n_fft for n_fft, _, _ in self.distance.resolutions) // 2 + 1

    def score_clip(self, estimate: Tensor, target: Tensor) -> float:
        if target.shape[1] < self.min_samples or is_silent(target):
            return torch.nan
        return float(self.distance(estimate[None], target[None]))


class MelSNR(SingleClipScores):
    """Signal to noise of the mel spectrogram in dB, in each of `num_bands` bands, low to high, and in all.

    Multi-Band Diffusion's: with both clips scaled to the target's level of 1, the magnitude z of each of 80 mel bands
    and frames scores min(max(20 log10 max(z, 0.06) / |z - z'|, -25), 25). The paper gives three bands, AudioCraft four.
    AudioCraft takes the level of a whole batch, here it is each clip's own, so that no clip's score depends on another.
    """

    higher_is_better = True

    LIMIT = 25.0
    """dB: of a score, of the gain that brings the target to level 1, and of how far under it a magnitude counts."""

    def __init__(
        self,
        *,
        sample_rate: int,
        num_bands: int = 3,
        num_mels: int = 80,
        window: int = 512,
        hop: int = 128,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_scores=num_bands + 1, **kwargs)
        self.num_bands, self.window, self.hop = num_bands, window, hop
        filters = mel_filters(num_bins=window // 2 + 1, num_mels=num_mels, sample_rate=sample_rate)
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("taper", torch.hann_window(window), persistent=False)

    def score_clip(self, estimate: Tensor, target: Tensor) -> Tensor:
        if target.shape[1] <= self.window // 2 or is_silent(target):
            return torch.full(self.score_shape, torch.nan)
        level = target.square().mean().sqrt().clamp(min=10 ** (-self.LIMIT / 20))
        wanted, found = self._mel(target / level), self._mel(estimate / level)  # [C, M, T]
        signal = wanted.clamp(min=10 ** (-self.LIMIT / 20))
        noise = (wanted - found).abs().clamp(min=1e-6)
        ratio = (20.0 * (signal / noise).log10()).clamp(-self.LIMIT, self.LIMIT).double().mean((0, 2))  # [M]
        return torch.stack([*(band.mean() for band in ratio.chunk(self.num_bands)), ratio.mean()])

    def _mel(self, wav: Tensor) -> Tensor:
        """Magnitudes.  [C, L] -> [C, M, T]"""
        taper = self.get_buffer("taper")
        spectrum = torch.stft(
            wav, self.window, self.hop, window=taper, center=True, pad_mode="reflect", return_complex=True
        )
        return (self.get_buffer("filters") @ (power(spectrum) / taper.square().sum())).sqrt()
