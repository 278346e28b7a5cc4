"""The value that every folder shares: a batch of audio, as waveforms or as codes, with its attributes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

Attributes = Mapping[str, Any]
"""What is known of one clip: `description`, `instrument`, `bpm`, ... to text, numbers or lists of text."""


@dataclass(frozen=True)
class AudioBatch:
    """A batch of clips. Either `wav` or `codes` is there, or both; what is past a clip's end is padding.

    keys: names of the samples, for audits and reports.
    sample_rate: Hz, of `wav`, or of the audio that `codes` stand for.
    attributes: one mapping per clip.
    wav: [B, C, L] float32 in [-1, 1].   num_samples: [B] int64, valid samples of `wav`.
    codes: [B, K, T] int64.              num_frames: [B] int64, valid frames of `codes`.
    conditions: named waveforms that steer generation ("melody", "style"), each [B, C, L] at `sample_rate`.
    condition_samples: by the same names, [B] int64, valid samples, 0 where a clip has none. A name that is not
        there: all are valid.
    features: what frozen encoders made ahead of attributes, by the attribute's name, [B, S, D] float. They stay on
        the CPU, where conditioners take them.
    feature_steps: by the same names, [B] int64, valid steps, 0 where a clip has none.
    """

    keys: list[str]
    sample_rate: int
    attributes: list[Attributes]
    wav: Tensor | None = None
    num_samples: Tensor | None = None
    codes: Tensor | None = None
    num_frames: Tensor | None = None
    conditions: dict[str, Tensor] = field(default_factory=dict)
    condition_samples: dict[str, Tensor] = field(default_factory=dict)
    features: dict[str, Tensor] = field(default_factory=dict)
    feature_steps: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> AudioBatch:
        """The same batch with its tensors on `device` (Lightning cannot move a frozen dataclass by itself)."""
        return self._map_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> AudioBatch:
        """The same batch in page-locked memory; a DataLoader with `pin_memory=True` calls it."""
        return self._map_tensors(Tensor.pin_memory)

    def _map_tensors(self, function: Any) -> AudioBatch:
        moved = {
            name: function(value)
            for name in ("wav", "num_samples", "codes", "num_frames")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **moved, conditions={k: function(v) for k, v in self.conditions.items()})


def length_mask(lengths: Tensor, max_length: int) -> Tensor:
    """True where a position is before the item's length.  lengths [B] -> [B, max_length] bool."""
    return torch.arange(max_length, device=lengths.device) < lengths[:, None]
