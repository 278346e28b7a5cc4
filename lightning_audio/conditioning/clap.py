"""A joint embedding of audio and text as a condition: learnt from audio without captions, steered by text.

CLAP (arXiv 2211.06687) gives a sound and a text that describes it nearly the same vector. In training the vector
is that of the clip's own audio, in use that of a text; a residual quantiser between lets through little more than
what the two share.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_audio.audio import convert
from lightning_audio.conditioning.augmentation import as_text
from lightning_audio.conditioning.base import Condition, Conditioner, Precomputed, WavCondition
from lightning_audio.conditioning.bottleneck import Quantizer, squeeze


class ClapConditioner(Conditioner):
    """One vector of an audio, of a text, or of both as training has it.

    A value is a text, a `WavCondition`, a pair (text, `WavCondition`), or `Precomputed` [1, dim] (or [N, dim] of
    N windows, whose mean counts). Of a pair the audio counts in training, and the text with probability `text_p`
    of a batch; outside of training the text, and the audio where there is none.

    path: local folder of a CLAP in the form of transformers, or None for its cache and hub under `name`.
    dim: of its embedding.   sample_rate: Hz, of its audio.
    quantizer: residual codebooks, or None.   normalize: to length 1.
    window, stride: s; of longer audio the mean over windows counts, of shorter audio itself.
    droppable: False is AudioCraft's way, whose guidance never takes a joint embedding away: it then has nothing
        to guide by.

    CLAP is no submodule and in no checkpoint, as T5 in `T5Conditioner`.
    """

    rank: ClassVar[int] = 2

    def __init__(
        self,
        *,
        quantizer: Quantizer | None,
        dim: int = 512,
        name: str = "laion/larger_clap_music",
        path: str | None = None,
        sample_rate: int = 48_000,
        window: float = 10.0,
        stride: float = 1.0,
        normalize: bool = True,
        text_p: float = 0.0,
        droppable: bool = True,
    ) -> None:
        super().__init__()
        if not 0 <= text_p <= 1 or not window > 0 or not stride > 0:
            raise ValueError(
                f"want text_p in [0, 1], window and stride above 0 s; got {text_p}, {window}, {stride}"
            )
        self.dim, self.quantizer, self.droppable = dim, quantizer, droppable
        self.name, self.path = name, path
        self.sample_rate, self.normalize, self.text_p = sample_rate, normalize, text_p
        self.window, self.stride = int(window * sample_rate), int(stride * sample_rate)
        self._clap: list[nn.Module] = []  # in a list, so that it is not registered as a submodule
        self._processor: Any = None

    def prepare(self, values: Sequence[Any], *, rng: random.Random | None = None) -> dict[str, Tensor]:
        """mask [B]; given [B, dim] where it is True: what is known already, zero where CLAP is to say it.

        Of the rest, ids, ids_mask [N, S] with text_rows [N]; features [M, ...] of windows with wav_rows [M], the
        row of each. seed [1], in training: of the quantiser's draws.
        """
        draw: Any = random if rng is None else rng
        by_text = draw.random() < self.text_p or not self.training
        chosen = [_chosen(value, by_text) for value in values]
        prepared = {
            "mask": torch.tensor([value is not None for value in chosen]),
            "given": self._given(chosen),
        }
        if texts := [(row, value) for row, value in enumerate(chosen) if isinstance(value, str)]:
            tokens = self.processor.tokenizer(
                [text for _, text in texts],
                padding="max_length",
                truncation=True,
                max_length=77,
                return_tensors="pt",
            )
            prepared |= {"ids": tokens["input_ids"], "ids_mask": tokens["attention_mask"]}
            prepared["text_rows"] = torch.tensor([row for row, _ in texts])
        windows = [
            (row, window)
            for row, value in enumerate(chosen)
            if isinstance(value, WavCondition)
            for window in self._windows(value)
        ]
        if windows:
            heard = self.processor.feature_extractor(
                [window.numpy() for _, window in windows],
                sampling_rate=self.sample_rate,
                return_tensors="pt",
            )
            prepared["features"] = heard["input_features"]
            prepared["wav_rows"] = torch.tensor([row for row, _ in windows])
        if self.training and rng is not None:
            prepared["seed"] = torch.tensor([rng.getrandbits(62)])
        return prepared

    def _given(self, values: Sequence[Any]) -> Tensor:
        given = torch.zeros(len(values), self.dim)
        for row, value in zip(given, values, strict=True):
            if isinstance(value, Precomputed):
                if value.embedding.shape[1] != self.dim:
                    raise ValueError(
                        f"a precomputed embedding is {value.embedding.shape[1]} wide, the model's {self.dim}"
                    )
                row.copy_(value.embedding.float().mean(dim=0))
        return given

    def _windows(self, value: WavCondition) -> list[Tensor]:
        """[L] each, mono at CLAP's rate."""
        wav = convert(value.wav.cpu().float(), value.sample_rate, self.sample_rate, 1)[0]
        if wav.shape[-1] < self.window:
            return [wav]
        return list(wav.unfold(-1, self.window, self.stride))

    def forward(self, prepared: dict[str, Tensor]) -> Condition:
        mask = prepared["mask"]
        x = self._embedding(prepared)[:, None]  # [B, 1, D]
        rows = mask.nonzero()[:, 0]
        if self.quantizer is not None and len(rows):
            generator = None
            if "seed" in prepared:
                generator = torch.Generator().manual_seed(int(prepared["seed"]))
            # Each item is a clip of one step; codebooks learn from those that have something to say.
            quantized = squeeze(x[rows].transpose(0, 1), self.quantizer, generator=generator)
            x = x.index_copy(0, rows, quantized.transpose(0, 1).to(x.dtype))
        return Condition(x, mask[:, None])

    @torch.no_grad()
    def _embedding(self, prepared: dict[str, Tensor]) -> Tensor:
        """[B, D], of length 1 where `normalize`."""
        x = prepared["given"].clone()
        with torch.autocast(x.device.type, enabled=False):
            if "ids" in prepared:
                tokens = {"input_ids": prepared["ids"], "attention_mask": prepared["ids_mask"]}
                said = self._on(x.device).get_text_features(**tokens)
                x[prepared["text_rows"]] = _vectors(said)
            if "features" in prepared:
                heard = _vectors(self._on(x.device).get_audio_features(input_features=prepared["features"]))
                rows = prepared["wav_rows"]
                counts = torch.zeros(len(x), 1, device=x.device).index_add_(
                    0, rows, heard.new_ones(len(rows), 1)
                )
                x = x.index_add(0, rows, heard / counts[rows])
        return F.normalize(x, dim=-1) if self.normalize else x

    def _on(self, device: torch.device) -> Any:
        return self.clap.to(device)

    @property
    def clap(self) -> nn.Module:
        """The frozen CLAP, loaded when first asked for."""
        if not self._clap:
            from transformers import ClapModel

            with torch.random.fork_rng(devices=[]):  # loading draws weights, and throws them away
                clap, info = self._load(ClapModel, dtype=torch.float32, output_loading_info=True)
            if absent := sorted(info["missing_keys"]):
                raise ValueError(f"{self._source()} is no CLAP: it lacks {absent[:3]} ({len(absent)} in all)")
            if clap.config.projection_dim != self.dim:
                raise ValueError(
                    f"CLAP in {self._source()} embeds in {clap.config.projection_dim}, the model wants {self.dim}"
                )
            self._clap.append(clap.eval().requires_grad_(False))
        return self._clap[0]

    @property
    def processor(self) -> Any:
        if self._processor is None:
            from transformers import ClapProcessor

            processor = self._load(ClapProcessor)
            rate = processor.feature_extractor.sampling_rate
            if rate != self.sample_rate:
                raise ValueError(
                    f"CLAP in {self._source()} hears {rate} Hz, the model wants {self.sample_rate} Hz"
                )
            self._processor = processor
        return self._processor

    def _load(self, kind: Any, **options: Any) -> Any:
        try:
            return kind.from_pretrained(self._source(), **options)
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"cannot load CLAP from {self._source()!r}: put a folder of it in the form of transformers "
                f"(as {self.name}: config.json, model.safetensors, preprocessor_config.json and a tokeniser) on "
                f"this machine and name it by `path`. transformers says: {error}"
            ) from error

    def _source(self) -> str:
        return self.name if self.path is None else str(Path(self.path).expanduser())

    def __getstate__(self) -> dict[str, Any]:
        """Copies and loader workers load CLAP for themselves, if they need it at all."""
        return {**self.__dict__, "_clap": [], "_processor": None}


def _chosen(value: Any, by_text: bool) -> Any:
    """What counts of a value: a text, a `WavCondition`, `Precomputed`, or None."""
    text, wav = value if isinstance(value, tuple) and len(value) == 2 else (value, None)
    if isinstance(text, WavCondition):
        text, wav = None, text
    if wav is not None and not isinstance(wav, WavCondition):
        raise ValueError(f"a pair for CLAP is (text, WavCondition), got a {type(wav).__name__}")
    if wav is not None and wav.wav.shape[-1] == 0:
        raise ValueError("a waveform for CLAP has at least one sample, got none")
    if isinstance(text, Precomputed):
        return text
    said = as_text(text) or None
    return (said or wav) if by_text else (wav or said)


def _vectors(features: Any) -> Tensor:
    """Newer versions of transformers give an output with the pooled vectors, older ones the vectors."""
    vectors: Tensor = features if isinstance(features, Tensor) else features.pooler_output
    return vectors
