"""`MusicGen`, `AudioGen` and `MAGNeT` as AudioCraft has them: the same names, arguments, defaults and draws.

What is drawn comes from torch's global generator (and a style's excerpt from Python's), so that a script which sets
`torch.manual_seed` gives what it gave there. Everything is done by `TextToAudio` and `MaskedTextToAudio`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from lightning_audio.checkpoints.load import load
from lightning_audio.codec.base import Codec
from lightning_audio.conditioning.style import StyleConditioner
from lightning_audio.generation.base import AudioGenerator
from lightning_audio.generation.masked import MaskedTextToAudio
from lightning_audio.generation.text_to_audio import TextToAudio
from lightning_audio.lm.token_lm import TokenLM

Made = Tensor | tuple[Tensor, Tensor]
"""Audio [B, C, L], with its codes [B, K, T] where `return_tokens`."""


class _Model:
    """What the three have in common.

    compression_model, lm: a codec and a language model of this project's.
    max_duration: s, the longest clip that the model was trained on.
    """

    kind: ClassVar[type[AudioGenerator]]
    duration: float
    """s, of what is made next; set by `set_generation_params`."""
    extend_stride: float | None = None

    def __init__(
        self,
        name: str,
        compression_model: Codec,
        lm: TokenLM,
        max_duration: float | None = None,
    ) -> None:
        if max_duration is None:
            raise ValueError(
                f"give max_duration in s: a {type(self).__name__} built by hand does not know it"
            )
        self.name = name
        self.model: Any = self.kind(codec=compression_model, lm=lm, max_duration=max_duration)
        self.model.eval()
        self.generation_params: dict[str, Any] = {}
        self._progress_callback: Callable[[int, int], None] | None = None

    @classmethod
    def _load(cls, name: str, device: torch.device | str | None, options: dict[str, Any]) -> Self:
        loaded = load(name, device=device, **options)
        if not isinstance(loaded, cls.kind):
            raise ValueError(f"{name} is a {type(loaded).__name__}, which {cls.__name__} cannot be made of")
        made = cls(name, loaded.codec, loaded.lm, loaded.max_duration)
        made.model = loaded
        return made

    @property
    def compression_model(self) -> Codec:
        return self.model.codec

    @property
    def lm(self) -> TokenLM:
        return self.model.lm

    @property
    def device(self) -> torch.device:
        return self.lm.heads.weight.device

    @property
    def frame_rate(self) -> float:
        return self.model.frame_rate

    @property
    def sample_rate(self) -> int:
        return self.model.sample_rate

    @property
    def audio_channels(self) -> int:
        return self.model.channels

    @property
    def max_duration(self) -> float:
        return self.model.max_duration

    @max_duration.setter
    def max_duration(self, seconds: float) -> None:
        self.model.max_duration = seconds

    def set_custom_progress_callback(
        self, progress_callback: Callable[[int, int], None] | None = None
    ) -> None:
        """What is called with the work done and all work, where a call says `progress=True`."""
        self._progress_callback = progress_callback

    def generate_unconditional(
        self, num_samples: int, progress: bool = False, return_tokens: bool = False
    ) -> Made:
        return self._made([None] * num_samples, progress, return_tokens)

    def generate(
        self, descriptions: Sequence[str | None], progress: bool = False, return_tokens: bool = False
    ) -> Made:
        return self._made(descriptions, progress, return_tokens)

    def generate_continuation(
        self,
        prompt: Tensor,
        prompt_sample_rate: int,
        descriptions: Sequence[str | None] | None = None,
        progress: bool = False,
        return_tokens: bool = False,
    ) -> Made:
        """prompt [B, C, L], or [C, L] of a single item."""
        prompt = prompt[None] if prompt.dim() == 2 else prompt
        texts = [None] * len(prompt) if descriptions is None else descriptions
        return self._made(
            texts, progress, return_tokens, prompt=prompt, prompt_sample_rate=prompt_sample_rate
        )

    @torch.no_grad()
    def generate_audio(self, gen_tokens: Tensor) -> Tensor:
        """Audio [B, C, L] of codes [B, K, T]."""
        return self.compression_model.decode(gen_tokens).float()

    def _made(
        self, descriptions: Sequence[str | None], progress: bool, return_tokens: bool, **what: Any
    ) -> Made:
        if self.duration > self.max_duration and self.extend_stride is not None:
            what["extend_stride"] = self.extend_stride
        tokens = self.model.generate_tokens(
            descriptions,
            # Cut to whole frames as there, whatever binary fractions make of the product.
            duration=int(self.duration * self.frame_rate) / self.frame_rate,
            generator=global_generator(self.device),
            progress=(self._progress_callback or _print_progress) if progress else None,
            **self.generation_params,
            **what,
        )
        audio = self.generate_audio(tokens)
        return (audio, tokens) if return_tokens else audio


class MusicGen(_Model):
    """Text, melody and style to music."""

    kind = TextToAudio

    def __init__(
        self, name: str, compression_model: Codec, lm: TokenLM, max_duration: float | None = None
    ) -> None:
        super().__init__(name, compression_model, lm, max_duration)
        self.set_generation_params(duration=15)

    @classmethod
    def get_pretrained(
        cls, name: str = "facebook/musicgen-melody", device: torch.device | str | None = None, **options: Any
    ) -> Self:
        """The model that `load` finds under this name or path, with the options of `load`."""
        return cls._load(name, device, options)

    def set_generation_params(
        self,
        use_sampling: bool = True,
        top_k: int = 250,
        top_p: float = 0.0,
        temperature: float = 1.0,
        duration: float = 30.0,
        cfg_coef: float = 3.0,
        cfg_coef_beta: float | None = None,
        two_step_cfg: bool = False,
        extend_stride: float = 18,
    ) -> None:
        """How, and how much (s), is made next; beyond `max_duration` in windows `extend_stride` s apart."""
        self.duration, self.extend_stride = duration, extend_stride
        self.generation_params = {
            "use_sampling": use_sampling,
            "top_k": top_k,
            "top_p": top_p,
            "temperature": temperature,
            # There, two steps are guided by the model's own coefficient, whatever the call says.
            "cfg_coef": self.model.defaults.cfg_coef if two_step_cfg else cfg_coef,
            "cfg_coef_beta": cfg_coef_beta,
            "two_step_cfg": two_step_cfg,
        }

    def set_style_conditioner_params(
        self,
        eval_q: int = 3,
        excerpt_length: float = 3.0,
        ds_factor: int | None = None,
        encodec_n_q: int | None = None,
    ) -> None:
        """How much of a style counts: levels of its codes, s of audio; every so many-th vector; codebooks heard."""
        style = self.lm.conditioning.conditioners["style"] if "style" in self.model.takes else None
        if not isinstance(style, StyleConditioner):
            raise ValueError(
                f"{self.name} takes no style; it takes {', '.join(self.model.takes) or 'nothing'}"
            )
        style.configure(levels=eval_q, excerpt=excerpt_length)
        if ds_factor is not None:
            style.downsampling = ds_factor
        if encodec_n_q is not None:
            style.features.num_codebooks = encodec_n_q  # type: ignore[assignment]

    def generate_with_chroma(
        self,
        descriptions: Sequence[str | None],
        melody_wavs: Tensor | Sequence[Tensor | None],
        melody_sample_rate: int,
        progress: bool = False,
        return_tokens: bool = False,
    ) -> Made:
        """melody_wavs: [B, C, L], [C, L] of a single item, or [C, L] or None for each; the style of a style model."""
        name = "style" if "style" in self.model.takes else "melody"
        waveforms = {name: melody_wavs, f"{name}_sample_rate": melody_sample_rate}
        return self._made(descriptions, progress, return_tokens, **waveforms)


class AudioGen(_Model):
    """Text to sound."""

    kind = TextToAudio

    def __init__(
        self, name: str, compression_model: Codec, lm: TokenLM, max_duration: float | None = None
    ) -> None:
        super().__init__(name, compression_model, lm, max_duration)
        self.set_generation_params(duration=5)

    @classmethod
    def get_pretrained(
        cls, name: str = "facebook/audiogen-medium", device: torch.device | str | None = None, **options: Any
    ) -> Self:
        """The model that `load` finds under this name or path, with the options of `load`."""
        return cls._load(name, device, options)

    def set_generation_params(
        self,
        use_sampling: bool = True,
        top_k: int = 250,
        top_p: float = 0.0,
        temperature: float = 1.0,
        duration: float = 10.0,
        cfg_coef: float = 3.0,
        two_step_cfg: bool = False,
        extend_stride: float = 2,
    ) -> None:
        """As for `MusicGen`."""
        self.duration, self.extend_stride = duration, extend_stride
        self.generation_params = {
            "use_sampling": use_sampling,
            "top_k": top_k,
            "top_p": top_p,
            "temperature": temperature,
            "cfg_coef": self.model.defaults.cfg_coef if two_step_cfg else cfg_coef,
            "two_step_cfg": two_step_cfg,
        }


class MAGNeT(_Model):
    """Text to music or sound, all frames at once; always as long as the clips that the model was trained on."""

    kind = MaskedTextToAudio

    def __init__(
        self, name: str, compression_model: Codec, lm: TokenLM, max_duration: float | None = None
    ) -> None:
        super().__init__(name, compression_model, lm, max_duration)
        self.duration = self.max_duration
        self.set_generation_params()

    @classmethod
    def get_pretrained(
        cls,
        name: str = "facebook/magnet-small-10secs",
        device: torch.device | str | None = None,
        **options: Any,
    ) -> Self:
        """The model that `load` finds under this name or path, with the options of `load`."""
        return cls._load(name, device, options)

    def set_generation_params(
        self,
        use_sampling: bool = True,
        top_k: int = 0,
        top_p: float = 0.9,
        temperature: float = 3.0,
        max_cfg_coef: float = 10.0,
        min_cfg_coef: float = 1.0,
        decoding_steps: Sequence[int] = (20, 10, 10, 10),
        span_arrangement: str = "nonoverlap",
    ) -> None:
        """How codes are decoded: the settings of the music models, for whichever model, as there."""
        self.generation_params = {
            "use_sampling": use_sampling,
            "top_k": top_k,
            "top_p": top_p,
            "temperature": temperature,
            "max_cfg_coef": max_cfg_coef,
            "min_cfg_coef": min_cfg_coef,
            "decoding_steps": [int(steps) for steps in decoding_steps],
            "span_arrangement": span_arrangement,
        }


def global_generator(device: torch.device) -> torch.Generator:
    """What `torch.manual_seed` seeds on this device."""
    if device.type == "cuda":
        torch.cuda.init()
        return torch.cuda.default_generators[device.index or 0]
    return torch.default_generator


def _print_progress(done: int, total: int) -> None:
    print(f"{done: 6d} / {total: 6d}", end="\r", flush=True)
