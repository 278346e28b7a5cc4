"""The hybrid mode: an autoregressive model begins, MAGNeT tells the rest at once (arXiv 2401.04577, section 3.4).

The first seconds cost a step per frame, and give the masked model something to go on from. The paper trains one
model on both objectives; here they are two models of the same codes, a MusicGen and a MAGNeT, so that any two
published or trained ones can be combined.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_audio.batch import Attributes
from lightning_audio.lm.autoregressive import Decoding, Progress
from lightning_audio.lm.masked.decoding import MaskedSettings, generate_masked
from lightning_audio.lm.masked.model import MaskedLM
from lightning_audio.lm.sampling import MultinomialSampler, PerItemSampler, Sampler, SamplingSettings, greedy
from lightning_audio.lm.token_lm import TokenLM


@torch.inference_mode()
def generate_hybrid(
    lm: MaskedLM,
    beginner: TokenLM,
    attributes: Sequence[Attributes],
    *,
    num_frames: int,
    autoregressive_frames: int,
    settings: MaskedSettings | None = None,
    sampling: SamplingSettings | None = None,
    seeds: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
    prompt: Tensor | None = None,
    first_frame: int = 0,
    rescorer: TokenLM | None = None,
    rescore_weight: float = 0.7,
    progress: Progress | None = None,
) -> Tensor:
    """Codes [B, K, T], the first `autoregressive_frames` (the prompt included) by `beginner`, drawn by `sampling`.

    settings and the rest: of `generate_masked`. progress: steps of both models together.
    """
    settings, sampling = settings or MaskedSettings(), sampling or SamplingSettings()
    if (beginner.num_codebooks, beginner.cardinality) != (lm.num_codebooks, lm.cardinality):
        raise ValueError(
            f"the autoregressive model has {beginner.num_codebooks} codebooks of {beginner.cardinality} codes, "
            f"the masked model {lm.num_codebooks} of {lm.cardinality}"
        )
    if not 0 < autoregressive_frames < num_frames:
        raise ValueError(
            f"autoregressive_frames is {autoregressive_frames}; want more than 0 and less than "
            f"the {num_frames} frames in all"
        )
    decoding = Decoding(
        beginner,
        attributes,
        num_frames=autoregressive_frames,
        sampler=_sampler(sampling, len(attributes), seeds, generator, beginner.heads.weight.device),
        cfg_coef=sampling.cfg_coef,
        two_step_cfg=sampling.two_step_cfg,
        prompt=prompt,
        first_frame=first_frame,
        apart=seeds is not None,
    )
    own, total = len(decoding), len(decoding) + sum(settings.decoding_steps)
    for done, _ in enumerate(decoding, start=1):
        if progress is not None:
            progress(done, total)
    return generate_masked(
        lm,
        attributes,
        num_frames=num_frames,
        settings=settings,
        seeds=seeds,
        generator=generator,
        prompt=decoding.codes(),
        first_frame=first_frame,
        rescorer=rescorer,
        rescore_weight=rescore_weight,
        progress=None if progress is None else lambda done, _: progress(own + done, total),
    )


def _sampler(
    sampling: SamplingSettings,
    num_items: int,
    seeds: Sequence[int] | None,
    generator: torch.Generator | None,
    device: torch.device,
) -> Sampler:
    if sampling.is_greedy:
        return greedy
    if generator is not None:
        return MultinomialSampler(sampling, generator)
    return PerItemSampler(sampling, range(num_items) if seeds is None else seeds, device)
