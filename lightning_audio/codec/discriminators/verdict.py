"""What a discriminator says of a batch of audio."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Verdict(NamedTuple):
    """logits: [B, 1, ...], high where the audio seems real.   features: the activations that led there."""

    logits: Tensor
    features: list[Tensor]
