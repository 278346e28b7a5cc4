"""From logits to tokens: what is left of the distribution, and with which noise one of it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class SamplingSettings:
    """How codes are drawn.

    use_sampling: False, or a temperature of 0, always takes the most likely code.
    top_k: among so many most likely codes (0: all).   top_p: among the fewest codes that together have this
        probability (0: off); it wins over top_k.
    cfg_coef: guidance; 1 is none.   two_step_cfg: guided and unguided rows in two passes rather than one
        batch, so that text is not padded together.
    cfg_coef_beta: of the text beyond what a melody or style says, where there are both (MusicGen-Style's double
        guidance; its authors take 5): null + cfg_coef (wav + beta (cond - wav) - null). None: plain guidance.
    """

    use_sampling: bool = True
    temperature: float = 1.0
    top_k: int = 250
    top_p: float = 0.0
    cfg_coef: float = 3.0
    two_step_cfg: bool = False
    cfg_coef_beta: float | None = None

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 <= self.top_p <= 1:
            raise ValueError(
                f"want temperature >= 0, top_k >= 0 and top_p in [0, 1]; "
                f"got {self.temperature}, {self.top_k} and {self.top_p}"
            )

    @property
    def is_greedy(self) -> bool:
        return not self.use_sampling or self.temperature == 0


class Sampler(Protocol):
    """Draws a token for each row.  logits [B, K, card], frames [K] int64: the frame of each code -> [B, K]"""

    def __call__(self, logits: Tensor, frames: Tensor) -> Tensor: ...


def greedy(logits: Tensor, frames: Tensor) -> Tensor:
    """The most likely codes.  [B, K, card] -> [B, K]"""
    return logits.argmax(dim=-1)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Logits with all but the k largest at -inf; those equal to the k-th stay too."""
    if k == 0 or k >= logits.shape[-1]:
        return logits
    least = logits.topk(k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Logits with -inf but for the fewest whose probabilities add up to p; at least one stays."""
    probabilities, order = logits.softmax(dim=-1).sort(dim=-1, descending=True)
    beyond = probabilities.cumsum(dim=-1) - probabilities > p
    return logits.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf)


def shaped(logits: Tensor, settings: SamplingSettings) -> Tensor:
    """Logits of the distribution to draw from: with temperature, and cut off by top-p or top-k."""
    logits = logits.float() / settings.temperature
    return keep_top_p(logits, settings.top_p) if settings.top_p > 0 else keep_top_k(logits, settings.top_k)


class PerItemSampler:
    """Draws each item with the noise of its own seed, so that its batch neighbours do not matter.

    The noise of a code is a function of (seed, codebook, frame, token), computed and not drawn: the same on
    every device, in any batch, in whatever windows or chunks a clip is made; and nothing waits for the host.
    The token is argmax(logits + Gumbel noise), which is a draw from softmax(logits). Matrix products round a
    little otherwise with another batch size; that changes a draw only where the two best scores are nearly
    equal (logits off by 1e-5: one draw in 100 000, top-k 250), while the inverse of the cumulative
    distribution has a step at every token (29).
    """

    def __init__(
        self, settings: SamplingSettings, seeds: Sequence[int], device: torch.device | str = "cpu"
    ) -> None:
        self.settings = settings
        self.keys = item_keys(seeds, device)[:, None]  # [B, 1]

    def __call__(self, logits: Tensor, frames: Tensor) -> Tensor:
        codebooks = torch.arange(logits.shape[1], device=logits.device)
        keys = keys_under(self.keys, frames * logits.shape[1] + codebooks)  # [B, K]
        noise = gumbel_noise(keys, logits.shape[-1])
        return (shaped(logits, self.settings) + noise).argmax(dim=-1)


class MultinomialSampler:
    """Draws the whole batch from one torch generator, in the order in which AudioCraft does."""

    def __init__(self, settings: SamplingSettings, generator: torch.Generator | None = None) -> None:
        self.settings = settings
        self.generator = generator

    def __call__(self, logits: Tensor, frames: Tensor) -> Tensor:
        probabilities = shaped(logits, self.settings).softmax(dim=-1)
        if self.settings.top_p == 0:
            return self._draw(probabilities)
        ordered, order = probabilities.sort(dim=-1, descending=True)  # there, top-p draws in this order
        return order.gather(-1, self._draw(ordered)[..., None])[..., 0]

    def _draw(self, probabilities: Tensor) -> Tensor:
        rows = torch.multinomial(probabilities.flatten(0, -2), 1, generator=self.generator)
        return rows.view(probabilities.shape[:-1])


def item_keys(seeds: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """What the noise of each item is made of; any integer is a seed.  [B] int64"""
    signed = [seed % 2**64 - (2**64 if seed % 2**64 >= 2**63 else 0) for seed in seeds]
    return _mix(torch.tensor(signed, dtype=torch.long, device=device))


def keys_under(keys: Tensor, number: Tensor) -> Tensor:
    """Keys of their own for each number under each key (int64, broadcast)."""
    return _mix(keys + _mix(number))


def gumbel_noise(keys: Tensor, size: int) -> Tensor:
    """`size` Gumbel numbers for each key.  [...] int64 -> [..., size] float32"""
    tokens = torch.arange(1, size + 1, device=keys.device) * _GOLDEN
    bits = _mix(keys[..., None] + tokens) >> 40 & 0xFFFFFF
    uniform = (bits.float() + 0.5) * 2.0**-24  # in (0, 1), neither end
    return -(-uniform.log()).log()


_GOLDEN = 0x9E3779B97F4A7C15 - 2**64


def _mix(x: Tensor) -> Tensor:
    """A well mixed int64 for each int64: the finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    x = x + _GOLDEN
    x = (x ^ (x >> 30 & 2**34 - 1)) * (0xBF58476D1CE4E5B9 - 2**64)  # masked: the shift repeats the sign
    x = (x ^ (x >> 27 & 2**37 - 1)) * (0x94D049BB133111EB - 2**64)
    return x ^ (x >> 31 & 2**33 - 1)
