"""One band of a multi-band diffusion: the network, its noise schedule, and the audio that it is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_audio.diffusion.bands import BandSplitter
from lightning_audio.diffusion.processor import BandProcessor, normal_like
from lightning_audio.diffusion.schedule import Chain, Noise, NoiseSchedule
from lightning_audio.layers.unet import UNet


@dataclass(frozen=True)
class TrainingItem:
    """noisy [B, C, L]: what the network is given.   noise [B, C, L]: what it has to find.   step [B]: noise levels."""

    noisy: Tensor
    noise: Tensor
    step: Tensor


class BandDiffusion(nn.Module):
    """Makes one band of frequencies of audio from the latents of its codes.

    network: its condition is the latents.   schedule: with as many steps as the network has noise levels.
    sample_rate: Hz.   band: which one of `num_bands`, 0 is the lowest; edges: Hz, as of `BandSplitter`.
    processor: of the band's audio; None: it is taken as it is.
    """

    def __init__(
        self,
        *,
        network: UNet,
        schedule: NoiseSchedule,
        sample_rate: int,
        band: int = 0,
        num_bands: int = 4,
        edges: Sequence[float] | None = None,
        processor: BandProcessor | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= band < num_bands:
            raise ValueError(f"band {band} of {num_bands}: they are numbered from 0 to {num_bands - 1}")
        if network.num_steps != schedule.num_steps:
            raise ValueError(
                f"the network has {network.num_steps} noise levels, the schedule {schedule.num_steps} steps"
            )
        self.network, self.schedule, self.processor = network, schedule, processor
        self.splitter = BandSplitter(sample_rate=sample_rate, num_bands=num_bands, edges=edges)
        self.sample_rate = sample_rate
        self.band, self.num_bands = band, num_bands

    def band_of(self, wav: Tensor) -> Tensor:
        """Audio [B, C, L] -> its part in this band [B, C, L]."""
        return self.splitter(wav)[self.band]

    def training_item(
        self, band: Tensor, *, learn: bool = True, generator: torch.Generator | None = None
    ) -> TrainingItem:
        """The band [B, C, L] of a batch, each item at a noise level of its own.

        learn: the processor may take its statistics from it.
        """
        device = band.device if generator is None else generator.device
        size = (band.shape[0],)
        step = torch.randint(self.schedule.num_steps, size, generator=generator, device=device)
        step = step.to(band.device, non_blocking=True)
        if self.processor is not None:
            if learn:
                self.processor.update(band, generator=generator)
            band = self.processor.project(band)
        noise = normal_like(band, generator)
        return TrainingItem(self.schedule.add_noise(band, noise, step), noise, step)

    def sample(self, condition: Tensor, initial: Tensor, *, noise: Noise, chain: Chain) -> Tensor:
        """The band [B, C, L] out of noise `initial` [B, C, L], for latents [B, D, T]."""
        dtype = next(self.network.parameters()).dtype
        embedded = self.network.embed_condition(condition.to(dtype), initial.shape[-1])

        def estimate(x: Tensor, step: int) -> Tensor:
            return self.network.denoise(x.to(dtype), step, embedded)

        made = self.schedule.reverse(estimate, initial, chain, noise)
        return made if self.processor is None else self.processor.restore(made)
