"""KL divergence between what a tagger hears in generated clips and in their references (Kreuk et al. 2022).

The tagger's logits go through a softmax, as in AudioGen's and MusicGen's tables; taggers whose classes are
independent (a sigmoid each) give another metric, whose numbers are not to be put beside these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from eval.clip_scores import ClipMean

EPSILON = 1e-6
"""Added to the probabilities inside the logarithm of the second distribution, as AudioCraft does."""


def kl_divergence(p: Tensor, q: Tensor, *, epsilon: float = EPSILON) -> Tensor:
    """KL(p || q) = Σ p (log p - log(q + epsilon)), in nats.  probabilities [..., K] twice -> [...]"""
    return (torch.xlogy(p, p) - p * (q + epsilon).log()).sum(-1)


def each_segment(logits: Tensor) -> Tensor:
    """Every segment is a sample of its own, as in the published tables.  [S, K] -> probabilities [S, K]"""
    return logits.double().softmax(-1)


def mean_probabilities(logits: Tensor) -> Tensor:
    """A clip is one sample: the mean of its segments' probabilities.  [S, K] -> [1, K]"""
    return logits.double().softmax(-1).mean(0, keepdim=True)


def mean_logits(logits: Tensor) -> Tensor:
    """A clip is one sample: the probabilities of its segments' mean logits.  [S, K] -> [1, K]"""
    return logits.double().mean(0, keepdim=True).softmax(-1)


class TaggerDivergence(ClipMean):
    """[KL(target || generated), KL(generated || target), their sum] in nats, the mean over samples.  [3]

    The first is what papers call KL.
    samples: from a clip's logits [S, K] to the distributions [N, K] that are compared: `each_segment`,
        `mean_probabilities` or `mean_logits`.

    `num_excluded` counts clips here: one with a logit that is not finite, or without a segment, is left out whole.
    """

    higher_is_better = False

    def __init__(self, *, samples: Callable[[Tensor], Tensor] = each_segment, **kwargs: Any) -> None:
        super().__init__(num_scores=3, **kwargs)
        self.samples = samples

    def update(self, generated: Sequence[Tensor], target: Sequence[Tensor], keys: Sequence[str]) -> None:
        """Logits [S, K] of the segments of each clip, in the order of `keys`."""
        for ours, theirs, key in zip(generated, target, keys, strict=True):
            if ours.ndim != 2 or ours.shape != theirs.shape:
                raise ValueError(
                    f"clip {key}: the generated one's logits are {tuple(ours.shape)} (segments, classes), its "
                    f"target's {tuple(theirs.shape)}; cut both to the same length"
                )
            if len(ours) == 0 or not (ours.isfinite().all() and theirs.isfinite().all()):
                self.add(torch.full((1, 3), torch.nan), [key])
                continue
            p, q = self.samples(theirs), self.samples(ours)
            forward, reverse = kl_divergence(p, q), kl_divergence(q, p)
            self.add(torch.stack([forward, reverse, forward + reverse], dim=-1), [key] * len(p))
