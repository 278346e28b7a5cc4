"""From words to sound all at once: MAGNeT's masked language model, alone or after an autoregressive beginning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_audio.batch import Attributes
from lightning_audio.codec.base import Codec
from lightning_audio.conditioning.conditioning import with_seeds
from lightning_audio.generation.base import AudioGenerator, Progress, with_overrides
from lightning_audio.generation.items import Waveforms, seeds_of
from lightning_audio.generation.text_to_audio import TextToAudio
from lightning_audio.hashing import weights_hash
from lightning_audio.lm.masked import MaskedLM, MaskedSettings, generate_hybrid, generate_masked
from lightning_audio.lm.token_lm import TokenLM

__all__ = ["MaskedSettings", "MaskedTextToAudio"]


class MaskedTextToAudio(AudioGenerator):
    """Generates audio from descriptions in a fixed number of passes (MAGNeT).

    codec: its codebooks in use and their size are those of `lm`.
    max_duration: s, of the clips that the model was trained on. It cannot go beyond: all frames are seen at once.
    defaults: how codes are drawn where a call does not say.
    """

    lm: MaskedLM

    def __init__(
        self, *, codec: Codec, lm: MaskedLM, max_duration: float, defaults: MaskedSettings | None = None
    ) -> None:
        super().__init__(codec=codec, lm=lm, max_duration=max_duration)
        self.defaults = defaults or MaskedSettings()

    @torch.inference_mode()
    def generate_tokens(
        self,
        texts: Sequence[str | None] | None = None,
        *,
        duration: float | None = None,
        seed: int | Sequence[int] = 0,
        attributes: Sequence[Attributes] | None = None,
        num_samples: int | None = None,
        melody: Waveforms | None = None,
        melody_sample_rate: int | None = None,
        style: Waveforms | None = None,
        style_sample_rate: int | None = None,
        prompt: Waveforms | None = None,
        prompt_sample_rate: int | None = None,
        generator: torch.Generator | None = None,
        rescorer: TokenLM | AudioGenerator | None = None,
        rescore_weight: float = 0.7,
        first: TextToAudio | None = None,
        first_duration: float | None = None,
        progress: Progress | None = None,
        **settings: Any,
    ) -> Tensor:
        """Codes [B, K, T] for each text.

        texts, attributes, num_samples, melody, style, prompt, seed, generator: as for `TextToAudio`.
        duration: s; by default `max_duration`, on which the model was trained. Shorter clips can be made,
            longer ones cannot. Frames beyond the last whole span are left out (500 frames make 498).
        rescorer: another model of the same codes, whose opinion of what was drawn has the share
            `rescore_weight` in what is drawn again (section 3.3 of the paper).
        first: an autoregressive model of the same codes, which makes the first `first_duration` seconds
            before this one tells the rest (section 3.4).
        progress: called with the passes done, and all passes.
        Anything else is a field of `MaskedSettings` that differs from the model's defaults.
        """
        chosen = with_overrides(self.defaults, settings)
        waveforms = {"melody": (melody, melody_sample_rate), "style": (style, style_sample_rate)}
        items = self._items(texts, attributes, num_samples, waveforms)
        total = self._clip_frames(duration)
        # Without draws texts are padded to the longest, as AudioCraft does: no seeds are asked for.
        is_seeded = generator is None and (chosen.use_sampling or first is not None)
        seeds = seeds_of(seed, len(items))
        if generator is None:
            items = with_seeds(items, seeds)  # a style's excerpt is drawn too
        options: dict[str, Any] = {
            "num_frames": total,
            "settings": chosen,
            "seeds": seeds if is_seeded else None,
            "generator": generator,
            "rescorer": self._lm_of(rescorer, "rescorer"),
            "rescore_weight": rescore_weight,
            "progress": progress,
        }
        beginner, first_frames = self._beginning(first, first_duration)
        if first is None or beginner is None:
            begun = self._prompt(prompt, prompt_sample_rate, [total] * len(items))
            return generate_masked(self.lm, items, prompt=begun, **options)
        begun = self._prompt(prompt, prompt_sample_rate, [first_frames] * len(items))
        return generate_hybrid(
            self.lm,
            beginner,
            items,
            autoregressive_frames=first_frames,
            sampling=first.defaults,
            prompt=begun,
            **options,
        )

    def _prompt(
        self, prompt: Waveforms | None, sample_rate: int | None, lengths: Sequence[int]
    ) -> Tensor | None:
        """Codes [B, K, T'] of the prompts, if there are any."""
        codes = self._prompts(prompt, sample_rate, lengths)
        if len({own.shape[-1] for own in codes}) > 1:
            raise ValueError("this model makes all clips of a batch at once: give prompts of one length")
        return torch.stack(codes) if codes[0].shape[-1] else None

    def _clip_frames(self, duration: float | None) -> int:
        if isinstance(duration, Sequence):
            raise ValueError("this model makes all clips of a batch at once: give one duration for all")
        total = self._num_frames(self.max_duration if duration is None else duration)
        if total > self._num_frames(self.max_duration):
            raise ValueError(
                f"duration is {duration} s; this model sees a clip as a whole and was trained on "
                f"{self.max_duration} s: it cannot make a longer one"
            )
        return total

    def _beginning(self, first: TextToAudio | None, duration: float | None) -> tuple[TokenLM | None, int]:
        """The language model that begins, and the frames that it makes."""
        if first is None:
            if duration is not None:
                raise ValueError(f"first_duration is {duration} s, but there is no `first` model to make it")
            return None, 0
        if duration is None:
            raise ValueError("give first_duration: how many seconds `first` makes")
        if duration > first.max_duration:
            raise ValueError(
                f"first_duration is {duration} s, but `first` was trained on {first.max_duration} s"
            )
        return self._lm_of(first, "first"), self._num_frames(duration)

    def _lm_of(self, model: TokenLM | AudioGenerator | None, role: str) -> TokenLM | None:
        """The language model of another model; ValueError where its codes are of another codec."""
        if not isinstance(model, AudioGenerator):
            return model
        own: Any = self.codec
        other: Any = model.codec
        if other is not own and weights_hash(other) != weights_hash(own):
            raise ValueError(f"the codes of `{role}` are of another codec than this model's")
        return model.lm
