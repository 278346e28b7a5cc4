"""How a transformer knows where it is: positions added to its input, or turned into its queries and keys."""

from __future__ import annotations

import torch
from torch import Tensor


def sinusoidal_embedding(positions: Tensor, dim: int, *, max_period: float = 10_000.0) -> Tensor:
    """cos and sin of the positions at `dim / 2` frequencies.  positions [...] -> [..., D] float32.

    The halves are [cos, sin] and the exponent is i / (half - 1), which differs from "Attention is all you
    need" (interleaved, i / half). Published weights know this form only.
    """
    half = dim // 2
    exponent = torch.arange(half, device=positions.device, dtype=torch.float32) / (half - 1)
    phase = positions[..., None].float() / max_period**exponent
    return torch.cat([phase.cos(), phase.sin()], dim=-1)


class Rotation:
    """Rotary positions for one forward pass: queries and keys are turned by an angle that grows with them.

    A product of a query and a key then depends on the distance between them only. With `xpos` it also decays
    with the distance: queries are scaled by decay^p and keys by decay^-p (arXiv 2212.10554).
    """

    def __init__(
        self, positions: Tensor, head_dim: int, *, max_period: float, xpos: bool, xpos_base: float = 512.0
    ) -> None:
        """positions [S] or [B, S]; all layers and heads share the angles, so they are computed once."""
        pairs = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
        position = positions[..., None].float()
        angle = position / max_period ** (pairs / head_dim)
        angle = (
            angle if angle.dim() == 2 else angle[:, None]
        )  # [S, D/2] or [B, 1, S, D/2]: broadcast over heads
        self.cos, self.sin = angle.cos(), angle.sin()
        self.decay: Tensor | None = None
        if xpos:
            rate = (pairs + 0.4 * head_dim) / (1.4 * head_dim)
            decay = rate ** (position / xpos_base)
            self.decay = decay if decay.dim() == 2 else decay[:, None]

    def query(self, query: Tensor) -> Tensor:
        """[B, H, S, D] -> [B, H, S, D]"""
        return self._turn(query, self.decay)

    def key(self, key: Tensor) -> Tensor:
        """[B, H, S, D] -> [B, H, S, D]"""
        return self._turn(key, None if self.decay is None else self.decay.reciprocal())

    def _turn(self, x: Tensor, decay: Tensor | None) -> Tensor:
        cos, sin = (self.cos, self.sin) if decay is None else (self.cos * decay, self.sin * decay)
        # Neighbouring channels (2i, 2i + 1) are the real and imaginary part of one number.
        real, imag = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        turned = torch.stack([real * cos - imag * sin, real * sin + imag * cos], dim=-1)
        return turned.flatten(-2).to(x.dtype)
