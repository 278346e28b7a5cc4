"""Log-mel spectrograms in decibels: what the mel distance compares and what the report draws."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def hertz_to_mel(frequency: Tensor) -> Tensor:
    """Mels of a frequency in Hz (the HTK formula)."""
    return 2595.0 * torch.log10(1.0 + frequency / 700.0)


def mel_to_hertz(mel: Tensor) -> Tensor:
    return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)


def mel_filterbank(sample_rate: int, window: int, num_mels: int) -> Tensor:
    """Triangles of peak 1, evenly spaced in mel from 0 to half the rate.  [num_mels, window // 2 + 1]"""
    top = hertz_to_mel(torch.tensor(sample_rate / 2, dtype=torch.float64))
    edges = mel_to_hertz(torch.linspace(0.0, 1.0, num_mels + 2, dtype=torch.float64) * top)
    bins = torch.linspace(0.0, sample_rate / 2, window // 2 + 1, dtype=torch.float64)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
    filters = torch.minimum(rising, falling).clamp(min=0.0)
    if empty := (filters.sum(1) == 0).nonzero().flatten().tolist():
        raise ValueError(
            f"{num_mels} mel bands are too many for a window of {window} samples at {sample_rate} Hz: "
            f"bands {empty[:5]} hold no frequency bin"
        )
    return filters.float()


class LogMel(nn.Module):
    """Mel power in dB; a sine of full scale is about 0 dB, and nothing is below `floor_db`.

    The signal is padded with zeros by half a window on both sides, so a clip that is padded with zeros in a
    batch has exactly the frames that it has alone, then frames at the floor.
    """

    filters: Tensor
    taper: Tensor

    def __init__(
        self,
        *,
        sample_rate: int,
        window: int = 1024,
        hop: int | None = None,
        num_mels: int = 80,
        floor_db: float = -80.0,
    ) -> None:
        super().__init__()
        self.window = window
        self.hop = hop or window // 4
        self.floor_db = floor_db
        self.register_buffer("filters", mel_filterbank(sample_rate, window, num_mels), persistent=False)
        self.register_buffer("taper", torch.hann_window(window), persistent=False)

    def num_frames(self, num_samples: Tensor) -> Tensor:
        """Frames that a clip of `num_samples` fills."""
        return num_samples // self.hop + 1

    def forward(self, wav: Tensor) -> Tensor:
        """wav [..., L] -> [..., num_mels, frames] dB."""
        flat = wav.reshape(-1, wav.shape[-1])
        spectrum = torch.stft(
            flat,
            self.window,
            self.hop,
            window=self.taper,
            center=True,
            pad_mode="constant",
            return_complex=True,
        )
        power = (spectrum.abs() * (2.0 / self.taper.sum())).square()
        mel = torch.matmul(self.filters, power)
        decibels = 10.0 * mel.clamp(min=10.0 ** (self.floor_db / 10.0)).log10()
        return decibels.reshape(*wav.shape[:-1], *decibels.shape[-2:])
