"""Cross-entropy of codes: per codebook the mean over its tokens, then the mean over the codebooks.

Two ways to the same numbers. `codebook_cross_entropy` takes logits. `heads_cross_entropy` takes what stands
before the heads, and never has all logits in memory: 4 codebooks of 2048 entries for 16 x 1500 steps would be
0.8 GB, three times over with their gradient. It goes through the steps in pieces that fit the cache, makes the
logits of a piece, the loss, and at once the gradient; then the piece is gone before the next one comes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_audio.layers.linear import many_rows, product

IGNORE = -100
"""A target that is not counted."""


@dataclass(frozen=True)
class CodebookLoss:
    """What was lost, as a whole and in parts.

    loss: scalar, the mean over codebooks that have tokens.
    per_codebook: [K], without gradient, NaN where a codebook has no token.   num_tokens: [K] int64.
    first_codebook: which one these begin with, where only some were asked for (MAGNeT).
    """

    loss: Tensor
    per_codebook: Tensor
    num_tokens: Tensor
    first_codebook: int = 0


def codebook_cross_entropy(logits: Tensor, targets: Tensor) -> CodebookLoss:
    """logits [B, K, T, card], targets [B, K, T] with `IGNORE` where nothing is asked."""
    tokens = F.cross_entropy(
        logits.flatten(0, 2).float(), targets.flatten(), ignore_index=IGNORE, reduction="none"
    )
    num_tokens = (targets != IGNORE).sum(dim=(0, 2))
    sums = tokens.view(targets.shape).sum(dim=(0, 2))
    used = (num_tokens > 0).sum().clamp(min=1)
    loss = (sums / num_tokens.clamp(min=1)).sum() / used
    return CodebookLoss(loss, sums.detach() / num_tokens, num_tokens)


def heads_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, piece: int | None = None
) -> CodebookLoss:
    """The loss of K linear heads on one hidden state.

    hidden [B, S, D]; weight [K * card, D]; bias [K * card] or None; targets [B, K, S] with `IGNORE`.
    piece: how many logits to hold at a time; by default what fits the cache of a CPU, more on a GPU.
    """
    num_tokens = (targets != IGNORE).sum(dim=(0, 2))
    used = (num_tokens > 0).sum().clamp(min=1)
    share = 1.0 / (num_tokens.clamp(min=1) * used)  # of one token of each codebook in the loss
    piece = piece or (2**21 if hidden.device.type == "cpu" else 2**27)
    loss, sums = _HeadsCrossEntropy.apply(
        hidden.flatten(0, 1),
        weight,
        bias,
        targets.transpose(1, 2).flatten(0, 1),
        share,
        max(piece // weight.shape[0], 1),
        torch.is_grad_enabled(),
    )
    return CodebookLoss(loss, sums / num_tokens, num_tokens)


class _HeadsCrossEntropy(torch.autograd.Function):
    """The loss and its gradient in one sweep; the backward pass only scales what is there."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,  # [N, D]
        weight: Tensor,  # [K * card, D]
        bias: Tensor | None,
        targets: Tensor,  # [N, K]
        share: Tensor,  # [K]
        rows: int,
        with_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        num_codebooks = targets.shape[1]
        low, low_weight = hidden.to(dtype), weight.to(dtype)
        grad_hidden = torch.empty_like(hidden) if with_gradient else None
        grad_weight = torch.zeros_like(weight) if with_gradient else None
        grad_bias = torch.zeros_like(bias) if with_gradient and bias is not None else None
        sums = torch.zeros(num_codebooks, device=hidden.device)
        with torch.autocast(device, enabled=False):
            for start in range(0, hidden.shape[0], rows):
                part, wanted = low[start : start + rows], targets[start : start + rows]
                counted = wanted != IGNORE
                index = wanted.clamp(min=0)[..., None]
                times = product if many_rows(part, low_weight) else F.linear
                logits = times(part, low_weight, None if bias is None else bias.to(dtype))
                logits = logits.view(part.shape[0], num_codebooks, -1).float()
                # softmax and its logarithm, made in place of the logits: one exponential serves both
                logits -= logits.amax(dim=-1, keepdim=True)
                chosen = logits.gather(-1, index)
                total = logits.exp_().sum(dim=-1, keepdim=True)
                tokens = (total.log() - chosen).squeeze(-1)
                sums += tokens.where(counted, 0.0).sum(dim=0)
                if grad_hidden is None or grad_weight is None:
                    continue
                # d loss / d logits = share * (softmax - one_hot)
                scale = (counted * share)[..., None]
                gradient = logits.mul_(scale / total).scatter_add_(-1, index, -scale)
                gradient = gradient.flatten(1)
                if grad_bias is not None:
                    grad_bias += gradient.sum(dim=0)
                gradient = gradient.to(dtype)
                grad_hidden[start : start + rows] = times(gradient, low_weight.t())
                if dtype == grad_weight.dtype:
                    grad_weight.addmm_(gradient.t(), part)
                else:  # pieces are summed in the weight's own precision
                    grad_weight += gradient.t() @ part
        ctx.gradients = (grad_hidden, grad_weight, grad_bias)
        ctx.mark_non_differentiable(sums)
        return (sums * share).sum(), sums

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scaled = (None if gradient is None else gradient * grads[0] for gradient in ctx.gradients)
        return (*scaled, None, None, None, None)
