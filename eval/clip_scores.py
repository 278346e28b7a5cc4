"""Scores that are kept per clip, and the naming of clips that cannot be scored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_audio.batch import length_mask

SILENCE = 1e-4
"""Peak amplitude (-80 dBFS) at and under which a clip counts as silent."""


def clip_faults(
    wav: Tensor, keys: Sequence[str], num_samples: Tensor | None = None, *, min_samples: int = 1
) -> dict[str, str]:
    """What is wrong with each bad clip, by its name: "empty", "too short", "not finite", "silent".  wav [B, C, L]

    min_samples: the least that the metrics at hand can score.
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
        elif is_silent(inside):
            faults[key] = "silent"
        elif inside.shape[1] < min_samples:
            faults[key] = f"too short ({inside.shape[1]} samples, {min_samples} are needed)"
    return faults


def is_silent(wav: Tensor) -> bool:
    """Whether nothing of it can be heard.  [C, L], at least one sample"""
    return bool(wav.abs().max() <= SILENCE)


def pair_by_key(generated: Iterable[str], reference: Iterable[str]) -> list[str]:
    """The names of both sets, sorted; an error that names those without a partner, where there are such."""
    ours, theirs = set(generated), set(reference)
    if not ours or ours != theirs:
        alone = [
            (name, sorted(keys))
            for name, keys in (("generated", ours - theirs), ("reference", theirs - ours))
        ]
        raise ValueError(
            f"{len(ours)} generated and {len(theirs)} reference clips share {len(ours & theirs)} names"
            + "".join(
                f"; only {name}: {len(keys)} ({', '.join(keys[:3])} ...)" for name, keys in alone if keys
            )
        )
    return sorted(ours)


def valid_samples(wav: Tensor, num_samples: Tensor | None) -> Tensor:
    """True where a sample belongs to its clip.  wav [B, C, L], num_samples [B] -> [B, L] bool"""
    if num_samples is None:
        return torch.ones(wav.shape[0], wav.shape[-1], dtype=torch.bool, device=wav.device)
    return length_mask(num_samples.to(wav.device), wav.shape[-1])


