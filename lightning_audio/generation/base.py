"""What all models have in common that write codes and have audio made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from lightning_audio.batch import Attributes
from lightning_audio.codec.base import Codec
from lightning_audio.codec.stereo import StereoFromMono
from lightning_audio.generation.decoders import Decoder, DrawingDecoder, check_decoder, decode_codes
from lightning_audio.generation.items import Waveforms, items_of, seeds_of, waveforms_of
from lightning_audio.lm.token_lm import TokenLM

Progress = Callable[[int, int], None]
"""Called with what is done so far (frames, or passes of a model that has no order of frames), and with all."""
Seconds = float | Sequence[float]
"""One duration for all items, or one for each."""
Settings = TypeVar("Settings")
Tokens = TypeVar("Tokens", Tensor, list[Tensor])


class FindDecoder(Protocol):
    def __call__(self, name: str) -> Decoder | DrawingDecoder: ...


class AudioGenerator(nn.Module):
    """A codec and a language model over its codes.

    codec: its codebooks in use and their size are those of `lm`.
    max_duration: s, the longest clip that the model was trained on.
    """

    find_decoder: FindDecoder | None = None
    """Finds a decoder that is given by name or path; `lightning_audio.load` sets it."""

    def __init__(self, *, codec: Codec, lm: TokenLM, max_duration: float) -> None:
        super().__init__()
        if (codec.num_codebooks, codec.cardinality) != (lm.num_codebooks, lm.cardinality):
            raise ValueError(
                f"the codec has {codec.num_codebooks} codebooks of {codec.cardinality} codes, "
                f"the language model {lm.num_codebooks} of {lm.cardinality}"
            )
        if max_duration * codec.frame_rate < 1:
            raise ValueError(
                f"max_duration {max_duration} s is less than a frame at {codec.frame_rate} frames a second"
            )
        # A style may be heard by its codes, in mono.
        lm.conditioning.use_codec(codec.codec if isinstance(codec, StereoFromMono) else codec)
        self.codec, self.lm = codec, lm
        self.max_duration = max_duration
        self._found: dict[str, Decoder | DrawingDecoder] = {}

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

    @property
    def takes(self) -> list[str]:
        """The attributes that the model knows: "description", "melody", "style", labels."""
        return list(self.lm.conditioning.conditioners)

    def generate_tokens(
        self, texts: Sequence[str | None] | None = None, **options: Any
    ) -> Tensor | list[Tensor]:
        raise NotImplementedError

    def generate(
        self,
        texts: Sequence[str | None] | None = None,
        *,
        decoder: str | Decoder | DrawingDecoder | None = None,
        seed: int | Sequence[int] = 0,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> Any:
        """Audio [B, C, L] float32; a list of [C, L] where each item has its own duration.

        decoder: makes audio of the codes in place of the codec: anything with `decode(codes)`, such as
            `MultiBandDiffusion`; "mbd" for the one that goes with this model; or what `load` opens.
        All else goes to `generate_tokens`.
        """
        chosen = self.decoder_of(decoder)
        tokens: Any = self.generate_tokens(texts, seed=seed, generator=generator, **options)
        return self.decode(tokens, decoder=chosen, seed=seed, generator=generator)

    @torch.inference_mode()
    def decode(
        self,
        tokens: Tokens,
        *,
        decoder: str | Decoder | DrawingDecoder | None = None,
        seed: int | Sequence[int] = 0,
        generator: torch.Generator | None = None,
    ) -> Tokens:
        """Audio of what `generate_tokens` gave: [B, C, L] of [B, K, T], and [C, L] of each [K, T] of a list."""
        chosen = self.decoder_of(decoder)
        seeds = seeds_of(seed, len(tokens))
        if isinstance(tokens, Tensor):
            return decode_codes(chosen, tokens, seeds=seeds, generator=generator)
        return [
            decode_codes(chosen, codes[None], seeds=[own], generator=generator)[0]
            for codes, own in zip(tokens, seeds, strict=True)
        ]

    def decoder_of(self, decoder: str | Decoder | DrawingDecoder | None) -> Decoder | DrawingDecoder:
        """What makes the audio: the codec where nothing is said."""
        if decoder is None:
            return self.codec
        if isinstance(decoder, str):
            if self.find_decoder is None:
                raise ValueError(
                    f"decoder {decoder!r}: only a model that came from `load` finds a decoder by its name; "
                    "give the decoder itself"
                )
            if decoder not in self._found:
                self._found[decoder] = self.find_decoder(decoder)
            decoder = self._found[decoder]
            if isinstance(decoder, nn.Module):  # it is no part of this model, so it does not move with it
                decoder.to(self.lm.heads.weight.device)
        check_decoder(decoder, self.codec)
        return decoder

    def _items(
        self,
        texts: Sequence[str | None] | None,
        attributes: Sequence[Attributes] | None,
        num_samples: int | None,
        waveforms: Mapping[str, tuple[Waveforms | None, int | None]],
    ) -> list[Attributes]:
        """One mapping of attributes per item.  waveforms: by name, with their sample rate."""
        converted = {
            name: waveforms_of(name, wavs, rate, self.codec) for name, (wavs, rate) in waveforms.items()
        }
        return items_of(
            self.takes,
            texts=texts,
            attributes=attributes,
            num_samples=num_samples,
            waveforms=converted,
        )

    def _num_frames(self, duration: float) -> int:
        is_time = isinstance(duration, int | float) and 0 < duration < float("inf")
        frames = int(duration * self.frame_rate + 1e-6) if is_time else 0
        if frames < 1:
            raise ValueError(
                f"duration is {duration} s; want at least one frame, which is {1 / self.frame_rate:g} s"
            )
        return frames

    def _prompts(
        self, prompt: Waveforms | None, sample_rate: int | None, lengths: Sequence[int]
    ) -> list[Tensor]:
        """The codes [K, T'] of each item's prompt; T' is 0 where there is none.  lengths: frames of the clips."""
        given = waveforms_of("prompt", prompt, sample_rate, self.codec) or [None]
        if len(given) not in (1, len(lengths)):
            raise ValueError(f"{len(given)} prompts for {len(lengths)} items")
        given = given if len(given) == len(lengths) else given * len(lengths)
        for waveform, length in zip(given, lengths, strict=True):
            seconds = 0.0 if waveform is None else waveform.wav.shape[-1] / self.sample_rate
            if int(seconds * self.frame_rate) >= length:
                raise ValueError(
                    f"the prompt lasts {seconds:g} s, the whole clip {length / self.frame_rate:g} s: "
                    "there is nothing to add"
                )
        wavs = {row: waveform.wav for row, waveform in enumerate(given) if waveform is not None}
        device = self.lm.heads.weight.device
        codes = [torch.zeros(self.lm.num_codebooks, 0, dtype=torch.long, device=device)] * len(lengths)
        for num_samples in sorted({wav.shape[-1] for wav in wavs.values()}):
            rows = [row for row, wav in wavs.items() if wav.shape[-1] == num_samples]
            for row, own in zip(rows, self._encode(torch.stack([wavs[row] for row in rows])), strict=True):
                codes[row] = own[:, : lengths[row] - 1].to(device)
        return codes

    def _encode(self, wav: Tensor) -> Tensor:
        """Codes [B, K, T] of prompts [B, C, L]."""
        weight = next(self.codec.parameters())
        encoded = self.codec.encode(wav.to(weight.device, weight.dtype), num_codebooks=self.lm.num_codebooks)
        if encoded.scale is not None:
            raise ValueError("this codec normalises volume: codes alone do not hold what a prompt needs")
        return encoded.codes


def with_overrides(defaults: Settings, overrides: Mapping[str, Any]) -> Settings:
    """The same settings but for `overrides`; ValueError for a name that is none of theirs."""
    names = [field.name for field in fields(defaults)]  # type: ignore[arg-type]
    if unknown := sorted(set(overrides) - set(names)):
        raise ValueError(f"unknown sampling settings {unknown}; there are {names}")
    return replace(defaults, **overrides)  # type: ignore[type-var]
