"""Classifier-free guidance: which rows a guided batch has, and how their logits become one.

Everything is conditioned in one batch, in this order: [cond; null], or [cond; wav only; null] for the double
guidance of style. Rows are made from attributes, so text is padded together and the null rows are as long as
the others, on which AudioCraft's results depend.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lightning_audio.batch import Attributes
from lightning_audio.conditioning.base import FusedConditions, WavCondition
from lightning_audio.conditioning.conditioning import Conditioning
from lightning_audio.conditioning.dropout import drop_all


def with_null(attributes: Sequence[Attributes], *, keep: Collection[str] = ()) -> list[Attributes]:
    """[cond; null], 2 B items."""
    return [*attributes, *drop_all(attributes, keep=keep)]


def with_wav_only_and_null(
    attributes: Sequence[Attributes], *, keep: Collection[str] = ()
) -> list[Attributes]:
    """[cond; wav only; null], 3 B items; the middle ones know waveforms (style, melody) and nothing else."""
    wav_only = [
        {name: v if isinstance(v, WavCondition) or name in keep else None for name, v in item.items()}
        for item in attributes
    ]
    return [*attributes, *wav_only, *drop_all(attributes, keep=keep)]


def conditions_of(
    conditioning: Conditioning,
    rows: Sequence[Attributes],
    *,
    num_items: int,
    length: int | None = None,
    apart: bool = False,
) -> FusedConditions:
    """The conditions of guided rows, such as [cond; null] of `num_items` items each.

    apart: the rows of each item are conditioned by themselves, and padding that its neighbours bring is masked,
        so that nothing of an item depends on the batch. Together, as AudioCraft does it, texts are padded to
        the longest of all, and padding counts where the model does not mask it.
    """
    if not apart or num_items == 1 or conditioning.mask_padding:
        return conditioning(rows, length=length)
    parts = [conditioning(rows[item::num_items], length=length) for item in range(num_items)]
    order = torch.arange(len(rows)).view(num_items, -1).t().flatten()  # item by item -> [cond; null]
    return FusedConditions.cat(_with_masks(parts)).index(order)


def _with_masks(parts: Sequence[FusedConditions]) -> list[FusedConditions]:
    """The same parts, all of each visible; unchanged where none will be padded."""
    masks: list[dict[str, Tensor]] = [{} for _ in parts]
    for name in ("cross", "prepend"):
        vectors: list[Tensor] = [v for part in parts if (v := getattr(part, name)) is not None]
        if len({vector.shape[1] for vector in vectors}) > 1:
            for mask, vector in zip(masks, vectors, strict=True):
                mask[f"{name}_mask"] = vector.new_ones(vector.shape[:2], dtype=torch.bool)
    return [replace(part, **mask) for part, mask in zip(parts, masks, strict=True)]


def guide(cond: Tensor, null: Tensor, coef: float | Tensor) -> Tensor:
    """null + coef (cond - null): 1 is the conditional model itself, above it exaggerates the condition."""
    return null + (cond - null) * coef


def guide_double(
    cond: Tensor, wav: Tensor, null: Tensor, coef: float | Tensor, text_coef: float | Tensor
) -> Tensor:
    """null + coef (wav + text_coef (cond - wav) - null): the text is pushed beyond what the waveform says.

    text_coef: beta of MusicGen-Style; 1 is plain guidance.
    """
    return null + coef * (wav + text_coef * (cond - wav) - null)


def guided_logits(logits: Tensor, *, coef: float | Tensor, text_coef: float | Tensor | None = None) -> Tensor:
    """Logits [B, ...] out of guided ones: [2 B, ...], or [3 B, ...] where `text_coef` is given."""
    parts = 2 if text_coef is None else 3
    if logits.shape[0] % parts:
        raise ValueError(f"guidance takes {parts} rows per item, got a batch of {logits.shape[0]} rows")
    if text_coef is None:
        cond, null = logits.chunk(2)
        return guide(cond, null, coef)
    cond, wav, null = logits.chunk(3)
    return guide_double(cond, wav, null, coef, text_coef)
