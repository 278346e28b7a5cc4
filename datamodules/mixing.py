"""The mixing augmentation of AudioGen (section 3.3): two clips over one another, and both captions.

`MixSounds` is the one to use. `AudioCraftMixing` is AudioCraft's, number for number, for who wants to repeat its
trainings; docs/mixing.md says in what they differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from datamodules.augmentation import SILENCE, other, rms, waveform
from datamodules.transforms import Sample
from lightning_audio.batch import Attributes, AudioBatch

EPSILON = torch.finfo(torch.float32).eps


class MixSounds:
    """A clip over which, with probability p, another one lies.

    The other is drawn from the whole stream by the place of the first in it: never the clip itself, and the same on 1
    or 64 GPUs and after a resume. Level difference, start and loudness are drawn for each pair, evenly.

    snr_low, snr_high: dB, of the first clip over the second.
    min_overlap: the second starts no later than this share before the end of the first; what goes beyond is cut.
    level_low, level_high: dBFS, root mean square of the mixture.   peak: which it does not exceed.
    """

    def __init__(
        self,
        *,
        p: float = 0.5,
        snr_low: float = -5.0,
        snr_high: float = 5.0,
        min_overlap: float = 0.5,
        level_low: float = -35.0,
        level_high: float = -15.0,
        peak: float = 0.99,
    ) -> None:
        _check(p=p, min_overlap=min_overlap, snr=(snr_low, snr_high))
        if level_low > level_high:
            raise ValueError(f"want level_low <= level_high, got {level_low} dBFS and {level_high} dBFS")
        self.p, self.min_overlap, self.peak = p, min_overlap, peak
        self.snr, self.level = (snr_low, snr_high), (level_low, level_high)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.p:
            return sample
        second = other(sample, rng)
        snr, level = rng.uniform(*self.snr), rng.uniform(*self.level)
        under, over = waveform(sample), waveform(second)
        start = int(rng.integers(int(under.shape[1] * (1 - self.min_overlap)) + 1))
        loudness = rms(under), rms(over)
        if min(loudness) < SILENCE:  # between a sound and silence there is no level difference
            return sample
        over = over[:, : under.shape[1] - start] * np.float32(loudness[0] / loudness[1] / 10 ** (snr / 20))
        mixed = under.copy()
        mixed[:, start : start + over.shape[1]] += over
        scale = 10 ** (level / 20) / max(rms(mixed), SILENCE)
        scale = min(scale, self.peak / max(float(np.abs(mixed).max()), SILENCE))
        attributes = {**sample.attributes, **joined_captions(sample.attributes, second.attributes)}
        return replace(sample, wav=mixed * np.float32(scale), attributes=attributes)


@dataclass(frozen=True)
class Draws:
    """What AudioCraft draws for a batch.

    sources, targets: which clips lie under and over, [k] each; targets is None where nothing is mixed.
    snr: dB.   start: sample at which the upper ones begin.   level: dBFS, of the mixtures.
    """

    sources: Tensor
    targets: Tensor | None = None
    snr: int = 0
    start: int = 0
    level: int = 0


class AudioCraftMixing:
    """AudioCraft's mixing of a batch with itself (its `sound_dataset.py`), mono only.

    A batch of B clips becomes one of int(share * B): with probability p of mixtures, else of clips left as they
    are. For a training batch of 128, the loader's is 256. One level difference, start and loudness serves the
    batch; a clip may be mixed with itself, or be in several mixtures. Each rank mixes what it sees, so the
    mixtures depend on the number of ranks.

    snr_low, snr_high: dB, whole numbers, snr_high exclusive.   min_overlap: as in `MixSounds`.
    """

    levels = (-35, -15)  # dBFS, the second exclusive

    def __init__(
        self,
        *,
        p: float = 0.5,
        share: float = 0.5,
        snr_low: int = -5,
        snr_high: int = 5,
        min_overlap: float = 0.5,
    ) -> None:
        _check(p=p, min_overlap=min_overlap, snr=(snr_low, snr_high))
        if not 0 < share <= 1:
            raise ValueError(f"share must be in (0, 1], got {share}")
        self.p, self.share, self.min_overlap = p, share, min_overlap
        self.snr_low, self.snr_high = snr_low, snr_high

    def __call__(self, batch: AudioBatch, rng: np.random.Generator) -> AudioBatch:
        return self.mix(batch, self.draw(batch, rng))

    def draw(self, batch: AudioBatch, rng: np.random.Generator) -> Draws:
        """What the batch is to become."""
        size, number = len(batch), int(self.share * len(batch))
        if number < 1:
            raise ValueError(f"a share of {self.share} of a batch of {size} on this rank is no clip")
        mixes = rng.random() < self.p
        sources = torch.from_numpy(rng.permutation(size)[:number])
        if not mixes:
            return Draws(sources)
        return Draws(
            sources,
            targets=torch.from_numpy(rng.permutation(size)[:number]),
            snr=self.snr_low
            if self.snr_low == self.snr_high
            else int(rng.integers(self.snr_low, self.snr_high)),
            start=int(rng.integers(int(_mono(batch).shape[1] * (1 - self.min_overlap)) + 1)),
            level=int(rng.integers(*self.levels)),
        )

    def mix(self, batch: AudioBatch, draws: Draws) -> AudioBatch:
        """The batch that the draws make of it; as in AudioCraft where these are AudioCraft's."""
        wav = _mono(batch)
        under = wav[draws.sources]
        keys = [batch.keys[i] for i in draws.sources.tolist()]
        attributes: list[Attributes] = [batch.attributes[i] for i in draws.sources.tolist()]
        if draws.targets is not None:
            under = _mixed(under, wav[draws.targets], draws)
            others = draws.targets.tolist()
            keys = [f"{key}+{batch.keys[j]}" for key, j in zip(keys, others, strict=True)]
            attributes = [
                {**about, **joined_captions(about, batch.attributes[j])}
                for about, j in zip(attributes, others, strict=True)
            ]
        return replace(
            batch,
            keys=keys,
            attributes=attributes,
            wav=under[:, None],
            num_samples=None if batch.num_samples is None else batch.num_samples[draws.sources],
            conditions={name: value[draws.sources] for name, value in batch.conditions.items()},
            condition_samples={name: n[draws.sources] for name, n in batch.condition_samples.items()},
            features={},  # made ahead of clips by themselves
            feature_steps={},
        )


