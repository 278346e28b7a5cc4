"""What happens to a sample between shard and batch: crop, gain, choice of caption; and the collating."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch

from lightning_audio.batch import AudioBatch


@dataclass(frozen=True)
class Sample:
    """One clip on its way: wav float32 [C, L] or codes integer [K, T], as it is (not padded yet).

    another: more clips of the same stream, for what is mixed of several; None where the stream gives none.
    """

    key: str
    attributes: dict[str, Any]
    wav: np.ndarray | None = None
    codes: np.ndarray | None = None
    another: Another | None = field(default=None, compare=False, repr=False)


Accept = Callable[[str, dict[str, Any]], bool]
"""Whether a clip of this key and these attributes will do."""


class Another(Protocol):
    def __call__(self, rng: np.random.Generator, accept: Accept | None = None) -> Sample:
        """A segment of another clip, drawn evenly from those that will do, before any transform."""


Transform = Callable[[Sample, np.random.Generator], Sample]
"""Gives a changed sample; all chance comes from the generator, seeded by the place in the stream."""

BatchTransform = Callable[[AudioBatch, np.random.Generator], AudioBatch]
"""Gives a changed batch; all chance comes from the generator, seeded by the places of the batch in the stream."""


def crop_start(rng: np.random.Generator, length: int, segment: int, min_ratio: float) -> int:
    """Where a random segment starts: anywhere that leaves `min_ratio` of it before the clip's end."""
    latest = max(0, int(length - segment * min_ratio))
    return int(rng.integers(latest + 1))


class RandomGain:
    """A gain drawn evenly in [low, high] (dB), with probability p; never beyond full scale."""

    def __init__(self, *, low: float = -6.0, high: float = 6.0, p: float = 1.0) -> None:
        if low > high or not 0 <= p <= 1:
            raise ValueError(f"gain needs low <= high (dB) and p in [0, 1], got {low}, {high} and {p}")
        self.low, self.high, self.p = low, high, p

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if sample.wav is None or rng.random() >= self.p:
            return sample
        gain = 10 ** (rng.uniform(self.low, self.high) / 20)
        peak = float(np.abs(sample.wav).max(initial=0.0))
        gain = min(gain, max(1.0, peak) / peak) if peak > 0 else gain
        return replace(sample, wav=sample.wav * np.float32(gain))


class OneDescription:
    """Of several descriptions of a clip, one, drawn evenly."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        texts = sample.attributes.get("description")
        if not isinstance(texts, list) or not texts:
            return sample
        return replace(
            sample, attributes={**sample.attributes, "description": texts[rng.integers(len(texts))]}
        )


def collate_audio(samples: Sequence[Sample], *, sample_rate: int, num_samples: int | None) -> AudioBatch:
    """A batch with wav [B, C, L], L = num_samples or the longest clip's; zeros after shorter ones."""
    wavs = [sample.wav for sample in samples if sample.wav is not None]
    lengths = [wav.shape[1] for wav in wavs]
    length = max(lengths) if num_samples is None else num_samples
    joined = np.zeros((len(wavs), wavs[0].shape[0], length), np.float32)
    for row, wav in zip(joined, wavs, strict=True):
        row[:, : wav.shape[1]] = wav
    return AudioBatch(
        keys=[sample.key for sample in samples],
        sample_rate=sample_rate,
        attributes=[sample.attributes for sample in samples],
        wav=torch.from_numpy(joined),
        num_samples=torch.tensor(lengths),
    )


def collate_codes(samples: Sequence[Sample], *, sample_rate: int, num_frames: int | None) -> AudioBatch:
    """A batch with codes int64 [B, K, T], T = num_frames or the longest clip's; zeros after shorter ones."""
    codes = [sample.codes for sample in samples if sample.codes is not None]
    lengths = [item.shape[1] for item in codes]
    length = max(lengths) if num_frames is None else num_frames
    joined = np.zeros((len(codes), codes[0].shape[0], length), np.int64)
    for row, item in zip(joined, codes, strict=True):
        row[:, : item.shape[1]] = item
    return AudioBatch(
        keys=[sample.key for sample in samples],
        sample_rate=sample_rate,
        attributes=[sample.attributes for sample in samples],
        codes=torch.from_numpy(joined),
        num_frames=torch.tensor(lengths),
    )
