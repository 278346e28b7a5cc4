"""From words to sound: a language model that writes codes step by step, and a codec that makes audio of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightning_audio.batch import Attributes
from lightning_audio.codec.base import Codec
from lightning_audio.conditioning.base import Conditioner
from lightning_audio.conditioning.chroma import ChromaConditioner
from lightning_audio.conditioning.conditioning import with_seeds
from lightning_audio.generation.base import AudioGenerator, Progress, Seconds, with_overrides
from lightning_audio.generation.decoders import Decoder, DrawingDecoder, lookahead_of
from lightning_audio.generation.items import Waveforms, seeds_of
from lightning_audio.generation.streaming import stream_chunks
from lightning_audio.generation.windows import WindowedDecoding, Windows, can_end_early
from lightning_audio.lm.sampling import MultinomialSampler, PerItemSampler, Sampler, SamplingSettings, greedy
from lightning_audio.lm.token_lm import TokenLM

__all__ = ["SamplingSettings", "TextToAudio"]


@dataclass(frozen=True)
class _Request:
    """What a call asks for, checked. One entry per item; prompts [K, T'], T' being 0 where there is none."""

    items: list[Attributes]
    lengths: list[int]
    seeds: list[int]
    prompts: list[Tensor]
    settings: SamplingSettings
    windows: Windows
    generator: torch.Generator | None

    def rows(self, rows: Sequence[int]) -> _Request:
        """The request of some of the items."""
        return replace(
            self,
            items=[self.items[row] for row in rows],
            lengths=[self.lengths[row] for row in rows],
            seeds=[self.seeds[row] for row in rows],
            prompts=[self.prompts[row] for row in rows],
        )


class TextToAudio(AudioGenerator):
    """Generates audio from descriptions, melodies, styles and other attributes (MusicGen, AudioGen).

    codec: its codebooks in use and their size are those of `lm`.
    max_duration: s, the longest clip that the model was trained on; longer ones take overlapping windows.
    defaults: how codes are drawn where a call does not say.
    """

    def __init__(
        self, *, codec: Codec, lm: TokenLM, max_duration: float, defaults: SamplingSettings | None = None
    ) -> None:
        super().__init__(codec=codec, lm=lm, max_duration=max_duration)
        self.defaults = defaults or SamplingSettings()

    @torch.inference_mode()
    def generate_tokens(
        self,
        texts: Sequence[str | None] | None = None,
        *,
        duration: Seconds | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> Any:
        """Codes [B, K, T] for each text; a list of [K, T] where `duration` is one for each item.

        texts: descriptions; None, or None within, leaves the model free. attributes: more about each item.
            num_samples: without either, how many free ones.
        duration: s, of the whole clip, prompt included; or one for each item. By default `max_duration`.
        seed: of the first item, the next has the next number; or one for each. An item's codes depend on its
            own seed and attributes, not on the rest of the batch.
        melody, style: audio to follow, [B, C, L], or [C, L] for all items, or a list with [C, L] or None for
            each, at `melody_sample_rate`, `style_sample_rate` Hz; resampled and mixed to what the codec takes.
            Where windows are needed a melody moves along with them, and begins anew when it ends.
        prompt: audio to go on from, in the same forms, at `prompt_sample_rate` Hz.
        extend_stride: s, how far the window moves on where `duration` is beyond `max_duration` (0.6 of that).
        generator: draws the batch as a whole, as AudioCraft does, in place of the seeds. Then, and where
            nothing is drawn, texts are padded to the longest as there, which counts in models that came from
            AudioCraft.
        progress: called with the frames done so far, and all frames.
        Anything else is a field of `SamplingSettings` that differs from the model's defaults.
        """
        request = self._request(texts, duration=duration, **options)
        codes = self._codes(request, progress)
        return codes if isinstance(duration, Sequence) else torch.stack(codes)

    def stream(
        self,
        text: str | None = None,
        *,
        duration: float | None = None,
        seed: int = 0,
        attributes: Attributes | None = None,
        decoder: str | Decoder | DrawingDecoder | None = None,
        chunk_duration: float = 0.2,
        context_duration: float = 2.0,
        lookahead_frames: int | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> Iterator[Tensor]:
        """The audio of `generate([text], ...)` in chunks [C, L], each as soon as its codes are there.

        chunk_duration: s, of a chunk; with the lookahead it makes the delay until the first sound.
        lookahead_frames: codes that must follow a chunk before it is decoded, since a codec that is not
            causal looks ahead; by default 8, and none for a causal one.
        context_duration: s, decoded again before each chunk. Only the codec's LSTM remembers longer than some
            frames: with random weights 0.5 s of context differ from `generate` by 1e-6 of full scale, and a
            trained one may remember longer. With infinity nothing but rounding differs.
        A decoder that draws noise (multi-band diffusion) draws other noise than for the whole clip, and fades
            from chunk to chunk.
        The options are those of `generate_tokens`.
        """
        chosen = self.decoder_of(decoder)
        lookahead = lookahead_of(chosen) if lookahead_frames is None else lookahead_frames
        if lookahead < 0 or not chunk_duration > 0 or not context_duration >= 0:
            raise ValueError(
                f"want chunk_duration > 0, context_duration and lookahead_frames >= 0; "
                f"got {chunk_duration} s, {context_duration} s and {lookahead}"
            )
        item = None if attributes is None else [attributes]
        with torch.inference_mode():
            request = self._request([text], duration=duration, seed=seed, attributes=item, **options)
        run = self._run(request)
        return stream_chunks(
            run,
            chosen,
            hop_length=self.codec.hop_length,
            chunk=max(int(chunk_duration * self.frame_rate), 1),
            context=int(min(context_duration * self.frame_rate, run.total)),
            lookahead=lookahead,
            seed=seed,
            progress=progress,
        )

    def _codes(self, request: _Request, progress: Progress | None) -> list[Tensor]:
        """Codes [K, T] of each item; those are written together of which each then gets what it would alone."""
        together = can_end_early(self.lm, request.lengths)
        groups: dict[tuple[int, int], list[int]] = {}
        for row, (prompt, length) in enumerate(zip(request.prompts, request.lengths, strict=True)):
            groups.setdefault((prompt.shape[-1], 0 if together else length), []).append(row)
        everything = sum(max(request.lengths[row] for row in rows) for rows in groups.values())
        codes: dict[int, Tensor] = {}
        before = 0
        for rows in groups.values():
            run = self._run(request.rows(rows))
            for _ in run:
                if progress is not None:
                    progress(before + run.frames_done, everything)
            before += run.total
            codes |= zip(rows, run.codes(), strict=True)
        return [codes[row][:, :length] for row, length in enumerate(request.lengths)]

    def _run(self, request: _Request) -> WindowedDecoding:
        settings, seeds = request.settings, request.seeds
        is_seeded = request.generator is None and not settings.is_greedy
        sampler: Sampler = greedy
        if not settings.is_greedy:
            device = self.lm.heads.weight.device
            sampler = (
                PerItemSampler(settings, seeds, device=device)
                if is_seeded
                else MultinomialSampler(settings, request.generator)
            )
        return WindowedDecoding(
            self.lm,
            request.items,
            lengths=request.lengths,
            windows=request.windows,
            sampler=sampler,
            settings=settings,
            prompt=torch.stack(request.prompts),
            apart=is_seeded,
        )

    def _request(
        self,
        texts: Sequence[str | None] | None,
        *,
        duration: Seconds | None,
        seed: int | Sequence[int] = 0,
        attributes: Sequence[Attributes] | None = None,
        num_samples: int | None = None,
        melody: Waveforms | None = None,
        melody_sample_rate: int | None = None,
        style: Waveforms | None = None,
        style_sample_rate: int | None = None,
        prompt: Waveforms | None = None,
        prompt_sample_rate: int | None = None,
        extend_stride: float | None = None,
        generator: torch.Generator | None = None,
        **sampling: Any,
    ) -> _Request:
        settings = with_overrides(self.defaults, sampling)
        waveforms = {"melody": (melody, melody_sample_rate), "style": (style, style_sample_rate)}
        items = self._items(texts, attributes, num_samples, waveforms)
        lengths = self._lengths(self.max_duration if duration is None else duration, len(items))
        seeds = seeds_of(seed, len(items))
        if generator is None:
            items = with_seeds(items, seeds)  # a style's excerpt is drawn too
        windows = self._windows(extend_stride, follows_audiocraft=generator is not None)
        prompts = self._prompts(prompt, prompt_sample_rate, lengths)
        return _Request(items, lengths, seeds, prompts, settings, windows, generator)

    def _lengths(self, duration: Seconds, size: int) -> list[int]:
        """Frames of each item."""
        if isinstance(duration, str) or not isinstance(duration, Sequence):
            return [self._num_frames(duration)] * size
        if len(duration) != size:
            raise ValueError(f"{len(duration)} durations for {size} items")
        return [self._num_frames(own) for own in duration]

    def _windows(self, extend_stride: float | None, *, follows_audiocraft: bool) -> Windows:
        stride = 0.6 * self.max_duration if extend_stride is None else extend_stride
        if not 0 < stride < self.max_duration:
            raise ValueError(
                f"extend_stride is {stride} s; want more than 0 s and less than max_duration, "
                f"{self.max_duration} s"
            )
        # A melody has a time of its own, a style has none; AudioCraft moves both along.
        kinds = (Conditioner,) if follows_audiocraft else (ChromaConditioner,)
        conditioners = self.lm.conditioning.conditioners.items()
        return Windows(
            length=int(self.max_duration * self.frame_rate + 1e-6),
            stride=max(int(stride * self.frame_rate + 1e-6), 1),
            duration=self.max_duration,
            frame_rate=self.frame_rate,
            sliding=[name for name, module in conditioners if isinstance(module, kinds)],
        )
