"""One step of a codec's GAN training, as plain functions: what each side minimises, and its gradients.

A step is: reconstruct; update the discriminators on (decoded, real); then, against the updated discriminators,
take the gradient of every generator loss at the decoded audio, balance them, and go back through the generator
once. The generator is run once per step, and no gradient is computed that is not used.

`parts` splits a batch where it would not fit into memory: the losses are means over items, so the parts' weighted
sums are the batch's values. Two things are only approximately equal: relative feature matching, whose divisor is
each part's own, and spectral norm, which iterates on each part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_audio.codec.adversarial import (
    AdversarialLoss,
    FeatureMatchingLoss,
    discriminator_loss,
    generator_losses,
)
from lightning_audio.codec.discriminators import Verdict

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class GeneratorLosses:
    """values: each loss, detached.   gradients: of each, at the decoded audio [B, C, L]."""

    values: Losses
    gradients: Losses


def discriminator_objectives(
    discriminators: Mapping[str, nn.Module],
    loss: AdversarialLoss,
    fake: Tensor,
    real: Tensor,
    *,
    parts: int = 1,
) -> Losses:
    """What each discriminator minimises on decoded and real audio [B, C, L], by name.

    Nothing flows back into what made `fake`. Decoded and real audio go through separately: in one batch (which is no
    faster) gradients that cancel exactly, as those of the last bias under the hinge, leave rounding noise, of
    which Adam makes steps of full size.
    """
    fake = fake.detach()
    objectives: Losses = {}
    for name, discriminator in discriminators.items():

        def objective(fake: Tensor, real: Tensor, discriminator: nn.Module = discriminator) -> Tensor:
            return discriminator_loss(loss, discriminator(fake), discriminator(real))

        values = [
            weight * (objective(f, r) if parts == 1 else checkpoint(objective, f, r, use_reentrant=False))
            for weight, f, r in _weighted_parts(fake, real, parts)
        ]
        objectives[name] = torch.stack(values).sum()
    return objectives


def generator_gradients(
    reconstruction: Mapping[str, nn.Module],
    discriminators: Mapping[str, nn.Module],
    loss: AdversarialLoss,
    matching: FeatureMatchingLoss,
    fake: Tensor,
    real: Tensor,
    *,
    parts: int = 1,
) -> GeneratorLosses:
    """Every generator loss, and its gradient at the decoded audio: the reconstruction losses, "adv" and "feat".

    "adv" and "feat" are sums over the discriminators and are there when there are discriminators.
    """
    values: dict[str, list[Tensor]] = {}
    gradients: dict[str, list[Tensor]] = {}
    with frozen(discriminators.values()):
        for weight, fake_part, real_part in _weighted_parts(fake.detach(), real, parts):
            decoded = fake_part.requires_grad_()
            losses = {name: module(decoded, real_part) for name, module in reconstruction.items()}
            losses |= _adversarial(discriminators, loss, matching, decoded, real_part)
            for name, value in losses.items():
                # "adv" and "feat" share the discriminators' graph; the last one may free it.
                (gradient,) = torch.autograd.grad(weight * value, decoded, retain_graph=name == "adv")
                values.setdefault(name, []).append(weight * value.detach())
                gradients.setdefault(name, []).append(gradient)
    return GeneratorLosses(
        values={name: torch.stack(part).sum() for name, part in values.items()},
        gradients={name: torch.cat(part) for name, part in gradients.items()},
    )


def _adversarial(
    discriminators: Mapping[str, nn.Module],
    loss: AdversarialLoss,
    matching: FeatureMatchingLoss,
    decoded: Tensor,
    real: Tensor,
) -> Losses:
    sums: Losses = {}
    for discriminator in discriminators.values():
        with torch.no_grad():
            wanted: Sequence[Verdict] = discriminator(real)
        adversarial, features = generator_losses(loss, matching, discriminator(decoded), wanted)
        sums["adv"] = sums["adv"] + adversarial if "adv" in sums else adversarial
        sums["feat"] = sums["feat"] + features if "feat" in sums else features
    return sums


def _weighted_parts(fake: Tensor, real: Tensor, parts: int) -> Iterator[tuple[float, Tensor, Tensor]]:
    """The parts of a batch, each with its share of the items."""
    for fake_part, real_part in zip(fake.chunk(parts), real.chunk(parts), strict=True):
        yield len(fake_part) / len(fake), fake_part, real_part


@contextmanager
def frozen(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Within it the modules' parameters get no gradient, so that nothing is kept for computing one."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
