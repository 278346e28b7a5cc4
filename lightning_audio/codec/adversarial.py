"""What a discriminator and its generator play for: adversarial losses and feature matching.

An adversarial loss is a pair of functions of logits, one for real audio and one for decoded audio, that the
discriminator minimises, and one that the generator minimises. All work on the verdicts of all resolutions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_audio.codec.discriminators import Verdict


class HingeLoss:
    """Discriminator: mean max(0, 1 - D(real)) + mean max(0, 1 + D(decoded)).

    clamped: the generator minimises mean max(0, 1 - D(decoded)) as in the EnCodec paper ("hinge2" in AudioCraft)
        instead of -mean D(decoded) ("hinge").
    """

    def __init__(self, *, clamped: bool = False) -> None:
        self.clamped = clamped

    def real(self, logits: Tensor) -> Tensor:
        return F.relu(1 - logits).mean()

    def fake(self, logits: Tensor) -> Tensor:
        return F.relu(1 + logits).mean()

    def generator(self, logits: Tensor) -> Tensor:
        return F.relu(1 - logits).mean() if self.clamped else -logits.mean()


class LeastSquaresLoss:
    """Discriminator: mean (1 - D(real))^2 + mean D(decoded)^2; generator: mean (1 - D(decoded))^2 (Mao et al. 2017)."""

    def real(self, logits: Tensor) -> Tensor:
        return (1 - logits).square().mean()

    def fake(self, logits: Tensor) -> Tensor:
        return logits.square().mean()

    def generator(self, logits: Tensor) -> Tensor:
        return (1 - logits).square().mean()


AdversarialLoss = HingeLoss | LeastSquaresLoss


class FeatureMatchingLoss:
    """Mean absolute difference of a discriminator's features on decoded and on real audio, a mean over features.

    relative: divide each by the mean magnitude of the real feature, as in the EnCodec paper (AudioCraft does not).
    """

    def __init__(self, *, relative: bool = False) -> None:
        self.relative = relative

    def __call__(self, fake: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
        distances = []
        for found, wanted in zip(fake, real, strict=True):
            # Not the mean's own gradient: it has another memory format than the features, and takes four times as long.
            distance = F.l1_loss(found, wanted.detach(), reduction="sum") / found.numel()
            distances.append(distance / wanted.detach().abs().mean() if self.relative else distance)
        return torch.stack(distances).mean()


def discriminator_loss(loss: AdversarialLoss, fake: Sequence[Verdict], real: Sequence[Verdict]) -> Tensor:
    """What the discriminator minimises, a mean over its resolutions."""
    pairs = zip(fake, real, strict=True)
    return torch.stack([loss.fake(f.logits) + loss.real(r.logits) for f, r in pairs]).mean()


def generator_losses(
    loss: AdversarialLoss, matching: FeatureMatchingLoss, fake: Sequence[Verdict], real: Sequence[Verdict]
) -> tuple[Tensor, Tensor]:
    """The adversarial loss and the feature matching that the generator minimises, means over resolutions."""
    adversarial = torch.stack([loss.generator(verdict.logits) for verdict in fake]).mean()
    pairs = zip(fake, real, strict=True)
    return adversarial, torch.stack([matching(f.features, r.features) for f, r in pairs]).mean()
