"""Log-mel statistics: an embedding without weights, for a first look and for tests."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from eval.embedders.base import ClipEmbedder, over_time, padded
from eval.embedders.hearing import Hearing
from eval.mel import LogMel


class LogMelEmbedder(ClipEmbedder):
    """Mean and standard deviation over time of log-mel frames (dB / 10): timbre and how it moves."""

    def __init__(
        self,
        *,
        sample_rate: int = 16_000,
        num_mels: int = 64,
        spread: bool = True,
        hearing: Hearing | None = None,
    ) -> None:
        self.sample_rate = sample_rate
        self.spread = spread
        self.hearing = hearing or Hearing()
        self.name = f"log-mel-{num_mels}-mean{'-std' if spread else ''}"
        self.log_mel = LogMel(sample_rate=sample_rate, window=1024, hop=256, num_mels=num_mels)

    def rows(self, heard: Sequence[Tensor]) -> Tensor:
        wav, lengths = padded(heard)
        spectrogram = self.log_mel.to(wav.device)(wav[:, 0]) / 10.0  # [B, M, T]
        return over_time(spectrogram, self.log_mel.num_frames(lengths), self.spread)
