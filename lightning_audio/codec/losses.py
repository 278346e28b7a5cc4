"""Distances between decoded and original audio: losses to train a codec on, and numbers to watch it by.

Every loss is a module called as loss(decoded, original) on [B, C, L] that gives a scalar, a mean over the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_audio.layers.spectrogram import MelSpectrogram, power

EPSILON = torch.finfo(torch.float32).eps


class L1Loss(nn.L1Loss):
    """Mean absolute difference of the waveforms."""


class L2Loss(nn.MSELoss):
    """Mean squared difference of the waveforms."""


class MelLoss(nn.Module):
    """Mean absolute difference of log10 mel spectrograms.   floor: what is added to the power before the logarithm."""

    def __init__(
        self,
        *,
        sample_rate: int,
        n_fft: int = 1024,
        hop_length: int = 256,
        win_length: int | None = None,
        num_mels: int = 64,
        f_min: float = 64.0,
        f_max: float | None = None,
        normalized: bool = False,
        floor: float = 1e-5,
    ) -> None:
        super().__init__()
        self.floor = floor
        self.mel = MelSpectrogram(
            sample_rate=sample_rate,
            n_fft=n_fft,
            hop_length=hop_length,
            win_length=win_length,
            num_mels=num_mels,
            f_min=f_min,
            f_max=f_max,
            normalized=normalized,
        )

    def forward(self, decoded: Tensor, original: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = torch.log10(self.floor + self.mel(original))
        return F.l1_loss(torch.log10(self.floor + self.mel(decoded)), wanted)


class MultiScaleMelLoss(nn.Module):
    """L1 on mel spectrograms plus alpha times the squared difference of their log10, summed over window lengths.

    window_exponents: windows of 2**e samples, hop a quarter of it. The paper has 5 ... 11, AudioCraft 6 ... 10.
    weigh_by_window: alpha = sqrt(2**e - 1), else 1.
    normalized: normalise the spectra by their windows, and divide the sum by sum(alpha + 1).
    """

    def __init__(
        self,
        *,
        sample_rate: int,
        window_exponents: Sequence[int] = (6, 7, 8, 9, 10),
        num_mels: int = 64,
        f_min: float = 64.0,
        f_max: float | None = None,
        normalized: bool = True,
        weigh_by_window: bool = False,
        floor: float = 1e-5,
    ) -> None:
        super().__init__()
        self.floor = floor
        self.mels = nn.ModuleList(
            MelSpectrogram(
                sample_rate=sample_rate,
                n_fft=2**exponent,
                hop_length=2**exponent // 4,
                num_mels=num_mels,
                f_min=f_min,
                f_max=f_max,
                normalized=normalized,
            )
            for exponent in window_exponents
        )
        self.alphas = [(2**exponent - 1) ** 0.5 if weigh_by_window else 1.0 for exponent in window_exponents]
        self.divisor = sum(self.alphas) + len(self.alphas) if normalized else 1.0

    def forward(self, decoded: Tensor, original: Tensor) -> Tensor:
        total = decoded.new_zeros(())
        for alpha, mel in zip(self.alphas, self.mels, strict=True):
            with torch.no_grad():
                wanted = mel(original)
                log_wanted = torch.log10(self.floor + wanted)
            found = mel(decoded)
            log_distance = F.mse_loss(torch.log10(self.floor + found), log_wanted)
            total = total + F.l1_loss(found, wanted) + alpha * log_distance
        return total / self.divisor


class MultiResolutionSTFTLoss(nn.Module):
    """Spectral convergence and log-magnitude distance of STFTs (Yamamoto et al. 2020), averaged over resolutions."""

    def __init__(
        self,
        *,
        n_ffts: Sequence[int] = (1024, 2048, 512),
        hop_lengths: Sequence[int] = (120, 240, 50),
        win_lengths: Sequence[int] = (600, 1200, 240),
        convergence_factor: float = 0.5,
        magnitude_factor: float = 0.5,
        normalized: bool = False,
        epsilon: float = EPSILON,
    ) -> None:
        super().__init__()
        self.resolutions = list(zip(n_ffts, hop_lengths, win_lengths, strict=True))
        self.convergence_factor = convergence_factor
        self.magnitude_factor = magnitude_factor
        self.normalized = normalized
        self.epsilon = epsilon
        for index, win_length in enumerate(win_lengths):
            self.register_buffer(f"window_{index}", torch.hann_window(win_length), persistent=False)

    def forward(self, decoded: Tensor, original: Tensor) -> Tensor:
        total = decoded.new_zeros(())
        for index in range(len(self.resolutions)):
            found = self._magnitude(decoded, index)
            with torch.no_grad():
                wanted = self._magnitude(original, index)
            convergence = torch.linalg.norm(wanted - found) / (torch.linalg.norm(wanted) + self.epsilon)
            distance = F.l1_loss((self.epsilon + found).log(), (self.epsilon + wanted).log())
            total = total + self.convergence_factor * convergence + self.magnitude_factor * distance
        return total / len(self.resolutions)

    def _magnitude(self, wav: Tensor, index: int) -> Tensor:
        n_fft, hop_length, win_length = self.resolutions[index]
        spec = torch.stft(
            wav.flatten(0, 1),
            n_fft,
            hop_length,
            win_length,
            self.get_buffer(f"window_{index}"),
            normalized=self.normalized,
            return_complex=True,
        )
        return power(spec).clamp(min=self.epsilon).sqrt()


class NegativeSISNR(nn.Module):
    """Minus the scale-invariant signal-to-noise ratio in dB, over half-overlapping segments.   segment: s."""

    def __init__(self, *, sample_rate: int, segment: float = 5.0, overlap: float = 0.5) -> None:
        super().__init__()
        self.segment = int(segment * sample_rate)
        self.stride = int(self.segment * (1 - overlap))

    def forward(self, decoded: Tensor, original: Tensor) -> Tensor:
        epsilon = EPSILON * self.segment
        return -_si_snr(
            _segments(decoded, self.segment, self.stride),
            _segments(original, self.segment, self.stride),
            epsilon,
        ).mean()


def _segments(wav: Tensor, segment: int, stride: int) -> Tensor:
    """[B, C, L] -> [B, C, number of segments, segment]; the last one is filled up with zeros."""
    length = wav.shape[-1]
    count = -(-length // stride)
    missing = (count - 1) * stride + segment - length
    return F.pad(wav, (0, missing)).unfold(-1, segment, stride)


def _si_snr(decoded: Tensor, original: Tensor, epsilon: float) -> Tensor:
    """10 log10(|projection|^2 / |rest|^2) of the centred signals along the last axis, in dB."""
    decoded = decoded - decoded.mean(-1, keepdim=True)
    original = original - original.mean(-1, keepdim=True)
    dot = (decoded * original).sum(-1, keepdim=True)
    projection = dot * original / (epsilon + original.square().sum(-1, keepdim=True))
    noise = decoded - projection
    return 10 * (
        torch.log10(epsilon + projection.square().sum(-1)) - torch.log10(epsilon + noise.square().sum(-1))
    )


def si_sdr(decoded: Tensor, original: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB of each item, higher is better: [B, C, L] -> [B]."""
    return _si_snr(decoded.flatten(1), original.flatten(1), 1e-8)
