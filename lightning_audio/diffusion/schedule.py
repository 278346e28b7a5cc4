"""How much noise there is at each step of a diffusion, and how a step is undone (Ho et al. 2020).

With beta_t the variance that step t adds, and alpha_bar_t = prod over s <= t of (1 - beta_s),

    x_t = sqrt(alpha_bar_t) x + sqrt(1 - alpha_bar_t) noise
    x_{t-1} = (x_t - (1 - alpha) / sqrt(1 - alpha_bar_t) * estimate of the noise) / sqrt(alpha) + sigma * new noise

where alpha = alpha_bar_t / alpha_bar_{t-1}. A subsampled chain leaves steps out: t - 1 is then the next in its list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

Noise = Callable[[Tensor], Tensor]
"""Standard normal numbers, float32, in the shape of the tensor that it is given and on its device."""

# sigma^2 of a step of the full chain, from 1 - alpha, 1 - alpha_bar and 1 - alpha_bar of the step before.
VARIANCES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "beta": lambda beta, now, before: beta,
    "beta_tilde": lambda beta, now, before: before / now * beta,
    "none": lambda beta, now, before: torch.zeros(()),
}


@dataclass(frozen=True)
class ReverseStep:
    """x <- (x - estimate_weight * estimate) / divisor + sigma * noise, clamped, times `factor`.

    step: the noise level that the network is told.
    """

    step: int
    estimate_weight: float
    divisor: float
    sigma: float
    factor: float = 1.0


@dataclass(frozen=True)
class Chain:
    """From noise to audio: its steps, worked out once, and what the first noise is multiplied by."""

    steps: tuple[ReverseStep, ...]
    initial_scale: float = 1.0


class NoiseSchedule:
    """beta_t ^ (1 / power) rises linearly from step 0 to step `num_steps` - 1.

    beta_start, beta_end: its ends.   power: 1 is the linear schedule; the paper's 7.5 spends most steps on little
        noise.
    variance: of the noise that a step of the full chain adds back, one of `VARIANCES`; a subsampled chain has
        "beta_tilde" whatever is said here, and so it is in the published models.
    clip: the audio is kept in [-clip, clip] at every step; 0: it is not.
    rescale: the audio is divided by it under the noise, and multiplied back at step 0.
    noise_scale: standard deviation of the noise.
    """

    def __init__(
        self,
        *,
        beta_start: float = 1e-5,
        beta_end: float = 2.9e-2,
        power: float = 7.5,
        num_steps: int = 1000,
        variance: str = "beta",
        clip: float = 5.0,
        rescale: float = 1.0,
        noise_scale: float = 1.0,
    ) -> None:
        if not 0 < beta_start < 1 or not 0 < beta_end < 1 or num_steps < 1:
            raise ValueError(
                f"want betas in (0, 1) and at least one step, got {beta_start}, {beta_end} and {num_steps} steps"
            )
        if variance not in VARIANCES:
            raise ValueError(f"variance is {variance!r}, want one of {', '.join(VARIANCES)}")
        # In float32, as published models were trained and sampled: 1 - alpha_bar of the first steps is rounded by it.
        with torch.device("cpu"):
            ends = beta_start ** (1 / power), beta_end ** (1 / power)
            self.betas = torch.linspace(*ends, num_steps, dtype=torch.float32) ** power
        self.alpha_bars = (1 - self.betas).cumprod(0)
        self._on_device = self.alpha_bars
        self.num_steps, self.variance = num_steps, variance
        self.clip, self.rescale, self.noise_scale = clip, rescale, noise_scale

    def default_steps(self) -> list[int]:
        """Every 20th part of the chain, from its end down, and step 0: of 1000 steps 999, 949, ..., 49, 0."""
        return [*range(self.num_steps - 1, 0, -max(1, self.num_steps // 20)), 0]

    def add_noise(self, x: Tensor, noise: Tensor, step: int | Tensor) -> Tensor:
        """x at noise level `step`, of all items or of each [B]."""
        if self._on_device.device != x.device:
            self._on_device = self.alpha_bars.to(x.device)
        alpha_bar = self._on_device[step]
        if isinstance(step, Tensor):
            alpha_bar = alpha_bar.view(-1, 1, 1)
        return (alpha_bar.sqrt() / self.rescale) * x + (1 - alpha_bar).sqrt() * noise * self.noise_scale

    def full_chain(self) -> Chain:
        """Through every step."""
        return Chain(tuple(self._full_steps()))

    def subsampled_chain(self, steps: Sequence[int] | None = None) -> Chain:
        """Through the steps of a falling list; at its last, 0 by default, the audio is there: no network call."""
        steps = self.default_steps() if steps is None else list(steps)
        falls = all(before > after for before, after in pairwise(steps))
        if len(steps) < 2 or not falls or not 0 <= steps[-1] <= steps[0] < self.num_steps:
            raise ValueError(
                f"steps must fall, from at most {self.num_steps - 1} down to at least 0, got {steps}"
            )
        return Chain(tuple(self._subsampled_steps(steps)), initial_scale=self.noise_scale)

    def reverse(
        self, estimate: Callable[[Tensor, int], Tensor], initial: Tensor, chain: Chain, noise: Noise
    ) -> Tensor:
        """Audio [B, C, L] out of noise; `estimate` gives the noise in x at a level.

        x stays in float32 whatever the network computes in, and nothing waits for the device.
        """
        x = initial.float() * chain.initial_scale
        for step in chain.steps:
            x = (x - step.estimate_weight * estimate(x, step.step).float()) / step.divisor
            if step.sigma > 0:
                x = x + step.sigma * noise(x)
            if self.clip:
                x = x.clamp(-self.clip, self.clip)
            x = x * step.factor if step.factor != 1 else x
        return x

    def _full_steps(self) -> Iterator[ReverseStep]:
        sigma_squared = VARIANCES[self.variance]
        now = self._alpha_bar(self.num_steps - 1)
        for step in reversed(range(self.num_steps)):
            before, alpha = self._alpha_bar(step - 1), 1 - self.betas[step]
            squared = float(sigma_squared(1 - alpha, 1 - now, 1 - before)) if step > 0 else 0.0
            yield ReverseStep(
                step,
                estimate_weight=float((1 - alpha) / (1 - now).sqrt()),
                divisor=float(alpha.sqrt()),
                sigma=squared**0.5 * self.noise_scale,
                factor=self.rescale if step == 0 else 1.0,
            )
            now = before

    def _subsampled_steps(self, steps: list[int]) -> Iterator[ReverseStep]:
        # Pure noise comes in: the first step is taken for the end of the chain wherever the list starts.
        now = self._alpha_bar(self.num_steps - 1)
        for step, following in pairwise(steps):
            alpha = self.alpha_bars[step] / self.alpha_bars[following]
            is_last = following == steps[-1]
            before = torch.ones(()) if is_last else self._alpha_bar(following)
            squared = 0.0 if is_last else float((1 - before) / (1 - now) * (1 - alpha))
            yield ReverseStep(
                step,
                estimate_weight=float((1 - alpha) / (1 - now).sqrt()) * self.noise_scale,
                divisor=float(alpha.sqrt()),
                sigma=squared**0.5 * self.noise_scale,
            )
            now = before

    def _alpha_bar(self, step: int) -> Tensor:
        """Of a step, 1 before the first; a product of its own, whose rounding is not that of the running product."""
        return (1 - self.betas[: step + 1]).prod()
