"""Classifier-free guidance: which rows a guided batch has, and how their logits become one.

Everything is conditioned in one batch, in this order: [cond; null], or [cond; wav only; null] for the double
guidance of style. Rows are made from attributes, so text is padded together and the null rows are as long as
the others, on which AudioCraft's results depend.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor

from lightning_audio.batch import Attributes
from lightning_audio.conditioning.base import WavCondition
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
