"""Multi-Band Diffusion: codes to audio, a diffusion for each band (San Roman et al. 2023, arXiv 2308.02560)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from lightning_audio.audio import convert, resample
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.diffusion.band import BandDiffusion
from lightning_audio.diffusion.bands import BandSplitter, match_bands
from lightning_audio.diffusion.processor import normal_like
from lightning_audio.diffusion.schedule import Noise


class Bands(nn.Module):
    """The bands of one model, low to high."""

    def __init__(self, *, bands: Sequence[BandDiffusion]) -> None:
        super().__init__()
        if not bands:
            raise ValueError("a multi-band diffusion has at least one band")
        self.bands = nn.ModuleList(bands)

    def __iter__(self) -> Iterator[BandDiffusion]:
        return iter(self.bands)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.bands)


class MultiBandDiffusion(nn.Module):
    """A decoder of the codec's codes that sounds less like a codec.

    Each band is made by itself, from noise of its own, out of the latents that the codes stand for; the sum is
    given the loudness that the codec's own decoding has in each of `num_eq_bands` bands.

    codec: what made the codes. One that divides by volume or works in chunks has more in it than the codes say.
    num_codebooks: of the codes that the bands were trained on; None: all that the codec has in use.
    """

    def __init__(
        self, *, codec: EnCodec, bands: Bands, num_codebooks: int | None = None, num_eq_bands: int = 32
    ) -> None:
        super().__init__()
        if codec.normalize or codec.chunk_length is not None:
            raise ValueError(
                "this codec normalises volume or works in chunks: its codes alone do not say the audio"
            )
        if num_codebooks is not None and not 1 <= num_codebooks <= codec.max_codebooks:
            raise ValueError(
                f"the bands are for {num_codebooks} codebooks, the codec has {codec.max_codebooks}"
            )
        for band in bands:
            if band.sample_rate != codec.sample_rate or band.network.channels != codec.channels:
                raise ValueError(
                    f"band {band.band} is for {band.sample_rate} Hz and {band.network.channels} channels, "
                    f"the codec for {codec.sample_rate} Hz and {codec.channels}"
                )
            if band.network.condition_dim != codec.quantizer.dim:
                raise ValueError(
                    f"band {band.band} takes a condition of width {band.network.condition_dim}, "
                    f"the codec's latents have {codec.quantizer.dim}"
                )
        self.codec, self.bands = codec, bands
        self.num_codebooks = num_codebooks or codec.num_codebooks
        self.equalizer = BandSplitter(sample_rate=codec.sample_rate, num_bands=num_eq_bands)

    @property
    def sample_rate(self) -> int:
        """Hz"""
        return self.codec.sample_rate

    @property
    def channels(self) -> int:
        return self.codec.channels

    @property
    def frame_rate(self) -> float:
        """Frames of codes per second."""
        return self.codec.frame_rate

    @torch.inference_mode()
    def decode(
        self,
        codes: Tensor,
        *,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        steps: Sequence[int] | None = None,
    ) -> Tensor:
        """Audio [B, C, L] float32 of codes [B, K, T], as long as the codec's own.

        seed: of the first item, the next has the next number; or one for each; 0 by default. An item's audio
            depends on its own codes and seed, not on the rest of the batch.
        generator: instead of seeds, draws for the whole batch and matches the loudness over the whole batch: what
            AudioCraft does. The same generator state gives the audio that it gives.
        steps: falling noise levels to go through, in place of the 20 of `NoiseSchedule.default_steps`.
        """
        reference = self.codec.decode(codes).float()
        noise = self._noise(seed, generator, reference)
        made = self._sum_of_bands(self.codec.decode_latent(codes), reference, noise, steps)
        return match_bands(made, reference, self.equalizer, jointly=generator is not None)

    @torch.inference_mode()
    def regenerate(
        self,
        wav: Tensor,
        sample_rate: int,
        *,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        steps: Sequence[int] | None = None,
    ) -> Tensor:
        """wav [B, C, L] at `sample_rate` (Hz) through the codec's codes and back, at the same rate.

        The loudness of the bands is not matched to anything. The options are those of `decode`.
        """
        if wav.dim() != 3:
            raise ValueError(f"wav is {tuple(wav.shape)}, want [batch, channels, samples]")
        weight = next(self.codec.parameters())
        wav = convert(wav.to(weight.device).float(), sample_rate, self.sample_rate, self.channels)
        codes = self.codec.encode(wav.to(weight.dtype), num_codebooks=self.num_codebooks).codes
        noise = self._noise(seed, generator, wav)
        made = self._sum_of_bands(self.codec.decode_latent(codes), wav, noise, steps)
        return resample(made, self.sample_rate, sample_rate)

    def _sum_of_bands(
        self, latent: Tensor, like: Tensor, noise: Noise, steps: Sequence[int] | None
    ) -> Tensor:
        """Audio of the size of `like` [B, C, L] for latents [B, D, T]."""
        total = torch.zeros_like(like, dtype=torch.float32)
        for band in self.bands:
            chain = band.schedule.subsampled_chain(steps)
            total += band.sample(latent, noise(total), noise=noise, chain=chain)
        return total

    def _noise(
        self, seed: int | Sequence[int] | None, generator: torch.Generator | None, like: Tensor
    ) -> Noise:
        if generator is not None:
            if seed is not None:
                raise ValueError(f"seed {seed} and a generator both given: choose one")
            return partial(normal_like, generator=generator)
        size = like.shape[0]
        seeds = [(seed or 0) + row for row in range(size)] if not isinstance(seed, Sequence) else list(seed)
        if len(seeds) != size:
            raise ValueError(f"{len(seeds)} seeds for {size} items")
        return ItemNoise(seeds, like.device)


class ItemNoise:
    """Noise in which each item has a generator of its own, on the device: its batch neighbours do not matter."""

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.generators = [torch.Generator(device).manual_seed(seed % 2**63) for seed in seeds]

    def __call__(self, x: Tensor) -> Tensor:
        """[B, ...] float32, in the shape of x."""
        rows = [torch.randn(x.shape[1:], generator=g, device=x.device) for g in self.generators]
        return torch.stack(rows)
