"""How a protocol's audio is made: from captions by a generator, or from the reference itself through a codec.

Each item is drawn with a seed of its own, and decoded by itself: its audio depends neither on the batch that it is in
nor on the number of GPUs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from experiments.evaluation.items import Item
from lightning_audio.codec.base import Codec
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.diffusion.multiband import MultiBandDiffusion
from lightning_audio.generation.base import AudioGenerator, with_overrides
from lightning_audio.generation.decoders import Decoder, DrawingDecoder, decode_codes
from lightning_audio.hashing import weights_hash

ReadItem = Callable[[Item], Tensor]
"""The reference audio of an item, [C, L] at the rate and with the channels of the evaluation."""


class Maker(Protocol):
    """sample_rate (Hz), channels: of what it makes.   hashes: of the weights, by the part they are of."""

    sample_rate: int
    channels: int
    hashes: dict[str, str]

    def settings(self) -> dict[str, Any]:
        """All that the audio follows from, besides the item, its reference and the weights; it goes on the card."""
        ...

    def make(self, items: Sequence[Item], read: ReadItem) -> list[Tensor]:
        """One clip [C, L] for each."""
        ...

    def reconstruct(self, wav: Tensor) -> Tensor:
        """A clip [C, L] through the codec and its own decoder: what the codes can do at best."""
        ...


class FromCaptions:
    """A generator's clips for the captions.

    duration: s, of all clips; None: as long as the model knows.   sampling: fields of the model's settings that
        differ from its defaults.
    decoder: in place of the codec's, as in `generate`.
    follow: the attribute ("melody", "style") that is given the item's own audio, besides its caption.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        source: str,
        seed: int,
        duration: float | None = None,
        sampling: Mapping[str, Any] | None = None,
        decoder: str | None = None,
        follow: str | None = None,
    ) -> None:
        if not isinstance(model, AudioGenerator):
            raise ValueError(
                f"{source} is a {type(model).__name__}; this protocol wants a model that generates"
            )
        if follow is not None and follow not in model.takes:
            raise ValueError(f"{source} takes no {follow}; it takes {', '.join(model.takes)}")
        self.model, self.seed, self.follow = model, seed, follow
        self.duration = model.max_duration if duration is None else duration
        self.chosen: dict[str, Any] = dict(sampling or {})
        self.sampling = vars(with_overrides(model.defaults, self.chosen))  # type: ignore[attr-defined]
        self.decoder_name, self.decoder = decoder, model.decoder_of(decoder)
        self.sample_rate, self.channels = model.sample_rate, model.channels
        self.hashes = {"lm": weights_hash(model.lm), "codec": _hash(model.codec)}
        if decoder is not None:
            self.hashes["decoder"] = _hash(self.decoder)

    def settings(self) -> dict[str, Any]:
        return {
            **self.sampling,
            "duration": self.duration,
            "decoder": self.decoder_name,
            "follow": self.follow,
        }

    @torch.no_grad()
    def make(self, items: Sequence[Item], read: ReadItem) -> list[Tensor]:
        seeds = [item_seed(self.seed, item.key) for item in items]
        options: dict[str, Any] = dict(self.chosen)
        if self.follow is not None:
            options |= {
                self.follow: [read(item) for item in items],
                f"{self.follow}_sample_rate": self.sample_rate,
            }
        tokens = self.model.generate_tokens(
            [item.caption for item in items], duration=self.duration, seed=seeds, **options
        )
        # As a list, one is decoded after the other.
        return [wav.cpu() for wav in self.model.decode(list(tokens), decoder=self.decoder, seed=seeds)]

    def reconstruct(self, wav: Tensor) -> Tensor:
        return through_codec(self.model.codec, wav)


class FromReference:
    """The reference through a codec: a protocol of codecs and decoders.

    model: an `EnCodec`, a `MultiBandDiffusion`, or a generator, whose codec it is then.
    bandwidth: kbit/s of the codes; None: what the codec has in use.
    decoder: in place of the codec's own, as in `generate`; a `MultiBandDiffusion` is its own.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        source: str,
        seed: int,
        bandwidth: float | None = None,
        decoder: str | None = None,
    ) -> None:
        self.decoder: Decoder | DrawingDecoder | None = None
        if isinstance(model, AudioGenerator):
            self.codec: Codec = model.codec
            self.decoder = None if decoder is None else model.decoder_of(decoder)
        elif decoder is not None:
            raise ValueError(
                f"{source} is a {type(model).__name__}: only a model that generates takes another decoder"
            )
        elif isinstance(model, MultiBandDiffusion):
            self.codec, self.decoder = model.codec, model
        elif isinstance(model, Codec):
            self.codec = model
        else:
            raise ValueError(f"{source} is a {type(model).__name__}; this protocol wants a codec")
        self.seed, self.decoder_name = (
            seed,
            decoder or (type(self.decoder).__name__ if self.decoder else None),
        )
        self.num_codebooks = self.codec.num_codebooks
        if bandwidth is not None and isinstance(self.codec, EnCodec):
            self.num_codebooks = self.codec.codebooks_within(bandwidth)
        self.bandwidth = bandwidth
        self.sample_rate, self.channels = self.codec.sample_rate, self.codec.channels
        self.hashes = {"codec": _hash(self.codec)}
        if self.decoder is not None:
            self.hashes["decoder"] = _hash(self.decoder)

    def settings(self) -> dict[str, Any]:
        return {
            "bandwidth": self.bandwidth,
            "num_codebooks": self.num_codebooks,
            "decoder": self.decoder_name,
        }

    @torch.no_grad()
    def make(self, items: Sequence[Item], read: ReadItem) -> list[Tensor]:
        return [self._make(read(item), item_seed(self.seed, item.key)) for item in items]

    def _make(self, wav: Tensor, seed: int) -> Tensor:
        if self.decoder is None:
            return through_codec(self.codec, wav, num_codebooks=self.num_codebooks)
        encoded = self.codec.encode(_on_device(self.codec, wav), num_codebooks=self.num_codebooks)
        return decode_codes(self.decoder, encoded.codes, seeds=[seed])[0, :, : wav.shape[-1]].cpu()

    def reconstruct(self, wav: Tensor) -> Tensor:
        return through_codec(self.codec, wav, num_codebooks=self.num_codebooks)


@torch.no_grad()
def through_codec(codec: Codec, wav: Tensor, *, num_codebooks: int | None = None) -> Tensor:
    """A clip [C, L] at the codec's rate, encoded and decoded."""
    decoded = codec.decode(codec.encode(_on_device(codec, wav), num_codebooks=num_codebooks))
    return decoded[0, :, : wav.shape[-1]].float().cpu()


def item_seed(seed: int, key: str) -> int:
    """The seed of one item, whatever its place in the set and whatever part of the set is evaluated."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {key}".encode(), digest_size=4).digest(), "big") >> 1


def _on_device(codec: Codec, wav: Tensor) -> Tensor:
    """[C, L] -> [1, C, L] where the codec's weights are."""
    weight = next(codec.parameters())
    return wav[None].to(weight.device, weight.dtype)


def _hash(part: object) -> str:
    return weights_hash(part) if isinstance(part, nn.Module) else type(part).__name__
