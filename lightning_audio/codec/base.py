"""What everything that turns codes into audio can ask of a codec, whichever it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@dataclass(frozen=True)
class Encoded:
    """codes: [B, K, T] int64; chunk after chunk where the codec works in chunks.
    scale: [B, number of chunks], the volume of each chunk, or None where the codec does not normalise.
    """

    codes: Tensor
    scale: Tensor | None = None


@runtime_checkable
class Codec(Protocol):
    """Audio to codes and back: `EnCodec`, and `StereoFromMono` around one."""

    @property
    def sample_rate(self) -> int:
        """Hz"""

    @property
    def channels(self) -> int:
        """Of the audio."""

    @property
    def hop_length(self) -> int:
        """Samples per frame."""

    @property
    def frame_rate(self) -> float:
        """Frames per second of audio, in Hz."""

    @property
    def num_codebooks(self) -> int:
        """Codebooks in use where a call does not say how many."""

    @property
    def cardinality(self) -> int:
        """Codes per codebook."""

    def encode(
        self, wav: Tensor, *, num_codebooks: int | None = None, bandwidth: float | None = None
    ) -> Encoded:
        """Codes [B, K, T] int64 of wav [B, C, L]: `num_codebooks` of them, or what fits into `bandwidth` kbit/s."""

    def decode(self, encoded: Encoded | Tensor) -> Tensor:
        """Audio [B, C, L] of what `encode` gave, or of bare codes [B, K, T]."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """As of every module; they tell its device and precision."""
