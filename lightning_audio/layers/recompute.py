"""Trading time for memory: a large batch in parts whose activations are computed again when they are needed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def in_parts(function: Callable[[Tensor], Tensor], batch: Tensor, *, parts: int) -> Tensor:
    """function(batch), for a function that treats the items of a batch [B, ...] independently.

    With more than one part, only one part's activations are held at a time, in the backward pass too: each part is
    then computed once more. One backward pass, equal gradients, so that nothing else needs to know of it.
    """
    if parts == 1:
        return function(batch)
    pieces = batch.chunk(parts)
    return torch.cat(
        [checkpoint(function, piece, use_reentrant=False, preserve_rng_state=False) for piece in pieces]
    )
