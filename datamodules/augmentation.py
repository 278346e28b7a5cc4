"""The training augmentation of the EnCodec paper (section 4.1): mixtures of clips, gain, reverberation.

All are transforms of samples: what they draw is a function of the seed and the place in the stream, other clips of
the stream included, so that a resumed run, and one on more ranks, hears the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.signal import fftconvolve

from datamodules.transforms import Sample, Transform
from lightning_audio import audio

# Below this root mean square (-80 dBFS) a clip is silence, which has no level to bring to another.
SILENCE = 1e-4


class Strategy:
    """One way to make a sample: the sum of `num_sources` clips.

    probability: of this way, relative to the others.
    only: attributes that each of its clips must have, such as {kind: music}.
    never: attributes of which none of its clips may have all.
    """

    def __init__(
        self,
        *,
        probability: float,
        num_sources: int = 1,
        only: Mapping[str, Any] | None = None,
        never: Mapping[str, Any] | None = None,
    ) -> None:
        if probability < 0 or num_sources < 1:
            raise ValueError(
                f"want probability >= 0 and num_sources >= 1, got {probability} and {num_sources}"
            )
        self.probability, self.num_sources = probability, num_sources
        self.only, self.never = dict(only or {}), dict(never or {})

    def takes(self, attributes: Mapping[str, Any]) -> bool:
        """Whether a clip of these attributes may be in it."""
        return has_all(attributes, self.only) and not (self.never and has_all(attributes, self.never))


class MixSources:
    """A sample is a clip or the sum of several, by a strategy drawn for it.

    The stream's own clip is the first source where the strategy takes it; otherwise, and for the further sources,
    others are drawn from the stream. So the strategies come in their proportions whatever the stream is made of.
    The attribute `num_sources` says how many there were; the other attributes are those of the first.

    each: transforms of each source before the sum, such as `Normalize` and `Gain`.
    """

    def __init__(self, *, strategies: Sequence[Strategy], each: Sequence[Transform] = ()) -> None:
        total = sum(strategy.probability for strategy in strategies)
        if not total > 0:
            raise ValueError(
                f"the probabilities of {len(strategies)} strategies sum up to {total}, want more than 0"
            )
        self.strategies = list(strategies)
        self.probabilities = np.array([strategy.probability for strategy in strategies]) / total
        self.each = list(each)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        strategy = self.strategies[rng.choice(len(self.strategies), p=self.probabilities)]
        sources: list[Sample] = [sample] if strategy.takes(sample.attributes) else []
        while len(sources) < strategy.num_sources:
            taken = {source.key for source in sources}
            sources.append(
                other(sample, rng, lambda key, about, taken=taken: key not in taken and strategy.takes(about))
            )
        for transform in self.each:
            sources = [transform(source, rng) for source in sources]
        attributes = {**sources[0].attributes, "num_sources": len(sources)}
        mixed = add([waveform(source) for source in sources])
        return replace(sources[0], attributes=attributes, wav=mixed, another=sample.another)


class Normalize:
    """Brings a clip to a level: its root mean square is `level` dBFS. Silence stays as it is.

    The paper normalises each file and says neither how nor to what; -20 dBFS leaves the loudest 6 dB of gain some
    room before speech clips.
    """

    def __init__(self, *, level: float = -20.0) -> None:
        self.level = level

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        wav = waveform(sample)
        loudness = rms(wav)
        if loudness < SILENCE:
            return sample
        return replace(sample, wav=wav * np.float32(10 ** (self.level / 20) / loudness))


class Gain:
    """A gain drawn evenly in [low, high] (dB), into clipping if it must: `Unclipped` looks after that."""

    def __init__(self, *, low: float = -10.0, high: float = 6.0) -> None:
        if low > high:
            raise ValueError(f"gain needs low <= high, got {low} dB and {high} dB")
        self.low, self.high = low, high

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return replace(
            sample, wav=waveform(sample) * np.float32(10 ** (rng.uniform(self.low, self.high) / 20))
        )


class Unclipped:
    """The outcome of other transforms where it stays within full scale; otherwise the clip is dropped.

    Another clip of the stream then goes through the transforms in its place, up to `tries` times. It is no bad
    sample: nothing is wrong with the clip, so nothing is put into quarantine.
    """

    def __init__(self, *, transforms: Sequence[Transform], tries: int = 32) -> None:
        self.transforms = list(transforms)
        self.tries = tries

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        candidate = sample
        for _ in range(self.tries):
            outcome = candidate
            for transform in self.transforms:
                outcome = transform(outcome, rng)
            if np.abs(waveform(outcome)).max(initial=0.0) <= 1.0:
                return outcome
            candidate = replace(other(sample, rng), another=sample.another)
        raise ValueError(
            f"{self.tries} clips in a row go over full scale: a lower level or less gain is needed"
        )


class Reverb:
    """Puts a clip into a room, with probability p: its convolution with an impulse response.

    impulse_responses: a folder of audio files, one response each (of several channels the first), such as those of
        the DNS challenge; only responses as reverberant as wanted (the paper: RT60 of 0.3 to 1.3 s) belong there.
    sample_rate: Hz, of the clips; responses of another rate are resampled.
    never: attributes of the samples that stay dry. The paper's are music alone: {kind: music, num_sources: 1}.

    The direct sound stays where it was, and the level as it was, unless it would go over full scale.
    """

    def __init__(
        self,
        *,
        impulse_responses: str | Path,
        sample_rate: int,
        p: float = 0.2,
        never: Mapping[str, Any] | None = None,
    ) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"p must be in [0, 1], got {p}")
        self.files = sorted(
            path for path in Path(impulse_responses).rglob("*") if path.suffix.lower() in audio.SUFFIXES
        )
        if not self.files:
            raise FileNotFoundError(f"there is no impulse response in {impulse_responses}")
        self.sample_rate, self.p, self.never = sample_rate, p, dict(never or {})
        self._responses: dict[Path, np.ndarray] = {}

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        dry_kind = bool(self.never) and has_all(sample.attributes, self.never)
        if rng.random() >= self.p or dry_kind:
            return sample
        dry = waveform(sample)
        response = self._response(self.files[rng.integers(len(self.files))])
        wet = fftconvolve(dry, response[None], axes=1)[:, : dry.shape[1]]
        scale = rms(dry) / max(rms(wet), SILENCE)
        scale = min(scale, 1.0 / max(np.abs(wet).max(initial=0.0), SILENCE))
        return replace(sample, wav=(wet * scale).astype(np.float32))

    def _response(self, file: Path) -> np.ndarray:
        """[L] from the direct sound on."""
        if file not in self._responses:
            wav, rate = audio.read(file)
            response = audio.resample(wav[:1], rate, self.sample_rate)[0]
            if not torch.isfinite(response).all() or not response.any():
                raise ValueError(f"the impulse response {file} is silent, or has NaN")
            self._responses[file] = response[int(response.abs().argmax()) :].numpy()
        return self._responses[file]


def has_all(attributes: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether the attributes have all the wanted values."""
    return all(name in attributes and attributes[name] == value for name, value in wanted.items())


def waveform(sample: Sample) -> np.ndarray:
    """[C, L]; ValueError where there are only codes, which nothing can be added to."""
    if sample.wav is None:
        raise ValueError("is codes: mixing and the like need shards of audio")
    return sample.wav


def other(sample: Sample, rng: np.random.Generator, accept: Any = None) -> Sample:
    """Another clip of the sample's stream."""
    if sample.another is None:
        raise ValueError("comes from a stream that gives no other clips to mix it with")
    return sample.another(rng, accept)


def rms(wav: np.ndarray) -> float:
    """Root mean square over channels and samples."""
    return float(np.sqrt(np.mean(np.square(wav, dtype=np.float64)))) if wav.size else 0.0


def add(wavs: Sequence[np.ndarray]) -> np.ndarray:
    """Their sum [C, L], L of the longest."""
    total = np.zeros((wavs[0].shape[0], max(wav.shape[1] for wav in wavs)), np.float32)
    for wav in wavs:
        total[:, : wav.shape[1]] += wav
    return total
