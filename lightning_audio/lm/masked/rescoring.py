"""What another model thinks of the codes that MAGNeT draws, so that better spans are kept (section 3.3).

The paper describes it, the released code has none of it. Here the score of a span is made of

    p = w * p_rescorer + (1 - w) * p_magnet

of the codes drawn in it; which codes are drawn is MAGNeT's own affair. The other model runs once per pass,
under the text alone, without guidance and at temperature 1. It may be of either kind:

- an autoregressive model (MusicGen) reads the whole clip with the draws in place, and one pass says how likely
  each of them was to follow what stands before it. Codebooks yet to be told are its special token;
- a masked model sees the masks that MAGNeT saw, and says how likely each draw is behind them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from lightning_audio.batch import Attributes
from lightning_audio.conditioning.base import FusedConditions
from lightning_audio.layers.transformer import KeysValues
from lightning_audio.lm.autoregressive import guidance_passes
from lightning_audio.lm.masked.model import MaskedLM, head_logits
from lightning_audio.lm.token_lm import TokenLM


class Rescorer(Protocol):
    """Probabilities [B, T] of the codes `drawn` [B, T] for codebook `stage`.

    sequence [B, K, T]: as MAGNeT saw it, with masks where `unknown` [B, T].
    """

    def __call__(self, sequence: Tensor, drawn: Tensor, unknown: Tensor, stage: int) -> Tensor: ...


def rescorer_of(
    other: TokenLM, lm: TokenLM, attributes: Sequence[Attributes], num_frames: int, apart: bool = False
) -> Rescorer:
    """The rescorer that fits the other model; ValueError where it does not speak of the same codes."""
    if (other.num_codebooks, other.cardinality) != (lm.num_codebooks, lm.cardinality):
        raise ValueError(
            f"the rescorer has {other.num_codebooks} codebooks of {other.cardinality} codes, "
            f"the model {lm.num_codebooks} of {lm.cardinality}"
        )
    if isinstance(other, MaskedLM):
        return MaskedRescorer(other, attributes, num_frames, apart)
    return AutoregressiveRescorer(other, attributes, num_frames, apart)


def combined(own: Tensor, other: Tensor, weight: float) -> Tensor:
    """The probabilities that spans are scored by."""
    return weight * other + (1 - weight) * own


class AutoregressiveRescorer:
    """Each draw after all that stands before it in the order of the model's pattern."""

    def __init__(
        self, lm: TokenLM, attributes: Sequence[Attributes], num_frames: int, apart: bool = False
    ) -> None:
        if not lm.pattern.has_start:
            raise ValueError(
                "without a start token the rescorer would see the very code that it is asked about"
            )
        self.lm = lm
        self.steps = lm.pattern.steps(num_frames)  # [K, T]
        self.conditions = _conditions(lm, attributes, int(self.steps.max()), apart)
        self.cross_cache: KeysValues = []

    def __call__(self, sequence: Tensor, drawn: Tensor, unknown: Tensor, stage: int) -> Tensor:
        codes = sequence.clone()
        codes[:, stage] = torch.where(unknown, drawn, codes[:, stage])
        before = self.steps[stage] - 1  # what the model says at step s is about s + 1
        steps = self.lm.pattern.build(codes, self.lm.special, int(before.max()) + 1)
        hidden = self.lm.hidden(steps, self.conditions, cross_cache=self.cross_cache)
        return _probability(self.lm, hidden[:, before.to(hidden.device)], drawn, stage)


class MaskedRescorer:
    """Each draw behind the masks that were there."""

    def __init__(
        self, lm: MaskedLM, attributes: Sequence[Attributes], num_frames: int, apart: bool = False
    ) -> None:
        self.lm = lm
        self.masks = [lm.context_mask(stage, num_frames) for stage in range(lm.num_codebooks)]
        self.conditions = _conditions(lm, attributes, num_frames, apart)
        self.cross_cache: KeysValues = []

    def __call__(self, sequence: Tensor, drawn: Tensor, unknown: Tensor, stage: int) -> Tensor:
        hidden = self.lm.hidden(
            sequence, self.conditions, mask=self.masks[stage], cross_cache=self.cross_cache
        )
        return _probability(self.lm, hidden, drawn, stage)


def _conditions(lm: TokenLM, attributes: Sequence[Attributes], length: int, apart: bool) -> FusedConditions:
    (conditions,) = guidance_passes(lm, attributes, cfg_coef=1.0, two_step=False, length=length, apart=apart)
    return conditions


def _probability(lm: TokenLM, hidden: Tensor, codes: Tensor, stage: int) -> Tensor:
    logits = head_logits(lm, hidden, stage).float()
    return (logits.gather(-1, codes[..., None])[..., 0] - logits.logsumexp(dim=-1)).exp()
