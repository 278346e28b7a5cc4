"""One step of decoding: what the model says about it, a draw, and the codes written where nothing stood yet.

It comes in two forms with the same result. `PlainSteps` feed whatever is new and attend to views that grow:
the form for the start with its prompt and prefix, and for CPU. `StaticSteps` are the same work every time, so
that a GPU can have it recorded (`captured`) and the host neither builds it nor waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_audio.conditioning.base import FusedConditions
from lightning_audio.conditioning.guidance import guided_logits
from lightning_audio.layers.transformer import KVCache, StaticKVCache
from lightning_audio.lm.sampling import PerItemSampler, Sampler, greedy
from lightning_audio.lm.token_lm import TokenLM

UNKNOWN = -1
"""Stands in a sequence where a code is yet to come."""

Step = Callable[[int], None]
"""Draws the codes of the step of this number, the next one, and writes them down."""

Work = Callable[[], None]
Run = Callable[[Work, Hashable], None]
"""Does the work, which is the same as last time where what its shapes follow from is equal."""


@dataclass(frozen=True)
class Pass:
    """One pass through the model: for so many copies of the batch, under which conditions, with which memory."""

    conditions: FusedConditions
    cache: KVCache
    copies: int


@dataclass(frozen=True)
class GuidedLM:
    """A language model and its guidance: the passes that it takes, and how one opinion comes of them.

    cfg_coef: None where there is nothing to guide.   cfg_coef_beta: of the double guidance.
    """

    lm: TokenLM
    passes: list[Pass]
    cfg_coef: float | None
    cfg_coef_beta: float | None

    def logits(self, sequence: Tensor, place: Tensor | None = None) -> Tensor:
        """About the step after `sequence` [B, K, S], which goes into the memories.  [B, K, card] float32

        place [1]: with static memories, where in the whole sequence this step is.
        """
        parts = []
        for part in self.passes:
            conditions = part.conditions if place is None else _conditions_at(part.conditions, place)
            hidden = self.lm.hidden(sequence.repeat(part.copies, 1, 1), conditions, part.cache)
            parts.append(self.lm.heads(hidden[:, -1]))  # a prompt's other steps need no logits
        logits = torch.cat(parts).float().unflatten(-1, (self.lm.num_codebooks, self.lm.cardinality))
        if self.cfg_coef is None:
            return logits
        return guided_logits(logits, coef=self.cfg_coef, text_coef=self.cfg_coef_beta)


def _conditions_at(conditions: FusedConditions, place: Tensor) -> FusedConditions:
    """Those of one step after the first: there is no prefix, and of a sum that one step."""
    added = conditions.sum
    if added is not None and added.shape[1] > 1:
        added = added.index_select(1, place)
    return replace(conditions, prepend=None, prepend_mask=None, sum=added)


class PlainSteps:
    """Steps one by one, each after feeding all that is known and was not fed.

    sequence: [B, K, S], `UNKNOWN` where a code is yet to come.   frames: [K, S], the frame of each step.
    fed: how many steps the model has seen.
    """

    def __init__(self, model: GuidedLM, sampler: Sampler, sequence: Tensor, frames: Tensor) -> None:
        self.model, self.sampler, self.sequence, self.frames = model, sampler, sequence, frames
        self.fed = 0

    def __call__(self, step: int) -> None:
        logits = self.model.logits(self.sequence[..., self.fed : step])
        self.fed = step
        column = self.sequence[..., step]
        column.copy_(_unless_known(self.sampler(logits, self.frames[:, step]), column))


def at_once(work: Work, shape: Hashable) -> None:
    """A `Run` without any recording."""
    work()


class StaticSteps:
    """Single steps that go on where plain ones stopped, and find their place on the device.

    All that a step reads and writes stays where it is, no shape depends on the step (but for the keys that
    attention reads, see `StaticKVCache`), and the host gives and takes nothing: so its work can be recorded.
    """

    def __init__(self, plain: PlainSteps, run: Run = at_once) -> None:
        model = plain.model
        self.caches = [StaticKVCache(part.cache) for part in model.passes]
        self.prefixes = [part.cache.length - plain.fed for part in model.passes]
        passes = [replace(part, cache=own) for part, own in zip(model.passes, self.caches, strict=True)]
        self.model, self.run = replace(model, passes=passes), run
        self.sampler, self.sequence, self.frames = plain.sampler, plain.sequence, plain.frames
        self.position = torch.full((1,), plain.fed + 1, device=self.sequence.device)
        shape = (*self.sequence.shape[:2], model.lm.cardinality)
        self.logits = torch.zeros(shape, device=self.sequence.device)
        # Others may hold a state on the host, or wait for it: `torch.multinomial` looks at its probabilities.
        self.records_draw = plain.sampler is greedy or isinstance(plain.sampler, PerItemSampler)

    def __call__(self, step: int) -> None:
        spans = [
            cache.reach(prefix + step - 1) for cache, prefix in zip(self.caches, self.prefixes, strict=True)
        ]
        self.run(self._foretell_and_draw if self.records_draw else self._foretell, tuple(spans))
        if not self.records_draw:
            self._draw()

    def _foretell_and_draw(self) -> None:
        self._foretell()
        self._draw()

    def _foretell(self) -> None:
        last = self.position - 1
        self.logits.copy_(self.model.logits(self.sequence.index_select(-1, last), last))

    def _draw(self) -> None:
        column = self.sequence.index_select(-1, self.position)  # [B, K, 1]
        tokens = self.sampler(self.logits, self.frames.index_select(1, self.position)[:, 0])
        self.sequence.index_copy_(-1, self.position, _unless_known(tokens[..., None], column))
        self.position += 1


def _unless_known(tokens: Tensor, column: Tensor) -> Tensor:
    return torch.where(column == UNKNOWN, tokens, column)
