"""What a discriminator says of a batch of audio."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Verdict(NamedTuple):
    """logits: [B, 1, ...], high where the audio seems real.   features: the activations that led there."""

    logits: Tensor
    features: list[Tensor]

    def split(self, first: int) -> tuple[Verdict, Verdict]:
        """The verdicts on the first items of the batch and on the rest."""
        return (
            Verdict(self.logits[:first], [feature[:first] for feature in self.features]),
            Verdict(self.logits[first:], [feature[first:] for feature in self.features]),
        )
