"""A codec's latents before quantisation as embeddings: audio judged by what the codec hears.

They are blind where the codec is: only compare values that were made with the same codec.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from eval.embedders.base import ClipEmbedder, over_time, padded
from eval.embedders.hearing import Hearing
from lightning_audio.hashing import weights_hash


class LatentCodec(Protocol):
    """The part of a codec that its embedder needs."""

    sample_rate: int
    channels: int

    @property
    def frame_rate(self) -> float: ...

    def encode_latent(self, wav: Tensor) -> Tensor: ...


class CodecFrameEmbedder(ClipEmbedder):
    """Every frame of a codec's latents is a row: the "EnCodec" embedding of `frechet-audio-distance`.

    That package leaves out the loudness normalisation of the 48 kHz EnCodec, which is here as in the codec.
    """

    def __init__(self, codec: LatentCodec, *, hearing: Hearing | None = None) -> None:
        self.codec = codec
        self.hearing = hearing or Hearing()
        self.name = "codec-latent-frames"
        self.sample_rate, self.channels = codec.sample_rate, codec.channels
        self.weights_hash = weights_hash(codec) if isinstance(codec, nn.Module) else None

    def rows(self, heard: Sequence[Tensor]) -> Tensor:
        latent, frames = self.latents(heard)  # [B, D, T]
        return torch.cat([clip[:, :count].T for clip, count in zip(latent, frames.tolist(), strict=True)])

    def num_rows(self, heard: Tensor) -> int:
        return int(self._frames(torch.tensor([heard.shape[-1]])))

    @torch.no_grad()
    def latents(self, heard: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """[B, D, T], and the frames [B] that each clip fills."""
        wav, lengths = padded(heard)
        latent = self.codec.encode_latent(wav.to(self._device()))
        return latent, self._frames(lengths)

    def _frames(self, lengths: Tensor) -> Tensor:
        # A last frame that is only partly filled is still the clip's.
        return (lengths * self.codec.frame_rate / self.sample_rate).ceil().long().clamp(min=1)

    def _device(self) -> torch.device:
        parameters = self.codec.parameters() if isinstance(self.codec, nn.Module) else iter(())
        return next((parameter.device for parameter in parameters), torch.device("cpu"))


class CodecLatentEmbedder(CodecFrameEmbedder):
    """One row a clip: mean and (with `spread`) standard deviation over time of a codec's latents."""

    def __init__(self, codec: LatentCodec, *, spread: bool = True, hearing: Hearing | None = None) -> None:
        super().__init__(codec, hearing=hearing)
        self.spread = spread
        self.name = "codec-latent-mean-std" if spread else "codec-latent-mean"

    def rows(self, heard: Sequence[Tensor]) -> Tensor:
        return over_time(*self.latents(heard), self.spread)

    def num_rows(self, heard: Tensor) -> int:
        return 1
