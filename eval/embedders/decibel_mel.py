"""The log-mel front end that PANN and LAION's CLAP share: torchlibrosa's, by FFT instead of by convolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DecibelMel(nn.Module):
    """Mel power in dB, 10 log10 of at least 1e-10.  [B, L] -> [B, T, mels], T = L // hop + 1

    filters: [window // 2 + 1, mels], taken from the file of weights, where they lie.
    The ends are reflected, so a clip must be longer than half a window.
    """

    filters: Tensor
    taper: Tensor

    def __init__(self, filters: Tensor, *, hop: int) -> None:
        super().__init__()
        self.window, self.hop = 2 * (len(filters) - 1), hop
        self.register_buffer("filters", filters.clone(), persistent=False)
        self.register_buffer("taper", torch.hann_window(self.window), persistent=False)

    def forward(self, wav: Tensor) -> Tensor:
        spectrum = torch.stft(
            wav,
            self.window,
            self.hop,
            window=self.taper,
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        power = torch.view_as_real(spectrum).square().sum(-1).transpose(1, 2)  # [B, T, bins]
        return 10.0 * (power @ self.filters).clamp(min=1e-10).log10()
