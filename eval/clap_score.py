"""How well audio fits its text, to a CLAP model: the cosine of the two embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from eval.clip_scores import ClipMean


class ClapScore(ClipMean):
    """Mean cosine of each clip's audio embedding with its text's, between -1 and 1. Higher is better.

    A value belongs to a checkpoint: the same clips score near 0.3 with one and near 0.6 with another.
    """

    higher_is_better = True

    def update(self, audio: Tensor, text: Tensor, keys: Sequence[str] | None = None) -> None:
        """Embeddings [B, D] of clips and of their texts, not necessarily of norm 1."""
        if audio.ndim != 2 or audio.shape != text.shape:
            raise ValueError(
                f"audio embeddings are {tuple(audio.shape)}, text embeddings {tuple(text.shape)}; want [B, D]"
            )
        audio, text = audio.double(), text.double().to(audio.device)
        cosine = functional.cosine_similarity(audio, text, dim=1)
        # A zero vector points nowhere; the cosine's own epsilon would call that 0.
        is_usable = (audio.norm(dim=1) > 0) & (text.norm(dim=1) > 0)
        self.add(torch.where(is_usable, cosine, torch.nan), keys)
