"""Codes step by step: feed what is there, draw the next ones, write them down where nothing stood yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from lightning_audio.batch import Attributes, length_mask
from lightning_audio.conditioning.base import FusedConditions
from lightning_audio.conditioning.guidance import (
    conditions_of,
    with_null,
    with_wav_only_and_null,
)
from lightning_audio.lm.captured import captured_steps
from lightning_audio.lm.sampling import Sampler
from lightning_audio.lm.steps import UNKNOWN, GuidedLM, Pass, PlainSteps, Step
from lightning_audio.lm.token_lm import TokenLM

Progress = Callable[[int, int], None]
"""Called with the number of steps done and of all steps."""

Stepping = Callable[[PlainSteps], Step]
"""How to go on, one step at a time, where plain steps have fed what there was and drawn the first codes."""


def guidance_passes(
    lm: TokenLM,
    attributes: Sequence[Attributes],
    *,
    cfg_coef: float,
    two_step: bool,
    cfg_coef_beta: float | None = None,
    length: int | None = None,
    apart: bool = False,
) -> list[FusedConditions]:
    """What each pass through the model is conditioned on: [cond; null] in one, or cond and null in two.

    With `cfg_coef_beta` these are [cond; wav only; null], in one or in three.
    One pass of the attributes alone where there is nothing to guide: cfg_coef 1, or no attribute that counts.
    apart: each item is conditioned by itself, so that its texts are not padded to those of its neighbours.
    """
    condition = partial(conditions_of, lm.conditioning, num_items=len(attributes), length=length, apart=apart)
    known = lm.conditioning.conditioners
    has_any = any(item.get(name) not in (None, "") for item in attributes for name in known)
    if (cfg_coef == 1.0 and cfg_coef_beta in (None, 1.0)) or not has_any:
        return [condition(attributes)]
    rows = with_null if cfg_coef_beta is None else with_wav_only_and_null
    guided = rows(attributes, keep=lm.conditioning.kept)
    if not two_step:
        return [condition(guided)]
    size = len(attributes)
    return [condition(guided[start : start + size]) for start in range(0, len(guided), size)]


def plain_steps(plain: PlainSteps) -> Step:
    """Goes on as it began."""
    return plain


def stepping_for(weight: Tensor) -> Stepping:
    """Recorded where launching a step costs more than doing it: on a GPU, but for a model that is in shards."""
    return captured_steps if weight.is_cuda and not isinstance(weight, DTensor) else plain_steps


class Decoding:
    """One run of the model over a batch: the sequence as far as it is known, and how to go on.

    sequence: [B, K, S], `UNKNOWN` where a code is yet to come.   steps: [K, T], where each code stands in it.
    """

    @torch.inference_mode()
    def __init__(
        self,
        lm: TokenLM,
        attributes: Sequence[Attributes],
        *,
        num_frames: int,
        sampler: Sampler,
        cfg_coef: float = 1.0,
        two_step_cfg: bool = False,
        cfg_coef_beta: float | None = None,
        prompt: Tensor | None = None,
        first_frame: int = 0,
        apart: bool = False,
        lengths: Sequence[int] | None = None,
        stepping: Stepping | None = None,
    ) -> None:
        """prompt [B, K, T']: codes of the first frames.   first_frame: this run's place in a longer clip.
        apart: see `guidance_passes`.   lengths: frames of each item, where some end before `num_frames`.
        stepping: the form of the steps after the first; None: that of `stepping_for`.
        """
        if not lm.pattern.has_start:
            raise ValueError("this model has no start token: it does not generate step by step")
        prompt_frames = 0 if prompt is None else prompt.shape[-1]
        if prompt_frames >= num_frames:
            raise ValueError(f"the prompt has {prompt_frames} frames, and {num_frames} in all were asked for")
        self.lm, self.num_frames = lm.prepare_for_inference(), num_frames
        self.stepping = stepping_for(lm.heads.weight) if stepping is None else stepping
        device = lm.heads.weight.device
        codes = torch.full(
            (len(attributes), lm.num_codebooks, num_frames), UNKNOWN, dtype=torch.long, device=device
        )
        if lengths is not None:
            is_there = length_mask(torch.tensor(lengths, device=device), num_frames)[:, None]
            codes = codes.where(is_there, lm.special)
        if prompt is not None:
            codes[..., :prompt_frames] = prompt
        self.steps = lm.pattern.steps(num_frames)
        self.last_step = int(self.steps.max())
        self.next_step = int(self.steps[:, prompt_frames].min())
        self.sequence = lm.pattern.build(codes, lm.special, self.last_step + 1)
        frames = torch.arange(num_frames).expand_as(self.steps) + first_frame
        frames_at = torch.zeros(lm.num_codebooks, self.last_step + 1, dtype=torch.long)
        frames_at = frames_at.scatter(1, self.steps, frames).to(device)  # [K, S]: the frame at each step
        passes = guidance_passes(
            lm,
            attributes,
            cfg_coef=cfg_coef,
            two_step=two_step_cfg,
            cfg_coef_beta=cfg_coef_beta,
            length=self.last_step + 1,
            apart=apart,
        )
        rows = [_rows(conditions) or len(attributes) for conditions in passes]
        model = GuidedLM(
            lm,
            [
                Pass(conditions, lm.new_cache(count, self.last_step, conditions), count // len(attributes))
                for conditions, count in zip(passes, rows, strict=True)
            ],
            cfg_coef=cfg_coef if sum(rows) > len(attributes) else None,
            cfg_coef_beta=cfg_coef_beta,
        )
        self._plain = PlainSteps(model, sampler, self.sequence, frames_at)

    @torch.inference_mode()
    def __iter__(self) -> Iterator[int]:
        """Does one step at a time, and says how many frames are then complete."""
        complete = self.steps.max(dim=0).values.cummax(dim=0).values.tolist()  # the step that ends each frame
        done = 0
        go_on: Step = self._plain
        for step in range(self.next_step, self.last_step + 1):
            go_on(step)
            if step == self.next_step:
                go_on = self.stepping(self._plain)
            while done < self.num_frames and complete[done] <= step:
                done += 1
            yield done

    def codes(self) -> Tensor:
        """[B, K, T], `UNKNOWN` where a code is yet to come."""
        return self.lm.pattern.revert(self.sequence, self.num_frames, missing=UNKNOWN)

    def __len__(self) -> int:
        """Steps that there are to do."""
        return self.last_step + 1 - self.next_step


def _rows(conditions: FusedConditions) -> int | None:
    """The rows that the conditions are for; None where there are no conditions."""
    tensors = (conditions.cross, conditions.prepend, conditions.sum)
    return next((tensor.shape[0] for tensor in tensors if tensor is not None), None)


def generate_codes(
    lm: TokenLM,
    attributes: Sequence[Attributes],
    *,
    num_frames: int,
    sampler: Sampler,
    cfg_coef: float = 1.0,
    two_step_cfg: bool = False,
    cfg_coef_beta: float | None = None,
    prompt: Tensor | None = None,
    first_frame: int = 0,
    progress: Progress | None = None,
    stepping: Stepping | None = None,
) -> Tensor:
    """Codes [B, K, T] of a clip for each item; the arguments are those of `Decoding`."""
    decoding = Decoding(
        lm,
        attributes,
        num_frames=num_frames,
        sampler=sampler,
        cfg_coef=cfg_coef,
        two_step_cfg=two_step_cfg,
        cfg_coef_beta=cfg_coef_beta,
        prompt=prompt,
        first_frame=first_frame,
        stepping=stepping,
    )
    for done, _ in enumerate(decoding, start=1):
        if progress is not None:
            progress(done, len(decoding))
    return decoding.codes()
