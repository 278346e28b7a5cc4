"""What frozen encoders make of a clip ahead of training: text by T5, audio by CLAP, a melody's chroma.

They are kept as float16, half the bytes of float32: its steps are eight times finer than those of the bfloat16 that
models train in, and what is beyond its range is refused. float32 keeps them as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lightning_audio import audio
from lightning_audio.conditioning.augmentation import as_text
from lightning_audio.conditioning.base import Conditioner, WavCondition
from lightning_audio.conditioning.chroma import ChromaConditioner
from lightning_audio.conditioning.clap import ClapConditioner
from lightning_audio.conditioning.separation import Separator
from lightning_audio.conditioning.text import T5Conditioner
from lightning_audio.hashing import weights_hash
from sharding.encoding.clips import Heard
from sharding.schema import FeatureInfo

_DTYPES = {"float16": "<f2", "float32": "<f4"}
# Windows of one clip that CLAP hears at once.
_WINDOWS = 16


class Feature(Protocol):
    """One frozen encoder and the part that it makes: `<name>.npy`.  hears: it wants audio."""

    name: str
    hears: bool
    info: FeatureInfo

    def __call__(
        self, attributes: Mapping[str, Any], heard: Heard | None, device: torch.device
    ) -> list[Tensor | None]:
        """[S, D] of a clip, of each of its texts where `info.per_text`; None where there is nothing.

        A clip is encoded by itself: what comes out does not depend on its neighbours.
        """


class TextFeature:
    """The hidden states of T5 for each description of a clip: the valid steps, without padding."""

    hears = False

    def __init__(
        self,
        encoder: T5Conditioner,
        *,
        name: str = "t5",
        attribute: str = "description",
        dtype: str = "float16",
    ) -> None:
        self.name, self._encoder = name, encoder.eval()
        self.info = FeatureInfo(
            attribute=attribute,
            encoder=encoder.name,
            encoder_hash=encoder.encoder_hash,
            dim=encoder.dim,
            dtype=_dtype(dtype),
            per_text=True,
        )

    def __call__(
        self, attributes: Mapping[str, Any], heard: Heard | None, device: torch.device
    ) -> list[Tensor | None]:
        value = attributes.get(self.info.attribute)
        texts = value if isinstance(value, list) and value else [value]
        return [_encoded(self._encoder, text, device) if (text := as_text(item)) else None for item in texts]


class ChromaFeature:
    """The chroma of a clip's melody, or of its own audio where it has no melody apart."""

    hears = True

    def __init__(
        self,
        *,
        sample_rate: int,
        radix2_exp: int = 14,
        separator: Separator | None = None,
        name: str = "chroma",
        attribute: str = "melody",
        dtype: str = "float16",
    ) -> None:
        """sample_rate (Hz), radix2_exp, separator: as of the `ChromaConditioner` that is to take it."""
        self.name = name
        self._encoder = ChromaConditioner(
            sample_rate=sample_rate, radix2_exp=radix2_exp, separator=separator
        ).eval()
        hop_length = self._encoder.chromagram.hop_length
        about = f"the strongest of 12 classes, window {2**radix2_exp}, step {hop_length} at {sample_rate} Hz"
        about += "" if separator is None else f", of what {type(separator).__name__} leaves"
        self.info = FeatureInfo(
            attribute=attribute,
            encoder=f"chroma: {about}",
            encoder_hash=hashlib.sha256(about.encode()).hexdigest(),
            dim=self._encoder.dim,
            dtype=_dtype(dtype),
            frame_rate=sample_rate / hop_length,
        )

    def __call__(
        self, attributes: Mapping[str, Any], heard: Heard | None, device: torch.device
    ) -> list[Tensor | None]:
        assert heard is not None
        return [_encoded(self._encoder, WavCondition(*heard), device)]


class ClapFeature:
    """CLAP's vector of each window of a clip; whoever wants one of the clip takes their mean, as `ClapConditioner`."""

    hears = True

    def __init__(
        self,
        encoder: ClapConditioner,
        *,
        name: str = "clap",
        attribute: str = "description",
        dtype: str = "float16",
    ) -> None:
        if encoder.quantizer is not None:
            raise ValueError("CLAP is kept as it is: give a ClapConditioner without a quantizer")
        self.name, self._encoder = name, encoder.eval()
        self.info = FeatureInfo(
            attribute=attribute,
            encoder=encoder.name,
            encoder_hash=weights_hash(encoder.clap),
            dim=encoder.dim,
            dtype=_dtype(dtype),
            frame_rate=encoder.sample_rate / encoder.stride,
            window=encoder.window / encoder.sample_rate,
        )

    def __call__(
        self, attributes: Mapping[str, Any], heard: Heard | None, device: torch.device
    ) -> list[Tensor | None]:
        assert heard is not None
        rate, size = self._encoder.sample_rate, self._encoder.window
        wav = audio.convert(heard.wav.cpu().float(), heard.sample_rate, rate, 1)
        windows = (
            [wav] if wav.shape[-1] < size else list(wav.unfold(-1, size, self._encoder.stride)[0][:, None])
        )
        rows = [
            _condition(self._encoder, [WavCondition(w, rate) for w in windows[i : i + _WINDOWS]], device)[0][
                :, 0
            ]
            for i in range(0, len(windows), _WINDOWS)
        ]
        return [torch.cat(rows)]


def to_array(vectors: Tensor, dtype: str) -> np.ndarray:
    """[S, D] as it is kept; ValueError for what `dtype` ("<f2", "<f4") cannot hold."""
    values = vectors.detach().float().cpu().numpy()
    largest, limit = float(np.abs(values).max(initial=0.0)), float(np.finfo(dtype).max)
    if not largest <= limit:
        raise ValueError(f"a feature is {largest:g}, float16 holds up to {limit:g}: keep it as float32")
    return values.astype(dtype)


def _dtype(name: str) -> str:
    if name not in _DTYPES:
        raise ValueError(f"features are kept as {' or '.join(_DTYPES)}, not {name!r}")
    return _DTYPES[name]


def _encoded(encoder: Conditioner, value: Any, device: torch.device) -> Tensor | None:
    """The valid steps [S, D] of one value."""
    embedding, mask = _condition(encoder, [value], device)
    return embedding[0, mask[0]] if mask.any() else None


def _condition(encoder: Conditioner, values: list[Any], device: torch.device) -> tuple[Tensor, Tensor]:
    """embedding [B, S, D], mask [B, S]"""
    prepared = {name: tensor.to(device) for name, tensor in encoder.prepare(values).items()}
    condition = encoder(prepared)
    return condition.embedding, condition.mask
