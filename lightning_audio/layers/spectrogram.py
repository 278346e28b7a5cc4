"""Mel spectrograms without torchaudio: triangular filters on the HTK mel scale."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mel_filters(
    *, num_bins: int, num_mels: int, sample_rate: int, f_min: float = 0.0, f_max: float | None = None
) -> Tensor:
    """Weights of each frequency bin in each mel band, triangles of height 1: [num_mels, num_bins].

    f_min, f_max: Hz; f_max defaults to half the sample rate.   mel = 2595 log10(1 + f / 700).
    """
    f_max = f_max if f_max is not None else sample_rate / 2
    if not 0 <= f_min < f_max:
        raise ValueError(f"mel bands from {f_min} Hz to {f_max} Hz")
    low, high = (2595.0 * torch.log10(1 + torch.tensor([f_min, f_max], dtype=torch.float64) / 700)).tolist()
    edges = 700 * (10 ** (torch.linspace(low, high, num_mels + 2, dtype=torch.float64) / 2595) - 1)
    bins = torch.linspace(0, sample_rate // 2, num_bins, dtype=torch.float64)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (bins - left) / (centre - left)
    falling = (right - bins) / (right - centre)
    return torch.minimum(rising, falling).clamp(min=0).float()


class MelSpectrogram(nn.Module):
    """Mel power spectrogram: [..., L] -> [..., num_mels, ceil(L / hop_length)].

    The signal is reflected by (n_fft - hop) / 2 on both sides, so that frame t is about the samples of hop t.
    normalized: divide the spectrum by the norm of the window.
    """

    window: Tensor
    filters: Tensor

    def __init__(
        self,
        *,
        sample_rate: int,
        n_fft: int = 1024,
        hop_length: int = 256,
        win_length: int | None = None,
        num_mels: int = 64,
        f_min: float = 0.0,
        f_max: float | None = None,
        normalized: bool = False,
    ) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.win_length = win_length or n_fft
        window = torch.hann_window(self.win_length)
        if normalized:
            window = window / window.square().sum().sqrt()
        filters = mel_filters(
            num_bins=n_fft // 2 + 1, num_mels=num_mels, sample_rate=sample_rate, f_min=f_min, f_max=f_max
        )
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, wav: Tensor) -> Tensor:
        flat = wav.reshape(-1, wav.shape[-1])
        edge = (self.n_fft - self.hop_length) // 2
        if flat.shape[-1] <= edge:
            raise ValueError(
                f"{flat.shape[-1]} samples are too few for a spectrogram with windows of {self.n_fft}"
            )
        flat = F.pad(flat, (edge, edge), "reflect")
        surplus = flat.shape[-1] - self.n_fft
        flat = F.pad(flat, (0, -surplus % self.hop_length if surplus > 0 else -surplus))  # whole frames
        spec = torch.stft(
            flat,
            self.n_fft,
            self.hop_length,
            self.win_length,
            self.window,
            center=False,
            return_complex=True,
        )
        return (self.filters @ power(spec)).reshape(*wav.shape[:-1], self.filters.shape[0], -1)


def power(spectrum: Tensor) -> Tensor:
    """|z|^2. Its gradient is defined at 0, that of abs() is not; and a sum over an axis of two would be slow."""
    real, imaginary = torch.view_as_real(spectrum).unbind(-1)
    return real.square() + imaginary.square()
