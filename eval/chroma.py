"""How closely a generation follows the melody it was given: the cosine of their chromagrams, frame by frame."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from eval.clip_scores import SingleClipScores
from lightning_audio.conditioning.chroma import Chromagram


class ChromaSimilarity(SingleClipScores):
    """Mean over all frames of the set of the cosine of both chromagrams; with `argmax`, the share of frames that agree.

    The chromagram is MusicGen-Melody's condition: 12 classes, windows of 2 ** radix2_exp samples, a quarter apart.
    Audio is mixed down. A silent frame counts as C where `argmax`, as it does for the conditioner.
    """

    higher_is_better = True

    def __init__(
        self,
        *,
        sample_rate: int,
        num_chroma: int = 12,
        radix2_exp: int = 14,
        argmax: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_scores=2, **kwargs)
        self.chromagram = Chromagram(
            sample_rate=sample_rate, num_chroma=num_chroma, radix2_exp=radix2_exp, argmax=argmax
        )

    def score_clip(self, estimate: Tensor, target: Tensor) -> Tensor:
        """[sum of the frames' cosines, number of frames]"""
        ours, theirs = (self.chromagram(wav.mean(0)[None, None])[0].double() for wav in (estimate, target))
        cosine = functional.cosine_similarity(ours, theirs, dim=1)
        return torch.stack([cosine.sum(), cosine.new_tensor(len(cosine))])

    def compute(self) -> Tensor:
        total, num_frames = super().compute()
        return total / num_frames

    def per_clip(self, scores: Tensor) -> Tensor:
        return scores[:, 0] / scores[:, 1]
