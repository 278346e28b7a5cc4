"""MAGNeT's decoding: a codebook at a time, all frames at once, the doubtful ones again and again.

A pass draws a code for every masked frame and scores the spans by the probabilities of what was drawn. The
worst are masked again for the next pass; their share falls as a cosine to one span, guidance with it from
`max_cfg_coef` to `min_cfg_coef`, and the temperature linearly to almost nothing. Whatever is kept stays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lightning_audio.batch import Attributes
from lightning_audio.conditioning.base import FusedConditions
from lightning_audio.conditioning.guidance import guided_logits
from lightning_audio.layers.transformer import KeysValues
from lightning_audio.lm.autoregressive import Progress, guidance_passes
from lightning_audio.lm.masked.arrangement import ARRANGEMENTS, SCORINGS, Arrangement
from lightning_audio.lm.masked.model import MaskedLM, head_logits
from lightning_audio.lm.masked.rescoring import combined, rescorer_of
from lightning_audio.lm.sampling import (
    MultinomialSampler,
    SamplingSettings,
    gumbel_noise,
    item_keys,
    keep_top_k,
    keep_top_p,
    keys_under,
)
from lightning_audio.lm.token_lm import TokenLM

LEAST_TEMPERATURE = 0.01


@dataclass(frozen=True)
class MaskedSettings:
    """How codes are decoded; the defaults are those of the music models, `SOUND` those of the sound models.

    decoding_steps: passes for each codebook. (The 30 s music models were trained with 60, 10, 10, 10.)
    temperature: of the first pass, falling linearly (`anneal_temperature`) within each codebook.
    top_p, top_k: as in `SamplingSettings`; top-p wins.   use_sampling: False takes the most likely codes.
    max_cfg_coef, min_cfg_coef: guidance where everything is masked, and where nothing is.
    span_arrangement: "nonoverlap": spans side by side; "stride1": overlapping, which the author recommends.
    span_scoring: of spans side by side, by their surest code ("max") or the product of all ("prod").
    """

    decoding_steps: Sequence[int] = (20, 10, 10, 10)
    temperature: float = 3.0
    top_p: float = 0.9
    top_k: int = 0
    max_cfg_coef: float = 10.0
    min_cfg_coef: float = 1.0
    span_arrangement: str = "nonoverlap"
    span_scoring: str = "max"
    use_sampling: bool = True
    anneal_temperature: bool = True

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 <= self.top_p <= 1:
            raise ValueError(
                f"want temperature >= 0, top_k >= 0 and top_p in [0, 1]; "
                f"got {self.temperature}, {self.top_k} and {self.top_p}"
            )
        if not self.decoding_steps or min(self.decoding_steps) < 1:
            raise ValueError(f"want at least one decoding step per codebook, got {list(self.decoding_steps)}")
        for name, known in (("span_arrangement", ARRANGEMENTS), ("span_scoring", SCORINGS)):
            if getattr(self, name) not in known:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; there are {list(known)}")

    def arrangement(self, span_length: int) -> Arrangement:
        return ARRANGEMENTS[self.span_arrangement](span_length, self.span_scoring)


SOUND = MaskedSettings(temperature=3.5, top_p=0.8, max_cfg_coef=20.0)
"""Of the sound models."""


@dataclass(frozen=True)
class Pass:
    """One pass over a codebook: how many units are masked, how strongly guided, how hot; all on the host."""

    num_masked: int
    cfg_coef: float
    temperature: float


def schedule(settings: MaskedSettings, num_steps: int, num_units: int) -> list[Pass]:
    """The passes of one codebook, of which `num_units` spans or frames are to be told."""
    passes = []
    for step, time in enumerate(torch.linspace(0, 1, num_steps)):
        share = torch.cos(time * math.pi * 0.5)  # float32, as in the original: the count is cut to an integer
        rate = float(share)
        left = (num_steps - 1 - step) / num_steps if settings.anneal_temperature else 1.0
        passes.append(
            Pass(
                num_masked=max(int(share * num_units), 1),
                cfg_coef=rate * settings.max_cfg_coef + (1 - rate) * settings.min_cfg_coef,
                temperature=max(settings.temperature * left, LEAST_TEMPERATURE),
            )
        )
    return passes


@torch.inference_mode()
def generate_masked(
    lm: MaskedLM,
    attributes: Sequence[Attributes],
    *,
    num_frames: int,
    settings: MaskedSettings | None = None,
    seeds: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
    prompt: Tensor | None = None,
    first_frame: int = 0,
    rescorer: TokenLM | None = None,
    rescore_weight: float = 0.7,
    progress: Progress | None = None,
) -> Tensor:
    """Codes for each item of `attributes`.  [B, K, T]

    num_frames: T, the prompt included; spans side by side leave out frames beyond the last whole span.
    seeds: one per item; then nothing of an item depends on its neighbours. Without them the draws are those
        of 0, 1, ..., and texts are padded to the longest of the batch, as AudioCraft does (it matters where
        the model does not mask padding).
    generator: draws the batch as a whole instead, as AudioCraft does.
    prompt [B, K, T']: codes of the first frames, which stay.   first_frame: this run's place in a longer clip.
    rescorer: another model of the same codes, which is asked what it thinks of each draw; its probabilities
        have the share `rescore_weight` in the scores (section 3.3 of the paper).
    progress: called with the passes done, and all passes.
    """
    settings = settings or MaskedSettings()
    apart = seeds is not None
    seeds = range(len(attributes)) if seeds is None else seeds
    _check(lm, settings, len(attributes), len(seeds), rescore_weight)
    arrangement = settings.arrangement(lm.span_length)
    num_frames = _frames_to_decode(lm, arrangement, num_frames, prompt)
    prompt_frames = 0 if prompt is None else prompt.shape[-1]
    device = lm.heads.weight.device
    other = None if rescorer is None else rescorer_of(rescorer, lm, attributes, num_frames, apart)
    draw = _drawing(settings, lm, seeds, generator)
    told = _Stages(lm, attributes, settings, num_frames, apart)
    frames = torch.arange(first_frame, first_frame + num_frames, device=device)
    first_scores = arrangement.first_scores(len(attributes), num_frames, prompt_frames).to(device)
    units = arrangement.num_units(num_frames, prompt_frames)
    sequence = torch.full(
        (len(attributes), lm.num_codebooks, num_frames), lm.special, dtype=torch.long, device=device
    )
    if prompt is not None:
        sequence[..., :prompt_frames] = prompt
    done, total = 0, sum(settings.decoding_steps)
    for stage, num_steps in enumerate(settings.decoding_steps):
        codes, scores = sequence[:, stage], first_scores  # `codes` is a view, written in place
        for step, now in enumerate(schedule(settings, num_steps, units)):
            hidden = arrangement.most_doubtful(scores, now.num_masked)
            hidden[:, :prompt_frames] = False
            codes.masked_fill_(hidden, lm.special)
            unknown = codes == lm.special
            logits = told.logits(sequence, stage, now.cfg_coef)
            drawn, probabilities = draw(logits, now.temperature, frames * lm.num_codebooks + stage, step)
            if other is not None and step + 1 < num_steps:  # nobody asks for the last scores
                probabilities = combined(
                    probabilities, other(sequence, drawn, unknown, stage), rescore_weight
                )
            codes.copy_(torch.where(unknown, drawn, codes))
            scores = arrangement.scores(probabilities, unknown)
            done += 1
            if progress is not None:
                progress(done, total)
    return sequence


def _check(
    lm: MaskedLM, settings: MaskedSettings, num_items: int, num_seeds: int, rescore_weight: float
) -> None:
    if len(settings.decoding_steps) != lm.num_codebooks:
        raise ValueError(
            f"decoding_steps {list(settings.decoding_steps)} are for {len(settings.decoding_steps)} codebooks, "
            f"the model has {lm.num_codebooks}"
        )
    if num_seeds != num_items:
        raise ValueError(f"{num_seeds} seeds for {num_items} items")
    if not 0 <= rescore_weight <= 1:
        raise ValueError(f"rescore_weight is a share in [0, 1], got {rescore_weight}")


def _frames_to_decode(lm: MaskedLM, arrangement: Arrangement, num_frames: int, prompt: Tensor | None) -> int:
    frames = arrangement.trimmed(num_frames)
    if frames < lm.span_length:
        raise ValueError(f"{num_frames} frames were asked for; a span alone has {lm.span_length}")
    prompt_frames = 0 if prompt is None else prompt.shape[-1]
    if prompt_frames >= frames:
        raise ValueError(
            f"the prompt has {prompt_frames} frames, and {num_frames} in all were asked for, "
            f"of which {frames} make whole spans"
        )
    return frames


class _Stages:
    """The model under the conditions of one generation: masks, conditions and their keys and values once."""

    def __init__(
        self,
        lm: MaskedLM,
        attributes: Sequence[Attributes],
        settings: MaskedSettings,
        num_frames: int,
        apart: bool,
    ) -> None:
        self.lm = lm
        self.masks = [lm.context_mask(stage, num_frames) for stage in range(lm.num_codebooks)]
        coef = settings.max_cfg_coef if settings.max_cfg_coef != 1.0 else settings.min_cfg_coef
        self.conditions: FusedConditions
        (self.conditions,) = guidance_passes(
            lm, attributes, cfg_coef=coef, two_step=False, length=num_frames, apart=apart
        )
        rows = [value.shape[0] for value in (self.conditions.cross, self.conditions.sum) if value is not None]
        self.is_guided = bool(rows) and max(rows) > len(attributes)
        self.cross_cache: KeysValues = []

    def logits(self, sequence: Tensor, stage: int, cfg_coef: float) -> Tensor:
        """Guided.  [B, K, T] -> [B, T, card]"""
        rows = sequence.repeat(2, 1, 1) if self.is_guided else sequence
        hidden = self.lm.hidden(rows, self.conditions, mask=self.masks[stage], cross_cache=self.cross_cache)
        logits = head_logits(self.lm, hidden, stage).float()
        return guided_logits(logits, coef=cfg_coef) if self.is_guided else logits


class _Drawing(Protocol):
    """Logits [B, T, card] -> a code for every frame and its probability, [B, T] both.

    places [T]: a number for each frame and codebook; with `step` it tells this draw from all others.
    """

    def __call__(
        self, logits: Tensor, temperature: float, places: Tensor, step: int
    ) -> tuple[Tensor, Tensor]: ...


def _drawing(
    settings: MaskedSettings, lm: MaskedLM, seeds: Sequence[int], generator: torch.Generator | None
) -> _Drawing:
    if not settings.use_sampling:
        return _most_likely
    if generator is not None:
        return _BatchDraw(settings, generator)
    return _ItemDraw(settings, seeds, lm.heads.weight.device)


def _most_likely(logits: Tensor, temperature: float, places: Tensor, step: int) -> tuple[Tensor, Tensor]:
    codes = logits.argmax(dim=-1)
    return codes, _probability(logits / temperature, codes)


class _BatchDraw:
    """From one torch generator, all frames of the batch in turn, as AudioCraft draws."""

    def __init__(self, settings: MaskedSettings, generator: torch.Generator) -> None:
        self.settings, self.generator = settings, generator

    def __call__(
        self, logits: Tensor, temperature: float, places: Tensor, step: int
    ) -> tuple[Tensor, Tensor]:
        top_k, top_p = self.settings.top_k, self.settings.top_p
        sampling = SamplingSettings(temperature=temperature, top_k=top_k, top_p=top_p)
        codes = MultinomialSampler(sampling, self.generator)(logits, places)
        return codes, _probability(_scored(self.settings, logits / temperature), codes)


class _ItemDraw:
    """With the noise of each item's seed, a function of (seed, codebook, frame, step): see `PerItemSampler`."""

    def __init__(self, settings: MaskedSettings, seeds: Sequence[int], device: torch.device) -> None:
        self.settings = settings
        self.keys = item_keys(seeds, device)[:, None]  # [B, 1]

    def __call__(
        self, logits: Tensor, temperature: float, places: Tensor, step: int
    ) -> tuple[Tensor, Tensor]:
        logits = logits / temperature
        scored = _scored(self.settings, logits)
        kept = keep_top_p(logits, self.settings.top_p) if self.settings.top_p > 0 else scored
        keys = keys_under(keys_under(self.keys, places), torch.full_like(places, step))  # [B, T]
        codes = (kept + gumbel_noise(keys, logits.shape[-1])).argmax(dim=-1)
        return codes, _probability(scored, codes)


def _scored(settings: MaskedSettings, logits: Tensor) -> Tensor:
    """Logits of the probabilities that spans are scored by: cut by top-k, but not by top-p (as in AudioCraft)."""
    return logits if settings.top_p > 0 else keep_top_k(logits, settings.top_k)


def _probability(logits: Tensor, codes: Tensor) -> Tensor:
    """Of the codes.  [B, T, card], [B, T] -> [B, T]"""
    return logits.softmax(dim=-1).gather(-1, codes[..., None])[..., 0]