def joined_captions(first: Attributes, second: Attributes) -> dict[str, str]:
    """The description of both clips together: the second's after the first's, unless they are the same."""
    captions = [text for text in (first.get("description"), second.get("description")) if text]
    return {"description": " ".join(dict.fromkeys(captions))} if captions else {}


def _mixed(under: Tensor, over: Tensor, draws: Draws) -> Tensor:
    """[k, L] of clips that lie under and over. Its levels are those of AudioCraft, its oddities too: a clip is
    brought to its largest positive value before its level, and held back only where that exceeds full scale.
    """
    under, over = _at_level(under, -25), _at_level(over, -25)
    over = over * (_rms(under) / 10 ** (draws.snr / 20) / (_rms(over) + EPSILON))[:, None]
    mixed = under.clone()
    mixed[:, draws.start :] += over[:, : under.shape[1] - draws.start]
    mixed = mixed * (10 ** (draws.level / 20) / (_rms(mixed) + EPSILON))[:, None]
    loud = (mixed.abs() > 0.99).any(1)
    mixed[loud] = mixed[loud] / (mixed[loud].amax(1).abs()[:, None] / (0.99 - EPSILON))
    return mixed


def _at_level(wav: Tensor, level: int) -> Tensor:
    """[k, L] at a root mean square of `level` dBFS."""
    wav = wav / (wav.amax(1).abs()[:, None] + EPSILON)
    return wav * (10 ** (level / 20) / (_rms(wav) + EPSILON))[:, None]


def _rms(wav: Tensor) -> Tensor:
    return wav.square().mean(1).sqrt()


def _mono(batch: AudioBatch) -> Tensor:
    """[B, L]"""
    if batch.wav is None:
        raise ValueError("mixing needs audio; the batch holds codes")
    if batch.wav.shape[1] != 1:
        raise ValueError(f"AudioCraft's mixing is of mono clips, the batch has {batch.wav.shape[1]} channels")
    return batch.wav[:, 0]


def _check(*, p: float, min_overlap: float, snr: Sequence[float]) -> None:
    if not 0 <= p <= 1 or not 0 <= min_overlap <= 1:
        raise ValueError(f"p and min_overlap must be in [0, 1], got {p} and {min_overlap}")
    if snr[0] > snr[1]:
        raise ValueError(f"want snr_low <= snr_high, got {snr[0]} dB and {snr[1]} dB")
