"""How well a language model predicts codes, per codebook, beside what their frequencies alone would give."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from eval.bootstrap import Interval, bootstrap_ratio
from eval.exact import in_fixed_order


class CodebookCrossEntropy(Metric):
    """Cross-entropy of the codes in nats per token, one value per codebook [K]. Lower is better.

    Sums are kept per clip (16 bytes per codebook), so that an interval over clips can be drawn.
    """

    full_state_update = False
    higher_is_better = False
    nats: list[Tensor]
    tokens: list[Tensor]
    num_excluded: Tensor

    def __init__(self, num_codebooks: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_codebooks = num_codebooks
        self.add_state("nats", default=[], dist_reduce_fx="cat")
        self.add_state("tokens", default=[], dist_reduce_fx="cat")
        self.add_state("num_excluded", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, codes: Tensor, mask: Tensor | None = None) -> None:
        """logits [B, K, T, card]; codes [B, K, T]; mask [B, K, T], True where the prediction counts.

        Logits outside the mask may be NaN (frames that a pattern never predicts). Inside it they may not: a
        clip with one such is excluded and counted.
        """
        _check_codebooks(codes, self.num_codebooks)
        mask = torch.ones_like(codes, dtype=torch.bool) if mask is None else mask.bool()
        losses = torch.zeros(codes.shape, dtype=torch.float64, device=codes.device)
        losses[mask] = functional.cross_entropy(logits[mask].float(), codes[mask], reduction="none").double()
        usable = losses.isfinite().flatten(1).all(1)
        self.nats.append(losses.sum(-1)[usable])  # [B, K]
        self.tokens.append(mask.sum(-1).double()[usable])
        self.num_excluded += (~usable).sum()

    def compute(self) -> Tensor:
        nats, tokens = self._gathered()
        return nats.sum(0) / tokens.sum(0)

    def intervals(self, *, level: float = 0.95, num_resamples: int = 1000, seed: int = 0) -> list[Interval]:
        """Bootstrap interval over the clips of all ranks, one per codebook."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            nats, tokens = self._gathered()
        return bootstrap_ratio(nats, tokens, level=level, num_resamples=num_resamples, seed=seed)

    def _gathered(self) -> tuple[Tensor, Tensor]:
        empty = torch.empty(0, self.num_codebooks)
        nats = dim_zero_cat(self.nats) if len(self.nats) else empty
        tokens = dim_zero_cat(self.tokens) if len(self.tokens) else empty
        if len(nats) == 0 or (tokens.sum(0) == 0).any():
            raise ValueError(
                f"cross-entropy of {len(nats)} clips ({int(self.num_excluded)} excluded): "
                "some codebook has no token"
            )
        # Ranks see clips in different orders: in a fixed one the values are the same for any number of them.
        ordered = in_fixed_order(torch.cat([nats, tokens], dim=1))
        return ordered[:, : self.num_codebooks], ordered[:, self.num_codebooks :]

    def sync(self, *args: Any, **kwargs: Any) -> None:
        # A rank that saw no clip must still bring tensors of the right shape to the gather.
        if isinstance(self.nats, list) and not self.nats:
            empty = torch.empty(0, self.num_codebooks, dtype=torch.float64, device=self.device)
            self.nats.append(empty)
            self.tokens.append(empty.clone())
        super().sync(*args, **kwargs)


class UnigramCrossEntropy(Metric):
    """What predicting codes by their frequency in training costs on validation, in nats per token [K].

    The baseline that a language model must beat in every codebook. `smoothing` is added to every count, so a
    code that training never showed costs much but not infinitely much.
    """

    full_state_update = False
    higher_is_better = False
    counts: Tensor

    def __init__(
        self, num_codebooks: int, cardinality: int, *, smoothing: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if smoothing <= 0:
            raise ValueError(f"smoothing is {smoothing}, must be more than 0")
        self.num_codebooks, self.cardinality, self.smoothing = num_codebooks, cardinality, smoothing
        # Index 0 counts the codes that are scored, index 1 those that give the frequencies.
        shape = (2, num_codebooks, cardinality)
        self.add_state("counts", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, codes: Tensor, mask: Tensor | None = None, *, training: bool) -> None:
        """codes, mask [B, K, T].  `training`: these give the frequencies; otherwise they are scored."""
        _check_codebooks(codes, self.num_codebooks)
        self.counts[int(training)] += count_codes(codes, self.cardinality, mask)

    def compute(self) -> Tensor:
        scored, seen = self.counts.double()
        for name, counts in (("validation", scored), ("training", seen)):
            if (counts.sum(1) == 0).any():
                raise ValueError(f"unigram cross-entropy: no {name} codes were given")
        smoothed = seen + self.smoothing
        log_probability = (smoothed / smoothed.sum(1, keepdim=True)).log()
        return -(scored * log_probability).sum(1) / scored.sum(1)


def count_codes(codes: Tensor, cardinality: int, mask: Tensor | None = None) -> Tensor:
    """How often each code occurs in each codebook.  [B, K, T] -> [K, cardinality] int64"""
    num_codebooks = codes.shape[1]
    offset = torch.arange(num_codebooks, device=codes.device)[None, :, None] * cardinality
    if codes.numel() and (codes.min() < 0 or codes.max() >= cardinality):
        raise ValueError(f"codes span {int(codes.min())} to {int(codes.max())}, cardinality is {cardinality}")
    flat = (codes + offset).flatten() if mask is None else (codes + offset)[mask.bool()]
    return flat.bincount(minlength=num_codebooks * cardinality).reshape(num_codebooks, cardinality)


def perplexity(counts: Tensor) -> Tensor:
    """exp(entropy) of the codes' frequencies: how many codes are in use, effectively.  [K, card] -> [K]"""
    share = counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
    return (-torch.xlogy(share, share).sum(1)).exp()


def _check_codebooks(codes: Tensor, num_codebooks: int) -> None:
    if codes.ndim != 3 or codes.shape[1] != num_codebooks:
        raise ValueError(f"codes are {tuple(codes.shape)}, want [B, {num_codebooks}, T]")
