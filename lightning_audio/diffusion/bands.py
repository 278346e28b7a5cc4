"""Audio as a sum of frequency bands, and the loudness of one recording's bands given to another's."""

from __future__ import annotations

from collections.abc import Sequence

import julius
import torch
from torch import Tensor, nn


class BandSplitter(nn.Module):
    """[B, C, L] -> [N, B, C, L]: N bands, low to high, whose sum is the audio.

    num_bands: N; their edges are evenly spaced in mel from 0 to half the sample rate (Hz), unless
    edges: Hz, says where N - 1 cuts are.
    """

    def __init__(self, *, sample_rate: int, num_bands: int, edges: Sequence[float] | None = None) -> None:
        super().__init__()
        if edges is not None and len(edges) != num_bands - 1:
            raise ValueError(f"{num_bands} bands have {num_bands - 1} edges between them, got {len(edges)}")
        self.num_bands = num_bands
        with torch.device("cpu"):  # the filters are designed with numbers, so not on the meta device
            filters = (
                julius.SplitBands(sample_rate, n_bands=num_bands)
                if edges is None
                else julius.SplitBands(sample_rate, cutoffs=list(edges))
            )
        # In a list, so no submodule: computed and not learnt, they are in no checkpoint, and stay float32 when the
        # weights are not.
        self._filters = [filters]

    @property
    def edges(self) -> list[float]:
        """Hz"""
        return [float(edge) for edge in self._filters[0].cutoffs]

    @property
    def kernels(self) -> Tensor | None:
        """[N - 1, 1, kernel size]: the low-pass filter of each edge, None where there is one band only."""
        lowpass = self._filters[0].lowpass
        return None if lowpass is None else lowpass.get_buffer("filters")

    def forward(self, wav: Tensor) -> Tensor:
        with torch.autocast(wav.device.type, enabled=False):
            return self._filters[0].to(wav.device)(wav.float().contiguous())


def match_bands(wav: Tensor, reference: Tensor, splitter: BandSplitter, *, jointly: bool = False) -> Tensor:
    """wav [B, C, L] with the standard deviation of `reference`'s bands in each band.

    jointly: one standard deviation for the whole batch, as AudioCraft has it, rather than one for each item.
    """
    bands, wanted = splitter(wav), splitter(reference)  # [N, B, C, L]
    over = (1, 2, 3) if jointly else (2, 3)
    gain = wanted.std(over, keepdim=True) / bands.std(over, keepdim=True).clamp(min=1e-12)
    return (bands * gain).sum(0)
