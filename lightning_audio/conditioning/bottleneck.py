"""The narrow way of a condition: vectors become codes and vectors again, so that only so much passes."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class Quantizer(Protocol):
    """What a conditioner needs of a residual quantiser (`lightning_audio.codec.quantizer` has one)."""

    training: bool

    def __call__(self, latent: Tensor, *, generator: torch.Generator | None = None) -> Any:
        """[B, D, T] -> an object whose `.latent` is quantised; learns from what it sees."""

    def encode(self, latent: Tensor, *, num_codebooks: int | None = None) -> Tensor:
        """[B, D, T] -> codes [B, K, T]"""

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, K, T] -> [B, D, T]"""


def squeeze(
    x: Tensor, quantizer: Quantizer, *, levels: int | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """x [B, S, D] after quantisation; in training the quantiser learns, and the gradient goes through it.

    levels: codebooks that count outside of training (None: all in use).   generator: of the quantiser's draws.
    """
    latent = x.transpose(1, 2)
    if quantizer.training:
        quantized: Tensor = quantizer(latent, generator=generator).latent
    else:
        quantized = quantizer.decode(quantizer.encode(latent, num_codebooks=levels)).to(x.dtype)
    return quantized.transpose(1, 2)
