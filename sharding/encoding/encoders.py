"""Codec and frozen encoders together: clips -> the parts that are written beside them."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sharding.encoding.clips import LoadedClip, Wanted
from sharding.encoding.features import Feature, to_array
from sharding.schema import ATTRIBUTES_PART, CROPS_ATTRIBUTE, CodesInfo, numbered_part


class Codec(Protocol):
    """What is asked of a codec: `lightning_audio.codec.encodec.EnCodec` is one."""

    @property
    def sample_rate(self) -> int: ...

    @property
    def channels(self) -> int: ...

    @property
    def cardinality(self) -> int: ...

    @property
    def frame_rate(self) -> float: ...

    @property
    def num_codebooks(self) -> int: ...

    def encode(self, wav: Tensor) -> Any:
        """[B, C, L] -> an object with .codes [B, K, T] and .scale (None)."""


@dataclass(frozen=True)
class Encoders:
    """What is made of each clip.  codec: None: no codes.  crops: how many codes, see `CodesInfo`."""

    codec: Codec | None
    features: Sequence[Feature] = ()
    crops: int = 1

    def __post_init__(self) -> None:
        names = [feature.name for feature in self.features]
        if self.codec is None and not names:
            raise ValueError("there is nothing to encode with: give a codec, or a feature")
        if len(set(names)) < len(names):
            raise ValueError(f"features must have different names, got {names}")
        if self.codec is None:
            if self.crops != 1:
                raise ValueError(f"{self.crops} crops are of codes, and there is no codec")
            return
        if self.codec.cardinality > 1 << 16:
            raise ValueError(
                f"codes are kept in 16 bits, a codec of cardinality {self.codec.cardinality} needs more"
            )
        hop = self.codec.sample_rate / self.codec.frame_rate
        if self.crops < 1 or (self.crops > 1 and (hop != round(hop) or hop < self.crops)):
            raise ValueError(
                f"crops begin at different samples of a frame: want 1 to {hop:g}, got {self.crops} of {hop:g} samples"
            )

    def codes_info(self, codec_hash: str) -> CodesInfo:
        assert self.codec is not None
        return CodesInfo(
            codec_hash=codec_hash,
            frame_rate=float(self.codec.frame_rate),
            num_codebooks=self.codec.num_codebooks,
            cardinality=self.codec.cardinality,
            crops=self.crops,
        )

    @property
    def wanted(self) -> Wanted:
        """What is to be read of a clip."""
        hearing = {feature.info.attribute for feature in self.features if feature.hears}
        codec = self.codec
        return Wanted(
            audio=codec is not None or bool(hearing),
            sample_rate=None if codec is None else codec.sample_rate,
            channels=None if codec is None else codec.channels,
            conditions=sorted(hearing),
        )

    def __call__(self, clips: Sequence[LoadedClip], device: torch.device) -> dict[int, dict[str, bytes]]:
        """Sample -> parts by name."""
        made: dict[int, dict[str, bytes]] = {clip.sample: {} for clip in clips}
        for number in range(self.crops if self.codec is not None else 0):
            for sample, codes in self._codes(clips, number).items():
                made[sample][numbered_part("codes", number)] = npy_bytes(codes)
        for clip in clips:
            attributes = json.loads(clip.attributes)
            if self.crops > 1:
                offsets = [self._offset(clip, number) for number in range(self.crops)]
                changed = {**attributes, CROPS_ATTRIBUTE: offsets}
                made[clip.sample][ATTRIBUTES_PART] = json.dumps(changed, ensure_ascii=False).encode()
            for feature in self.features:
                heard = clip.conditions.get(feature.info.attribute, clip.audio) if feature.hears else None
                for number, vectors in enumerate(feature(attributes, heard, device)):
                    if vectors is not None:
                        data = npy_bytes(to_array(vectors, feature.info.dtype))
                        made[clip.sample][numbered_part(feature.name, number)] = data
        return made

    def _codes(self, clips: Sequence[LoadedClip], number: int) -> dict[int, np.ndarray]:
        """Sample -> uint16 [K, T] of one crop. Only equal lengths share a batch: no clip is padded for another."""
        assert self.codec is not None
        alike: dict[int, list[tuple[int, Tensor]]] = {}
        for clip in clips:
            assert clip.audio is not None
            wav = clip.audio.wav[:, self._offset(clip, number) :]
            alike.setdefault(wav.shape[-1], []).append((clip.sample, wav))
        found: dict[int, np.ndarray] = {}
        for pairs in alike.values():
            encoded = self.codec.encode(torch.stack([wav for _, wav in pairs]))
            if getattr(encoded, "scale", None) is not None:
                raise ValueError(
                    "this codec scales its input clip by clip; codes alone do not hold that scale"
                )
            codes = encoded.codes.cpu().numpy().astype(np.uint16)
            found |= {sample: row for (sample, _), row in zip(pairs, codes, strict=True)}
        return found

    def _offset(self, clip: LoadedClip, number: int) -> int:
        """At which sample of the clip a crop begins; at the first, where the clip is shorter than a frame."""
        assert self.codec is not None
        assert clip.audio is not None
        offset = crop_offset(clip.key, number, round(self.codec.sample_rate / self.codec.frame_rate))
        return offset if offset < clip.audio.wav.shape[-1] else 0


def crop_offset(key: str, number: int, hop_length: int) -> int:
    """Samples of a frame that crop `number` of a clip leaves out: none of the first, 1 ... hop_length - 1 of others."""
    if number == 0:
        return 0
    digest = hashlib.sha256(f"{key} {number}".encode()).digest()
    return 1 + int.from_bytes(digest[:8], "big") % (hop_length - 1)


def npy_bytes(array: np.ndarray) -> bytes:
    """The bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()
