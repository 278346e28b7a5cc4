"""From words to sound: a language model that writes codes, and a codec that makes audio of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_audio.audio import convert
from lightning_audio.batch import Attributes
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.lm.autoregressive import Decoding
from lightning_audio.lm.sampling import MultinomialSampler, PerItemSampler, Sampler, SamplingSettings, greedy
from lightning_audio.lm.token_lm import TokenLM

__all__ = ["SamplingSettings", "TextToAudio"]

Progress = Callable[[int, int], None]
"""Called with the frames done so far, and all frames."""


class TextToAudio(nn.Module):
    """Generates audio from descriptions and other attributes.

    codec: its codebooks in use and their size are those of `lm`.
    max_duration: s, the longest clip that the model was trained on; longer ones take overlapping windows.
    defaults: how codes are drawn where a call does not say.
    """

    def __init__(
        self, *, codec: EnCodec, lm: TokenLM, max_duration: float, defaults: SamplingSettings | None = None
    ) -> None:
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
        self.codec, self.lm = codec, lm
        self.max_duration = max_duration
        self.defaults = defaults or SamplingSettings()

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

    def generate(
        self, texts: Sequence[str | None] | None = None, *, duration: float, **options: Any
    ) -> Tensor:
        """Audio [B, C, L] float32 for each text; the options are those of `generate_tokens`."""
        tokens = self.generate_tokens(texts, duration=duration, **options)
        with torch.inference_mode():
            return self.codec.decode(tokens).float()

    @torch.inference_mode()
    def generate_tokens(
        self,
        texts: Sequence[str | None] | None = None,
        *,
        duration: float,
        seed: int | Sequence[int] = 0,
        attributes: Sequence[Attributes] | None = None,
        num_samples: int | None = None,
        prompt: Tensor | None = None,
        prompt_sample_rate: int | None = None,
        extend_stride: float | None = None,
        generator: torch.Generator | None = None,
        progress: Progress | None = None,
        **sampling: Any,
    ) -> Tensor:
        """Codes [B, K, T] for each text.

        texts: descriptions; None, or None within, leaves the model free. attributes: more about each item.
            num_samples: without either, how many free ones.
        duration: s, of the whole clip, prompt included.
        seed: of the first item, the next has the next number; or one for each. An item's codes depend on its
            own seed, text and attributes, not on the rest of the batch.
        prompt: audio to go on from, [B, C, L], or [1, C, L] or [C, L] for all items, at `prompt_sample_rate`
            Hz; it is resampled and mixed to what the codec takes.
        extend_stride: s, how far the window moves on where `duration` is beyond `max_duration` (0.6 of that).
        generator: draws the batch as a whole, as AudioCraft does, in place of the seeds.
        sampling: fields of `SamplingSettings` that differ from the model's defaults.
        """
        settings = self._settings(sampling)
        items = self._items(texts, attributes, num_samples)
        total = self._num_frames(duration)
        window, stride = self._window(extend_stride)
        sampler = self._sampler(settings, seed, len(items), generator)
        codes = self._prompt_codes(prompt, prompt_sample_rate, len(items), total)
        for start, length in _windows(total, window, stride, codes.shape[-1]):
            known = codes.shape[-1]
            decoding = self._decoding(items, settings, sampler, codes, start, length)
            for done, _ in enumerate(decoding, start=1):
                if progress is not None:
                    progress(known + (start + length - known) * done // len(decoding), total)
            codes = torch.cat([codes[..., :start], decoding.codes()], dim=-1)
        return codes

    @torch.inference_mode()
    def stream(
        self,
        text: str | None,
        *,
        duration: float,
        seed: int = 0,
        attributes: Attributes | None = None,
        prompt: Tensor | None = None,
        prompt_sample_rate: int | None = None,
        extend_stride: float | None = None,
        chunk_duration: float = 0.4,
        context_duration: float = 2.0,
        lookahead_frames: int = 8,
        **sampling: Any,
    ) -> Iterator[Tensor]:
        """The audio of `generate([text], ...)` in chunks [C, L], each as soon as its codes are there.

        chunk_duration: s, of a chunk; with the lookahead it makes the delay until the first sound.
        lookahead_frames: codes that must follow a chunk before it is decoded, since a codec that is not
            causal looks ahead; the published ones look 5 frames ahead, 0 will do for a causal one.
        context_duration: s, decoded again before each chunk. Only the codec's LSTM remembers longer than some
            frames: with random weights 0.5 s of context differ from `generate` by 1e-6 of full scale, and a
            trained one may remember longer. With infinity nothing but rounding differs.
        """
        settings = self._settings(sampling)
        items = self._items([text], None if attributes is None else [attributes], None)
        total = self._num_frames(duration)
        window, stride = self._window(extend_stride)
        sampler = self._sampler(settings, seed, 1, None)
        codes = self._prompt_codes(prompt, prompt_sample_rate, 1, total)
        chunk = max(int(chunk_duration * self.frame_rate), 1)
        context = int(min(context_duration * self.frame_rate, total))
        heard = 0
        for start, length in _windows(total, window, stride, codes.shape[-1]):
            decoding = self._decoding(items, settings, sampler, codes, start, length)
            for done in decoding:
                ready = start + done if start + done == total else start + done - lookahead_frames
                if ready - heard >= chunk or ready == total > heard:
                    known = torch.cat([codes[..., :start], decoding.codes()], dim=-1)[..., : start + done]
                    yield self._decode_span(known, heard, ready, context)
                    heard = ready
            codes = torch.cat([codes[..., :start], decoding.codes()], dim=-1)

    def _decode_span(self, codes: Tensor, start: int, end: int, context: int) -> Tensor:
        """Audio [C, L] of frames start .. end, decoded with `context` frames before and what follows."""
        first = max(start - context, 0)
        wav = self.codec.decode(codes[..., first:]).float()
        hop = self.codec.hop_length
        return wav[0, :, (start - first) * hop : (end - first) * hop]

    def _decoding(
        self,
        items: Sequence[Attributes],
        settings: SamplingSettings,
        sampler: Sampler,
        codes: Tensor,
        start: int,
        length: int,
    ) -> Decoding:
        """The run that continues `codes` within the window of `length` frames from frame `start` on."""
        return Decoding(
            self.lm,
            items,
            num_frames=length,
            sampler=sampler,
            cfg_coef=settings.cfg_coef,
            two_step_cfg=settings.two_step_cfg,
            prompt=codes[..., start:],
            first_frame=start,
        )

    def _settings(self, overrides: dict[str, Any]) -> SamplingSettings:
        names = [field.name for field in fields(SamplingSettings)]
        if unknown := sorted(set(overrides) - set(names)):
            raise ValueError(f"unknown sampling settings {unknown}; there are {names}")
        return replace(self.defaults, **overrides)

    def _items(
        self,
        texts: Sequence[str | None] | None,
        attributes: Sequence[Attributes] | None,
        num_samples: int | None,
    ) -> list[Attributes]:
        """One mapping of attributes per item; the text is its description."""
        if isinstance(texts, str):
            raise ValueError(f"texts is a list of descriptions, got the text {texts!r}")
        sizes = {len(given) for given in (texts, attributes) if given is not None} or {num_samples or 0}
        if len(sizes) > 1:
            raise ValueError(f"{len(texts or ())} texts, but attributes of {len(attributes or ())} items")
        (size,) = sizes
        if size == 0:
            raise ValueError("there is nothing to generate: no texts, no attributes, no num_samples")
        if any(texts or ()) and "description" not in self.lm.conditioning.conditioners:
            raise ValueError(
                f"this model takes no text; it knows {list(self.lm.conditioning.conditioners) or 'nothing'}"
            )
        items = [dict(item) for item in attributes] if attributes is not None else [{} for _ in range(size)]
        for item, text in zip(items, texts or (), strict=False):
            item["description"] = text
        return list(items)

    def _num_frames(self, duration: float) -> int:
        frames = int(duration * self.frame_rate + 1e-6) if 0 < duration < float("inf") else 0
        if frames < 1:
            raise ValueError(
                f"duration is {duration} s; want at least one frame, which is {1 / self.frame_rate:g} s"
            )
        return frames

    def _window(self, extend_stride: float | None) -> tuple[int, int]:
        """Length of a window and of the step to the next, in frames."""
        stride = 0.6 * self.max_duration if extend_stride is None else extend_stride
        if not 0 < stride < self.max_duration:
            raise ValueError(
                f"extend_stride is {stride} s; want more than 0 s and less than max_duration, "
                f"{self.max_duration} s"
            )
        window = int(self.max_duration * self.frame_rate + 1e-6)
        return window, max(int(stride * self.frame_rate + 1e-6), 1)

    def _sampler(
        self,
        settings: SamplingSettings,
        seed: int | Sequence[int],
        size: int,
        generator: torch.Generator | None,
    ) -> Sampler:
        seeds = [seed + row for row in range(size)] if isinstance(seed, int) else list(seed)
        if len(seeds) != size:
            raise ValueError(f"{len(seeds)} seeds for {size} items")
        if settings.is_greedy:
            return greedy
        if generator is not None:
            return MultinomialSampler(settings, generator)
        return PerItemSampler(settings, seeds, device=self.lm.heads.weight.device)

    def _prompt_codes(self, prompt: Tensor | None, sample_rate: int | None, size: int, total: int) -> Tensor:
        """The codes [B, K, T'] of the prompt; T' is 0 where there is none."""
        device = self.lm.heads.weight.device
        if prompt is None:
            return torch.zeros(size, self.lm.num_codebooks, 0, dtype=torch.long, device=device)
        if sample_rate is None:
            raise ValueError("a prompt comes with its sample rate: give prompt_sample_rate in Hz")
        prompt = prompt if prompt.dim() == 3 else prompt[None]
        if prompt.dim() != 3 or prompt.shape[0] not in (1, size):
            raise ValueError(f"the prompt is {tuple(prompt.shape)}, want [{size}, channels, samples]")
        seconds = prompt.shape[-1] / sample_rate
        if int(seconds * self.frame_rate) >= total:
            raise ValueError(
                f"the prompt lasts {seconds:g} s, the whole clip {total / self.frame_rate:g} s: "
                "there is nothing to add"
            )
        weight = next(self.codec.parameters())
        wav = convert(prompt, sample_rate, self.sample_rate, self.channels).to(weight.device, weight.dtype)
        encoded = self.codec.encode(wav, num_codebooks=self.lm.num_codebooks)
        if encoded.scale is not None:
            raise ValueError("this codec normalises volume: codes alone do not hold what a prompt needs")
        return encoded.codes[..., : total - 1].to(device).expand(size, -1, -1)


def _windows(total: int, window: int, stride: int, known: int) -> Iterator[tuple[int, int]]:
    """(first frame, length) of each run that it takes to make `total` frames, of which `known` are there."""
    start = 0
    while known >= start + window:  # a long prompt
        start += stride
    while known < total:
        length = min(total - start, window)
        yield start, length
        known = start + length
        start += stride