def clip_number(key: str) -> int:
    """What stands for a clip's name on the way between ranks: 63 bits of its hash."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 1


class ClipMean(Metric):
    """The mean of one score per clip, with the scores at hand for a bootstrap and for a table of clips.

    A subclass's `update` calls `add` with one score per clip, or with a row of `num_scores` for each, of which each
    has its own mean. A score is NaN for a clip that has none (not finite, silent target, too short): such clips
    are counted in `num_excluded`, never averaged in and never lost. Sixteen bytes are kept per clip and score. Means
    are over sorted scores, so that the order of clips and ranks does not show in any digit.
    """

    full_state_update = False
    scores: list[Tensor]
    clips: list[Tensor]
    num_excluded: Tensor

    def __init__(self, *, num_scores: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.score_shape = () if num_scores is None else (num_scores,)
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("clips", default=[], dist_reduce_fx="cat")
        self.add_state("num_excluded", default=torch.tensor(0), dist_reduce_fx="sum")

    def add(self, scores: Tensor, keys: Sequence[str] | None = None) -> None:
        """scores [B] or [B, num_scores], keys: the clips' names, for `scores_of`."""
        if keys is not None and len(keys) != len(scores):
            raise ValueError(f"{len(scores)} clips have {len(keys)} names")
        names = [-1] * len(scores) if keys is None else [clip_number(key) for key in keys]
        self.scores.append(scores.double().to(self.device))
        self.clips.append(torch.tensor(names, dtype=torch.int64, device=self.device))
        self.num_excluded += (~_usable(self.scores[-1])).sum()

    def compute(self) -> Tensor:
        scores = self._usable_scores()
        if len(scores) == 0:
            raise ValueError(
                f"{type(self).__name__}: no clip could be scored ({int(self.num_excluded)} excluded)"
            )
        return scores.sort(0).values.mean(0)

    def per_clip(self, scores: Tensor) -> Tensor:
        """What a table of clips shows, of the rows that `compute` takes the mean of."""
        return scores

    def clip_scores(self) -> Tensor:
        """The scores of all clips of all ranks that have one, each kind sorted.  [N] or [N, num_scores]"""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            return self.per_clip(self._usable_scores()).sort(0).values

    def scores_of(self, keys: Sequence[str]) -> Tensor:
        """The score of each named clip, whichever rank saw it; NaN for one without.  [N] or [N, num_scores]

        The mean of its rows, where a clip has several.
        """
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            scores = self.per_clip(self._all(self.scores, torch.float64))
            clips = self._all(self.clips, torch.int64)
        rows_of: dict[int, list[int]] = {}
        for row, number in enumerate(clips.tolist()):
            rows_of.setdefault(number, []).append(row)
        if missing := [key for key in keys if clip_number(key) not in rows_of]:
            raise ValueError(
                f"{type(self).__name__}: {len(missing)} clips were never given, {missing[0]} first"
            )
        found = [scores[rows_of[clip_number(key)]].sort(0).values.mean(0) for key in keys]
        return torch.stack(found) if found else scores[:0]

    def sync(self, *args: Any, **kwargs: Any) -> None:
        # A rank that saw no clip must still bring tensors of the right type to the gather.
        if isinstance(self.scores, list) and not self.scores:
            self.add(torch.empty(0, *self.score_shape))
        super().sync(*args, **kwargs)

    def _usable_scores(self) -> Tensor:
        scores = self._all(self.scores, torch.float64)
        return scores[_usable(scores)]

    def _all(self, state: list[Tensor] | Tensor, dtype: torch.dtype) -> Tensor:
        shape = self.score_shape if dtype.is_floating_point else ()
        return dim_zero_cat(state) if len(state) else torch.empty(0, *shape, dtype=dtype, device=self.device)


def _usable(scores: Tensor) -> Tensor:
    """[B] or [B, S] -> [B] bool"""
    return scores.isfinite().flatten(1).all(1) if scores.ndim > 1 else scores.isfinite()


class ClipScores(ClipMean):
    """The mean of a score that compares each clip with a target; a subclass gives `score`."""

    def score(self, estimate: Tensor, target: Tensor, num_samples: Tensor | None) -> Tensor:
        """One score per clip.  [B, C, L] twice, lengths [B] or None for full length -> [B] or [B, num_scores]"""
        raise NotImplementedError

    def update(
        self,
        estimate: Tensor,
        target: Tensor,
        num_samples: Tensor | None = None,
        keys: Sequence[str] | None = None,
    ) -> None:
        if estimate.shape != target.shape:
            raise ValueError(
                f"estimate is {tuple(estimate.shape)}, target is {tuple(target.shape)}; want equal"
            )
        self.add(self.score(estimate, target, num_samples), keys)


class SingleClipScores(ClipScores):
    """As `ClipScores`, of a score that takes one clip at its own length; a subclass gives `score_clip`."""

    def score_clip(self, estimate: Tensor, target: Tensor) -> float | Tensor:
        """One clip's score, or row of scores; NaN where it has none.  [C, L] twice, finite"""
        raise NotImplementedError

    def score(self, estimate: Tensor, target: Tensor, num_samples: Tensor | None) -> Tensor:
        rows = []
        for output, wanted, valid in zip(estimate, target, valid_samples(target, num_samples), strict=True):
            pair = output[:, valid].float(), wanted[:, valid].float()
            is_usable = bool(valid.any()) and all(bool(wav.isfinite().all()) for wav in pair)
            score = self.score_clip(*pair) if is_usable else torch.nan
            rows.append(torch.as_tensor(score, dtype=torch.float64).cpu().expand(self.score_shape))
        return torch.stack(rows) if rows else torch.empty(0, *self.score_shape)
