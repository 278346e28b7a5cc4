"""The loss balancer of EnCodec (section 3.4): weights mean shares of the gradient, whatever the losses' scales.

With g_i the gradient of loss i with respect to the decoded audio, <|g_i|> its norm averaged over steps and w_i its
weight, the generator is trained with the gradient

    sum_i  R * w_i / (sum_j w_j) * g_i / <|g_i|>

Taken at the audio, each loss is differentiated through itself only, and the generator once, with the sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Balanced:
    """gradient: of the decoded audio.   scales: what each loss was multiplied by.
    shares: each loss's share of the sum of averaged norms, before balancing.
    """

    gradient: Tensor
    scales: dict[str, Tensor]
    shares: dict[str, Tensor]


class Balancer(nn.Module):
    """Sums the gradients of several losses. Its averages are buffers, so that a resumed run goes on as it was.

    weights: by name of the loss; a loss that is absent at a step keeps its average and gives its share to the others.
    total_norm: R.   decay: of the averages, which are free of the bias of their start.
    per_item: norms are of each item's gradient, averaged over the batch; else of the whole batch's.
    enabled: False multiplies each gradient by its weight and no more.
    """

    norm_sum: Tensor
    decay_sum: Tensor

    def __init__(
        self,
        *,
        weights: Mapping[str, float],
        total_norm: float = 1.0,
        decay: float = 0.999,
        per_item: bool = True,
        enabled: bool = True,
        epsilon: float = 1e-12,
    ) -> None:
        super().__init__()
        self.weights = {name: float(weight) for name, weight in weights.items() if weight}
        self.total_norm = total_norm
        self.decay = decay
        self.per_item = per_item
        self.enabled = enabled
        self.epsilon = epsilon
        self.register_buffer("norm_sum", torch.zeros(len(self.weights)))
        self.register_buffer("decay_sum", torch.zeros(len(self.weights)))

    def forward(self, gradients: Mapping[str, Tensor]) -> Balanced:
        """The sum of the losses' gradients [B, C, L], each brought to its share."""
        names = list(gradients)
        unknown = sorted(set(names) - set(self.weights))
        if unknown:
            raise ValueError(
                f"no weight for the losses {unknown}; there are weights for {sorted(self.weights)}"
            )
        averages = self._averaged_norms(gradients)
        if self.enabled:
            total_weight = sum(self.weights[name] for name in names)
            shares = averages.new_tensor([self.weights[name] / total_weight for name in names])
            scales = shares * self.total_norm / (self.epsilon + averages)
        else:
            scales = averages.new_tensor([self.weights[name] for name in names])
        gradient = torch.stack([gradients[name] for name in names], -1) @ scales
        relative = averages / averages.sum().clamp(min=self.epsilon)
        return Balanced(
            gradient=gradient,
            scales=dict(zip(names, scales.unbind(), strict=True)),
            shares=dict(zip(names, relative.unbind(), strict=True)),
        )

    @torch.no_grad()
    def _averaged_norms(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """Averages over steps of the norms of the joined batch's gradients, [number of losses].

        On W ranks a loss is a mean over its rank's items only: its gradient is W times that of the joined batch.
        """
        ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        power = 1 if self.per_item else 2
        norms = torch.stack([self._norm(gradient) for gradient in gradients.values()]) ** power
        if ranks > 1:
            dist.all_reduce(norms)
            norms = norms / ranks if self.per_item else norms
        norms = norms ** (1 / power) / ranks
        index = [list(self.weights).index(name) for name in gradients]
        self.norm_sum[index] = self.decay * self.norm_sum[index] + norms
        self.decay_sum[index] = self.decay * self.decay_sum[index] + 1
        return self.norm_sum[index] / self.decay_sum[index]

    def _norm(self, gradient: Tensor) -> Tensor:
        norms = gradient.flatten(1).norm(dim=1)
        return norms.mean() if self.per_item else norms.norm()
