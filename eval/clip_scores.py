"""Scores that are kept per clip, and the naming of clips that cannot be scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_audio.batch import length_mask

SILENCE = 1e-4
"""Peak amplitude (-80 dBFS) at and under which a clip counts as silent."""


def clip_faults(wav: Tensor, keys: Sequence[str], num_samples: Tensor | None = None) -> dict[str, str]:
    """What is wrong with each bad clip, by its name: "empty", "not finite", "silent".  wav [B, C, L]

    Whether a fault excludes a clip is the metric's business; the card names them all.
    """
    valid = valid_samples(wav, num_samples)
    faults = {}
    for key, clip, mask in zip(keys, wav, valid, strict=True):
        inside = clip[:, mask]
        if inside.numel() == 0:
            faults[key] = "empty"
        elif not inside.isfinite().all():
            faults[key] = "not finite"
        elif inside.abs().max() <= SILENCE:
            faults[key] = "silent"
    return faults


def valid_samples(wav: Tensor, num_samples: Tensor | None) -> Tensor:
    """True where a sample belongs to its clip.  wav [B, C, L], num_samples [B] -> [B, L] bool"""
    if num_samples is None:
        return torch.ones(wav.shape[0], wav.shape[-1], dtype=torch.bool, device=wav.device)
    return length_mask(num_samples.to(wav.device), wav.shape[-1])


class ClipScores(Metric):
    """The mean of one score per clip, with the scores at hand for a bootstrap.

    A subclass gives `score`, which holds NaN for a clip that has no score (not finite, silent target): such
    clips are counted in `num_excluded`, never averaged in and never lost. Eight bytes are kept per clip.
    """

    full_state_update = False
    scores: list[Tensor]
    num_excluded: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("num_excluded", default=torch.tensor(0), dist_reduce_fx="sum")

    def score(self, estimate: Tensor, target: Tensor, num_samples: Tensor | None) -> Tensor:
        """One score per clip.  [B, C, L] twice, lengths [B] or None for full length -> [B]"""
        raise NotImplementedError

    def update(self, estimate: Tensor, target: Tensor, num_samples: Tensor | None = None) -> None:
        if estimate.shape != target.shape:
            raise ValueError(
                f"estimate is {tuple(estimate.shape)}, target is {tuple(target.shape)}; want equal"
            )
        scores = self.score(estimate, target, num_samples).double()
        usable = scores.isfinite()
        self.scores.append(scores[usable])
        self.num_excluded += (~usable).sum()

    def compute(self) -> Tensor:
        scores = dim_zero_cat(self.scores) if len(self.scores) else torch.empty(0)
        if scores.numel() == 0:
            raise ValueError(
                f"{type(self).__name__}: no clip could be scored ({int(self.num_excluded)} excluded)"
            )
        return scores.mean()

    def clip_scores(self) -> Tensor:
        """The scores of all clips of all ranks, sorted (ranks see clips in different orders).  [N]"""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            return dim_zero_cat(self.scores).sort().values

    def sync(self, *args: Any, **kwargs: Any) -> None:
        # A rank that saw no clip must still bring a tensor of the right type to the gather.
        if isinstance(self.scores, list) and not self.scores:
            self.scores.append(torch.empty(0, dtype=torch.float64, device=self.device))
        super().sync(*args, **kwargs)
