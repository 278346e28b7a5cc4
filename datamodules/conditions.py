"""What steers a clip beside its attributes: named waveforms, and what frozen encoders made of it ahead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from datamodules.shards import ShardReader
from lightning_audio.audio import convert, open_audio, read_samples
from sharding.schema import DatasetInfo, FeatureInfo, ShardIndex, ShardInfo, numbered_part, parse_feature

Place = tuple[ShardInfo, ShardIndex, int]
"""A sample: its shard, the shard's index, and its place in it."""

Kept = Callable[[str, Callable[[], Any]], Any]
"""(part, reader) -> what the reader gives of a sample's part, now or when it was first asked for."""


class ConditionReader:
    """Reads conditions and features of one split's samples, and cuts them to a segment.

    conditions: of parts such as `melody.flac`, given at sample_rate (Hz) and in `channels`.
    features: of parts such as `t5.npy`; each is the condition of the attribute that the dataset says.
    """

    def __init__(
        self,
        reader: ShardReader,
        info: DatasetInfo,
        *,
        conditions: Sequence[str],
        features: Sequence[str],
        sample_rate: int,
        channels: int,
    ) -> None:
        if unknown := [name for name in features if name not in info.features]:
            raise ValueError(
                f"the dataset has no features {unknown}, only {sorted(info.features)}: "
                "`lightning-audio encode` makes them"
            )
        self.reader = reader
        self.names = tuple(conditions)
        self.infos: dict[str, FeatureInfo] = {name: info.features[name] for name in features}
        steered = [*self.names, *(about.attribute for about in self.infos.values())]
        if len(set(steered)) < len(steered):
            raise ValueError(f"an attribute has one condition, these have several: {steered}")
        self.sample_rate = sample_rate
        self.channels = channels

    def waveforms(self, place: Place, start: float, duration: float | None) -> dict[str, np.ndarray]:
        """By name, float32 [C, L] of the segment (s; None: to the end); no name of what the clip does not have."""
        found = {}
        for name in self.names:
            part = place[1].audio_part(place[2], name)
            if part is not None and (wav := self._waveform(place, part, start, duration)).shape[1]:
                found[name] = wav
        return found

    def features(
        self,
        place: Place,
        text: int,
        start: float,
        duration: float | None,
        kept: Kept | None = None,
    ) -> dict[str, np.ndarray]:
        """By attribute, floats [S, D] of the segment; no name of what the clip does not have.

        text: which of the clip's texts was chosen.   kept: a memory of what was read.
        """
        found = {}
        for name, about in self.infos.items():
            part = numbered_part(name, text if about.per_text else 0)
            spans = place[1].parts.get(part)
            if spans is None or spans[place[2], 1] < 0:
                continue

            def read(part: str = part, about: FeatureInfo = about, name: str = name) -> np.ndarray:
                return parse_feature(self.reader.read(*place, part), about, name)

            vectors = read() if kept is None else kept(part, read)
            steps = vectors[about.steps(start, duration)]
            # A segment at the very end may begin past the middle between the last step and the one that is not there.
            found[about.attribute] = steps if len(steps) else vectors[-1:]
        return found

    def _waveform(self, place: Place, part: str, start: float, duration: float | None) -> np.ndarray:
        with open_audio(self.reader.open(*place, part)) as file:
            rate = file.samplerate
            count = -1 if duration is None else round(duration * rate)
            samples = read_samples(file, round(start * rate), count)  # [L, C]
        if not np.isfinite(samples).all():
            raise ValueError(f".{part} has NaN or infinite samples")
        wav = torch.from_numpy(np.ascontiguousarray(samples.T))
        if wav.shape[1]:
            wav = convert(wav, rate, self.sample_rate, self.channels)
        if duration is not None:
            wav = wav[:, : round(duration * self.sample_rate)]
        return wav.numpy()
