"""What makes audio of codes: the model's codec, multi-band diffusion, or anything else with `decode`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lightning_audio.codec.base import Codec
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.codec.stereo import StereoFromMono

LOOKAHEAD = 8
"""Frames. The published codecs that are not causal look 5 frames ahead."""


@runtime_checkable
class Decoder(Protocol):
    """Codes [B, K, T] -> audio [B, C, T * hop length] at the rate of the codec that the codes are of."""

    def decode(self, codes: Tensor, /) -> Tensor: ...


@runtime_checkable
class DrawingDecoder(Protocol):
    """A decoder that draws noise, such as `MultiBandDiffusion`: one seed for each item."""

    @property
    def sample_rate(self) -> int: ...

    def decode(
        self,
        codes: Tensor,
        *,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor: ...

    def regenerate(self, wav: Tensor, sample_rate: int) -> Tensor: ...


def draws_noise(decoder: object) -> bool:
    return isinstance(decoder, DrawingDecoder)


def decode_codes(
    decoder: Decoder | DrawingDecoder,
    codes: Tensor,
    *,
    seeds: Sequence[int],
    generator: torch.Generator | None = None,
) -> Tensor:
    """Audio [B, C, L] float32; what a decoder draws, it draws with the items' seeds or from `generator`."""
    if isinstance(decoder, DrawingDecoder):
        seed = None if generator is not None else list(seeds)
        return decoder.decode(codes, seed=seed, generator=generator).float()
    return decoder.decode(codes).float()


def lookahead_of(decoder: Decoder | DrawingDecoder) -> int:
    """Frames that must follow before a frame can be decoded as if all were there."""
    codec = decoder.codec if isinstance(decoder, StereoFromMono) else decoder
    return 0 if isinstance(codec, EnCodec) and codec.decoder.causal else LOOKAHEAD


def check_decoder(decoder: object, codec: Codec) -> None:
    """ValueError where `decoder` cannot stand in for the codec."""
    if not hasattr(decoder, "decode"):
        raise ValueError(f"a decoder has `decode`, got a {type(decoder).__name__}")
    for what in ("sample_rate", "frame_rate", "num_codebooks", "channels"):
        own, wanted = getattr(decoder, what, None), getattr(codec, what)
        if own is not None and own != wanted:
            raise ValueError(f"the decoder has {what} {own:g}, the codec of the model {wanted:g}")
