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

    start: s, where in its clip it begins.
    conditions: waveforms float32 [C, L] by name.   features: what encoders made of it, floats [S, D] by attribute.
    another: more clips of the same stream, for what is mixed of several; None where the stream gives none.
    """

    key: str
    attributes: dict[str, Any]
    wav: np.ndarray | None = None
    codes: np.ndarray | None = None
    start: float = 0.0
    conditions: dict[str, np.ndarray] = field(default_factory=dict)
    features: dict[str, np.ndarray] = field(default_factory=dict)
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


def transformed(sample: Sample, transforms: Sequence[Transform], rng: np.random.Generator) -> Sample:
    """The sample after the transforms. A feature of an attribute that they changed is of something else, and goes."""
    before = sample.attributes
    for transform in transforms:
        sample = transform(sample, rng)
    if sample.features and sample.attributes is not before:
        after = sample.attributes
        kept = {name: made for name, made in sample.features.items() if after.get(name) == before.get(name)}
        sample = replace(sample, features=kept)
    return sample


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


def one_description(attributes: dict[str, Any], rng: np.random.Generator) -> tuple[dict[str, Any], int]:
    """Of several descriptions of a clip, one, drawn evenly; and which."""
    texts = attributes.get("description")
    if not isinstance(texts, list) or not texts:
        return attributes, 0
    chosen = int(rng.integers(len(texts)))
    return {**attributes, "description": texts[chosen]}, chosen


def collate_audio(samples: Sequence[Sample], *, sample_rate: int, num_samples: int | None) -> AudioBatch:
    """A batch with wav [B, C, L], L = num_samples or the longest clip's; zeros after shorter ones."""
    wav, lengths = _padded(
        [sample.wav for sample in samples if sample.wav is not None], num_samples, np.float32
    )
    return _batch(samples, sample_rate=sample_rate, wav=wav, num_samples=lengths)


def collate_codes(samples: Sequence[Sample], *, sample_rate: int, num_frames: int | None) -> AudioBatch:
    """A batch with codes int64 [B, K, T], T = num_frames or the longest clip's; zeros after shorter ones."""
    codes, lengths = _padded(
        [sample.codes for sample in samples if sample.codes is not None], num_frames, np.int64
    )
    return _batch(samples, sample_rate=sample_rate, codes=codes, num_frames=lengths)


def _batch(samples: Sequence[Sample], **values: Any) -> AudioBatch:
    """With the conditions and features that any of the samples has; the others have length 0 there."""
    batch = AudioBatch(
        keys=[sample.key for sample in samples],
        attributes=[sample.attributes for sample in samples],
        **values,
    )
    for name in sorted({name for sample in samples for name in sample.conditions}):
        wavs = [sample.conditions.get(name) for sample in samples]
        batch.conditions[name], batch.condition_samples[name] = _padded(_filled(wavs), None, np.float32)
    for name in sorted({name for sample in samples for name in sample.features}):
        # Steps last, as samples and frames are.
        rows = [None if name not in sample.features else sample.features[name].T for sample in samples]
        vectors, batch.feature_steps[name] = _padded(_filled(rows), None)
        batch.features[name] = vectors.transpose(1, 2)  # [B, S, D]
    return batch


def _filled(rows: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """An array [N, 0] for each None."""
    one = next(row for row in rows if row is not None)
    return [one[:, :0] if row is None else row for row in rows]


def _padded(
    rows: Sequence[np.ndarray], length: int | None, dtype: Any = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Arrays [N, T_b] in one tensor [B, N, T], T = length or the longest's, zeros behind each; and T_b, int64 [B]."""
    lengths = [row.shape[1] for row in rows]
    size = max(lengths) if length is None else length
    joined = np.empty((len(rows), rows[0].shape[0], size), dtype or rows[0].dtype)
    for target, row in zip(joined, rows, strict=True):
        target[:, : row.shape[1]] = row
        if row.shape[1] < size:
            target[:, row.shape[1] :] = 0
    return torch.from_numpy(joined), torch.tensor(lengths)
