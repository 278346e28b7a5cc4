"""What a conditioner gives, what the language model is given, and the one interface between the two.

An attribute of a clip ("description", "genre", "melody", ...) becomes vectors in two steps. `prepare` turns
the values of a batch into plain tensors on the CPU (tokenising, cutting, padding): picklable, so a loader
worker can do it. `forward` turns those into a `Condition` on the module's device. `Conditioning` projects the
conditions to the model's width and fuses them into a `FusedConditions`, all that a language model ever sees.

A new conditioner is one file: subclass `Conditioner`, set `self.dim`, write the two steps. Text and labels
come as values of the attribute; a waveform comes as a `WavCondition` in the same place, and what was computed
ahead as `Precomputed`; None (or an absent attribute) always means "not given", and must yield a row whose mask
is False.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_audio.batch import length_mask


@dataclass(frozen=True)
class Condition:
    """Vectors of one attribute.  embedding [B, S, D] float; mask [B, S] bool, True = valid."""

    embedding: Tensor
    mask: Tensor


@dataclass(frozen=True)
class WavCondition:
    """A waveform as the value of an attribute: a melody, an excerpt whose style to follow.

    wav: [C, L] float32; sample_rate: Hz. One per item, so that lengths may differ; the conditioner pads,
        resamples and mixes down as it needs.
    seed: of what is drawn about it (where an excerpt starts), so that it is the same in any batch; None: the
        generator of the call, one draw for the batch.
    """

    wav: Tensor
    sample_rate: int
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.wav.dim() != 2:
            raise ValueError(f"a waveform condition is [C, L], got a tensor of shape {tuple(self.wav.shape)}")
        if self.sample_rate <= 0:
            raise ValueError(f"a waveform condition has a positive sample rate in Hz, got {self.sample_rate}")


@dataclass(frozen=True)
class Precomputed:
    """What a frozen conditioner would make of the item's value, computed ahead and kept beside the clip.

    embedding: [S, D] float, of the valid steps only, as wide as the conditioner's `dim`.
    """

    embedding: Tensor

    def __post_init__(self) -> None:
        if self.embedding.dim() != 2 or not self.embedding.is_floating_point():
            raise ValueError(
                f"a precomputed condition is [S, D] of floats, got {tuple(self.embedding.shape)} "
                f"of {self.embedding.dtype}"
            )


@dataclass(frozen=True)
class FusedConditions:
    """All conditions of a batch, at the width of the model, sorted by how they enter it.

    cross:   [B, S, D] keys and values for cross-attention, or None.
    cross_mask: [B, S] bool, True = attend. None: padding, which is zero vectors, is attended (AudioCraft's
        semantics). Where it is given, every row has at least one True (a row with nothing to attend to sees
        one zero vector), so a softmax over it is always defined.
    prepend: [B, P, D] vectors in front of the codes, fed on the first step only, or None.
    prepend_mask: [B, P] bool, True = attend, or None as above. Unlike `cross_mask` a row may be all False:
        its prefix is not there, and positions do not count it.
    sum:     [B, 1 or S, D] added to the embeddings of the codes (not to the prefix), or None.
    """

    cross: Tensor | None = None
    cross_mask: Tensor | None = None
    prepend: Tensor | None = None
    prepend_mask: Tensor | None = None
    sum: Tensor | None = None

    def _map(self, function: Callable[[Tensor], Tensor]) -> FusedConditions:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return FusedConditions(**{k: None if v is None else function(v) for k, v in values.items()})

    def index(self, rows: Tensor | slice | Sequence[int]) -> FusedConditions:
        """The chosen rows of the batch, in the order asked for."""
        chosen: Any = rows if isinstance(rows, slice | Tensor) else list(rows)
        return self._map(lambda tensor: tensor[chosen])

    def repeat(self, times: int) -> FusedConditions:
        """The whole batch `times` over: rows 0 .. B-1, 0 .. B-1, ..."""
        return self._map(lambda tensor: tensor.repeat(times, *[1] * (tensor.dim() - 1)))

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> FusedConditions:
        """The same conditions elsewhere; `dtype` touches the vectors, not the masks."""
        return self._map(lambda t: t.to(device=device, dtype=dtype if t.is_floating_point() else None))

    @staticmethod
    def cat(parts: Sequence[FusedConditions]) -> FusedConditions:
        """One batch of all the parts' rows; shorter ones are padded at their end with zeros (False)."""
        names = [f.name for f in fields(FusedConditions)]
        return FusedConditions(**{n: _cat_rows(n, [getattr(part, n) for part in parts]) for n in names})


def _cat_rows(name: str, tensors: list[Tensor | None]) -> Tensor | None:
    """Rows of [B, S, ...] tensors of unlike S in one tensor.  A `sum` of one step holds for all: repeated."""
    present = [tensor for tensor in tensors if tensor is not None]
    if not present:
        return None
    if len(present) != len(tensors):
        raise ValueError(f"conditions to join have `{name}` in {len(present)} of {len(tensors)} parts")
    longest = max(tensor.shape[1] for tensor in present)
    if name == "sum":
        if steps := {t.shape[1] for t in present} - {1, longest}:
            raise ValueError(f"conditions to join are summed to {longest} and to {sorted(steps)} steps")
        return torch.cat([t.expand(-1, longest, -1) if t.shape[1] == 1 else t for t in present])
    return torch.cat([pad_steps(tensor, longest) for tensor in present])


def pad_steps(tensor: Tensor, length: int) -> Tensor:
    """`tensor` [B, S, ...] with zeros (False) appended up to `length` steps."""
    missing = length - tensor.shape[1]
    return tensor if missing == 0 else F.pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, missing))


class Conditioner(nn.Module):
    """Turns a list of attribute values, one per item, into a `Condition`.

    dim: width D of the embedding it gives (before `Conditioning` projects it to the model's).
    rank: conditions are processed text first (0), then waveforms (1), then joint embeddings (2), as in
        AudioCraft, so the order of a prefix does not depend on the order of a config: each one goes in front
        of those before.
    droppable: guidance and its dropout take this condition away with the others.
    """

    rank: ClassVar[int] = 0
    dim: int
    droppable: bool = True

    def prepare(self, values: Sequence[Any], *, rng: random.Random | None = None) -> dict[str, Tensor]:
        """Plain tensors by name, on the CPU: `Conditioning` moves them to the model's device for `forward`.

        rng: draws for augmentation in training mode; None is Python's global generator.
        """
        raise NotImplementedError

    def forward(self, prepared: dict[str, Tensor]) -> Condition:
        raise NotImplementedError

    def use_codec(self, codec: Any) -> None:
        """Told the codec of the model as a whole; for a conditioner that hears by it."""

    def counted(self, prepared: Mapping[str, Tensor], num_frames: int) -> Tensor | None:
        """Frames of codes [B, T] that a loss may ask for: not those that the condition gives away. None: all."""
        return None


def pad_rows(rows: Sequence[Tensor], *, longest: int | None = None) -> tuple[Tensor, Tensor]:
    """Rows [S_b, D] of unlike length in one tensor [B, S, D], zeros behind each, and their mask [B, S] bool."""
    lengths = torch.tensor([len(row) for row in rows])
    size = max(1, int(lengths.max()), longest or 0)
    return torch.stack([F.pad(row, (0, 0, 0, size - len(row))) for row in rows]), length_mask(lengths, size)
