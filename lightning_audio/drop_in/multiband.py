"""`MultiBandDiffusion` as AudioCraft has it, over this project's model of that name."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Self

import torch
from torch import Tensor

from lightning_audio.audio import resample
from lightning_audio.checkpoints.load import load
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.diffusion import multiband
from lightning_audio.diffusion.bands import BandSplitter, match_bands
from lightning_audio.diffusion.processor import normal_like
from lightning_audio.drop_in.models import global_generator

CODEBOOKS = {1.5: 2, 3.0: 4, 6.0: 8}
"""Of the 24 kHz codec, by bandwidth in kbit/s."""


class MultiBandDiffusion:
    """Codes to audio by diffusion; noise comes from torch's global generator.

    model: the decoder itself, which can be given to `generate(..., decoder=...)` as well.
    """

    def __init__(self, model: multiband.MultiBandDiffusion) -> None:
        self.model = model

    @classmethod
    def get_pretrained(cls, name: str, device: torch.device | str | None = None) -> Self:
        """The multi-band diffusion that `load` finds under this name or path."""
        loaded = load(name, device=device)
        if not isinstance(loaded, multiband.MultiBandDiffusion):
            raise ValueError(f"{name} is a {type(loaded).__name__}, not a multi-band diffusion")
        return cls(loaded)

    @classmethod
    def get_mbd_musicgen(cls, device: torch.device | str | None = None) -> Self:
        """For the 32 kHz codec of MusicGen."""
        return cls.get_pretrained("facebook/multiband-diffusion/mbd_musicgen_32khz.th", device)

    @classmethod
    def get_mbd_24khz(
        cls,
        bw: float = 3.0,
        pretrained: bool = True,
        device: torch.device | str | None = None,
        n_q: int | None = None,
    ) -> Self:
        """For the 24 kHz codec at `bw` kbit/s."""
        if bw not in CODEBOOKS:
            raise ValueError(f"there is none for {bw} kbit/s; there are {list(CODEBOOKS)}")
        if n_q is not None and n_q != CODEBOOKS[bw]:
            raise ValueError(f"{bw} kbit/s are {CODEBOOKS[bw]} codebooks, n_q is {n_q}")
        if not pretrained:
            raise ValueError("pretrained=False: train one with experiment=mbd_24khz instead")
        return cls.get_pretrained(f"facebook/multiband-diffusion/mbd_comp_{CODEBOOKS[bw]}.pt", device)

    @property
    def codec_model(self) -> EnCodec:
        return self.model.codec

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def sample_rate(self) -> int:
        return self.model.sample_rate

    @torch.no_grad()
    def get_condition(self, wav: Tensor, sample_rate: int) -> Tensor:
        """The latents [B, D, T] that stand for wav [B, C, L]."""
        wav = resample(wav, sample_rate, self.sample_rate)
        return self.get_emb(self.codec_model.encode(wav, num_codebooks=self.model.num_codebooks).codes)

    @torch.no_grad()
    def get_emb(self, codes: Tensor) -> Tensor:
        """The latents [B, D, T] that codes [B, K, T] stand for."""
        return self.codec_model.decode_latent(codes)

    @torch.no_grad()
    def generate(
        self, emb: Tensor, size: Sequence[int] | None = None, step_list: Sequence[int] | None = None
    ) -> Tensor:
        """Audio of the given size ([B, C, L] of the codec's own) for latents [B, D, T], without matched loudness."""
        codec = self.codec_model
        made = torch.zeros(
            size or (len(emb), codec.channels, emb.shape[-1] * codec.hop_length), device=emb.device
        )
        noise = partial(normal_like, generator=global_generator(self.device))
        for band in self.model.bands:
            chain = band.schedule.subsampled_chain(step_list)
            made += band.sample(emb, noise(made), noise=noise, chain=chain)
        return made

    @torch.no_grad()
    def re_eq(self, wav: Tensor, ref: Tensor, n_bands: int = 32) -> Tensor:
        """wav [B, C, L] with the loudness of the bands of `ref`."""
        splitter = BandSplitter(sample_rate=self.sample_rate, num_bands=n_bands)
        return match_bands(wav, ref, splitter, jointly=True)

    def regenerate(self, wav: Tensor, sample_rate: int) -> Tensor:
        """wav [B, C, L] through the codec's codes and back, at its own rate."""
        return self.model.regenerate(wav, sample_rate, generator=global_generator(self.device))

    def tokens_to_wav(self, tokens: Tensor, n_bands: int = 32) -> Tensor:
        """Audio [B, C, L] of codes [B, K, T], whose loudness follows the codec's in `n_bands` bands."""
        return self.re_eq(self.generate(self.get_emb(tokens)), self.codec_model.decode(tokens), n_bands)

    def decode(
        self,
        codes: Tensor,
        *,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The same as a decoder of this project: with seeds that do not depend on the batch."""
        return self.model.decode(codes, seed=seed, generator=generator)
