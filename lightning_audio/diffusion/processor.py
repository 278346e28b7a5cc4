"""Audio brought nearer to noise: each band of frequencies is given the power that white noise has there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_audio.diffusion.bands import BandSplitter


class BandProcessor(nn.Module):
    """Rescales the bands of audio by (level of noise / standard deviation of the audio) ^ power.

    num_bands: their number.   sample_rate: Hz.
    num_samples: clips from which the statistics are taken, the first ones of the training.
    power: of all bands or of each; 1 corrects fully, 0 not at all.

    The "level of noise" is the mean of its square, without a root, while that of the audio has one: published
    weights know audio that was rescaled so.
    """

    counts: Tensor
    sum_x: Tensor
    sum_x2: Tensor
    sum_target_x2: Tensor

    def __init__(
        self,
        *,
        sample_rate: int,
        num_bands: int = 8,
        num_samples: int = 10_000,
        power: float | Sequence[float] = 1.0,
    ) -> None:
        super().__init__()
        if num_samples < 1:
            raise ValueError(f"statistics need at least one clip, num_samples is {num_samples}")
        if not isinstance(power, int | float) and len(power) != num_bands:
            raise ValueError(f"{len(power)} powers for {num_bands} bands")
        self.splitter = BandSplitter(sample_rate=sample_rate, num_bands=num_bands)
        self.num_samples, self.power = num_samples, power
        self.register_buffer("counts", torch.zeros(1))
        for name in ("sum_x", "sum_x2", "sum_target_x2"):
            self.register_buffer(name, torch.zeros(num_bands))
        self._num_seen: float | None = None

    @property
    def mean(self) -> Tensor:
        """Of each band: [N]."""
        return self.sum_x / self.counts

    @property
    def std(self) -> Tensor:
        """Standard deviation of each band: [N]."""
        return (self.sum_x2 / self.counts - self.mean.square()).clamp(min=0).sqrt()

    @property
    def target_level(self) -> Tensor:
        """Mean square of white noise in each band: [N]."""
        return self.sum_target_x2 / self.counts

    @torch.no_grad()
    def update(self, wav: Tensor, *, generator: torch.Generator | None = None) -> None:
        """Takes the clips of wav [B, C, L] into the statistics, while there are fewer than `num_samples`.

        The noise that they are compared with is drawn from `generator`. All ranks' clips count on all ranks.
        """
        if self.num_seen() >= self.num_samples:
            return
        bands, noise = self.splitter(wav), self.splitter(normal_like(wav, generator))
        sums = torch.stack(
            [
                torch.full((self.splitter.num_bands,), float(len(wav)), device=wav.device),
                *(
                    values.mean(dim=(2, 3)).sum(dim=1)
                    for values in (bands, bands.square(), noise.square())  # [N, B, C, L] -> [N]
                ),
            ]
        )
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        self.counts += sums[0, :1]
        self.sum_x += sums[1]
        self.sum_x2 += sums[2]
        self.sum_target_x2 += sums[3]
        self._num_seen = None

    def project(self, wav: Tensor) -> Tensor:
        """Audio [B, C, L] as the diffusion is taught it."""
        self._check_fitted()
        gain = self._power_of(self.target_level / self.std.clamp(min=1e-12))
        bands = self.splitter(wav)
        return ((bands - _column(self.mean)) * _column(gain)).sum(0)

    def restore(self, wav: Tensor) -> Tensor:
        """Audio [B, C, L] out of what the diffusion made; undoes `project`."""
        self._check_fitted()
        gain = self._power_of(self.std / self.target_level)
        return (self.splitter(wav) * _column(gain) + _column(self.mean)).sum(0)

    def num_seen(self) -> float:
        """Clips in the statistics; asks the device only when they may have changed."""
        if self._num_seen is None:
            self._num_seen = self.counts.item()
        return self._num_seen

    def _check_fitted(self) -> None:
        if self.num_seen() == 0:
            raise ValueError("the band processor has seen no audio: its model has not been trained")

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._num_seen = None
        super()._load_from_state_dict(*args, **kwargs)

    def _power_of(self, ratio: Tensor) -> Tensor:
        power = self.power
        if isinstance(power, int | float):
            return ratio**power
        return ratio ** torch.tensor(list(power), device=ratio.device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # Statistics follow the weights to a device, but stay float32: in half precision sums of thousands are off.
        def moved(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            return result if result.dtype == tensor.dtype else tensor.to(result.device)

        return super()._apply(moved, recurse)


def normal_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers, float32, in the shape of x and on its device, drawn on that of the generator."""
    device = x.device if generator is None else generator.device
    return torch.randn(x.shape, generator=generator, device=device).to(x.device, non_blocking=True)


def _column(values: Tensor) -> Tensor:
    """[N] -> [N, 1, 1, 1]"""
    return values.view(-1, 1, 1, 1)
