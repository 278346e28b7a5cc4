"""All conditioners of a model, their projections, and how what they give enters the language model."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_audio.batch import Attributes, AudioBatch
from lightning_audio.conditioning.base import (
    Condition,
    Conditioner,
    FusedConditions,
    Precomputed,
    WavCondition,
)

WAYS = ("cross", "prepend", "sum", "input_interpolate")


class Conditioning(nn.Module):
    """Attributes of a batch -> `FusedConditions` of the width of the model.

    conditioners: attribute name -> conditioner; empty for an unconditional model.
    dim: width D of the model.
    fuse: how each attribute enters, one way each: "cross" (keys and values of cross-attention), "prepend" (in
        front of the codes), "sum" (one vector added to every code), "input_interpolate" (stretched to the
        length of the codes, and added).
    mask_padding: padding and absent conditions are not attended to. False is AudioCraft's way, and what its
        checkpoints need: they are zero vectors that are attended to, so a result depends on the padding.
    sum_into_prefix: what is summed is also added to the prefix as it then stands: to what is prepended of the
        conditions processed before. AudioCraft's way.

    Conditions are processed text first, then waveforms, then joint embeddings; cross-attention sees them in
    that order, and each prepended one goes in front of those before: [melody][text][codes].
    """

    def __init__(
        self,
        *,
        conditioners: Mapping[str, Conditioner],
        dim: int,
        fuse: Mapping[str, Sequence[str]],
        mask_padding: bool = True,
        sum_into_prefix: bool = False,
    ) -> None:
        super().__init__()
        self.way_of = _way_of(conditioners, fuse)
        ordered = sorted(
            conditioners, key=lambda name: conditioners[name].rank
        )  # stable: config order within
        self.conditioners = nn.ModuleDict({name: conditioners[name] for name in ordered})
        self.output_proj = nn.ModuleDict({name: nn.Linear(conditioners[name].dim, dim) for name in ordered})
        self.dim = dim
        self.mask_padding, self.sum_into_prefix = mask_padding, sum_into_prefix

    def prepare(
        self, attributes: Sequence[Attributes], *, rng: random.Random | None = None
    ) -> dict[str, dict[str, Tensor]]:
        """Plain CPU tensors for each conditioner; can be done in a loader worker."""
        if not attributes:
            raise ValueError("there is no item to condition on: the list of attributes is empty")
        return {
            name: conditioner.prepare([item.get(name) for item in attributes], rng=rng)
            for name, conditioner in self._conditioners()
        }

    def encode(self, prepared: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Condition]:
        """Each condition at the width of the model, zero where its mask is False; in processing order."""
        conditions = {}
        for name, conditioner in self._conditioners():
            proj = self.output_proj[name]
            weight = proj.get_parameter("weight")
            condition = conditioner({key: tensor.to(weight.device) for key, tensor in prepared[name].items()})
            embedding = proj(condition.embedding.to(weight.dtype)) * condition.mask[..., None]
            conditions[name] = Condition(embedding, condition.mask)
        return conditions

    def fuse(self, conditions: Mapping[str, Condition], *, length: int | None = None) -> FusedConditions:
        """Conditions sorted by the way they enter.  length: steps S, for "input_interpolate" only."""
        by_way: dict[str, list[Condition]] = {way: [] for way in WAYS}
        for name, condition in conditions.items():
            way = self.way_of[name]
            by_way[way].append(condition)
            if way == "sum" and self.sum_into_prefix:
                before = by_way["prepend"]
                by_way["prepend"] = [Condition(c.embedding + condition.embedding, c.mask) for c in before]
        cross, cross_mask = _join(by_way["cross"])
        prepend, prepend_mask = _join(by_way["prepend"][::-1])
        if cross_mask is not None:
            # A row with nothing to attend to attends to its first vector, which is zero: the value's bias is
            # all that comes out, as from any number of zero vectors, and the softmax is never over nothing.
            cross_mask[:, 0] |= ~cross_mask.any(dim=1)
        added = [condition.embedding for condition in by_way["sum"]]
        added += [_stretch(condition.embedding, length) for condition in by_way["input_interpolate"]]
        return FusedConditions(
            cross=cross,
            cross_mask=cross_mask if self.mask_padding else None,
            prepend=prepend,
            prepend_mask=prepend_mask if self.mask_padding else None,
            sum=torch.stack(torch.broadcast_tensors(*added)).sum(dim=0) if added else None,
        )

    @property
    def kept(self) -> list[str]:
        """Attributes that guidance and its dropout never take away."""
        return [name for name, conditioner in self._conditioners() if not conditioner.droppable]

    def counted(self, prepared: Mapping[str, Mapping[str, Tensor]], num_frames: int) -> Tensor | None:
        """Frames of codes [B, T] that a loss may ask for, given these conditions; None: all."""
        counted: Tensor | None = None
        for name, conditioner in self._conditioners():
            own = conditioner.counted(prepared[name], num_frames)
            counted = own if counted is None or own is None else counted & own
        return counted

    def use_codec(self, codec: Any) -> None:
        """Tell the conditioners that hear by the codec of the model as a whole which one it is."""
        for _, conditioner in self._conditioners():
            conditioner.use_codec(codec)

    def forward(
        self, attributes: Sequence[Attributes], *, length: int | None = None, rng: random.Random | None = None
    ) -> FusedConditions:
        return self.fuse(self.encode(self.prepare(attributes, rng=rng)), length=length)

    def _conditioners(self) -> list[tuple[str, Conditioner]]:
        return [
            (name, module) for name, module in self.conditioners.items() if isinstance(module, Conditioner)
        ]


def attributes_of(batch: AudioBatch) -> list[Attributes]:
    """The attributes of a batch, with its named waveforms as `WavCondition`s and its features as `Precomputed`."""
    items = [dict(attributes) for attributes in batch.attributes]
    for name, wavs in batch.conditions.items():
        lengths = batch.condition_samples.get(name)
        for row, length in enumerate([wavs.shape[-1]] * len(items) if lengths is None else lengths.tolist()):
            if length:
                items[row][name] = WavCondition(wavs[row, :, :length], batch.sample_rate)
    for name, vectors in batch.features.items():
        for row, steps in enumerate(batch.feature_steps[name].tolist()):
            if steps:
                items[row][name] = Precomputed(vectors[row, :steps])
    return list(items)


def with_own_audio(
    attributes: Sequence[Attributes], batch: AudioBatch, names: Sequence[str]
) -> list[Attributes]:
    """The items of a batch, each clip given to itself under `names`: its melody is its own, its style, its sound.

    What an item has there stays, and a text has the audio beside it: (text, waveform).
    """
    wanting = [name for name in names for item in attributes if not _has_audio(item.get(name))]
    if not wanting:
        return list(attributes)
    if batch.wav is None:
        raise ValueError(
            f"the {wanting[0]} of a clip is to be its own audio, and the batch has only codes: train on shards of "
            "audio with the codec in the task, or keep what the conditioner needs of it in the shards"
        )
    lengths = [batch.wav.shape[-1]] * len(batch) if batch.num_samples is None else batch.num_samples.tolist()
    own = [WavCondition(wav[:, :n], batch.sample_rate) for wav, n in zip(batch.wav, lengths, strict=True)]
    return [
        {**item, **{name: _beside(item.get(name), wav) for name in names}}
        for item, wav in zip(attributes, own, strict=True)
    ]


def _has_audio(value: Any) -> bool:
    return isinstance(value, WavCondition | Precomputed | tuple)


def _beside(value: Any, wav: WavCondition) -> Any:
    if _has_audio(value):
        return value
    return wav if value is None else (value, wav)


def with_seeds(attributes: Sequence[Attributes], seeds: Sequence[int]) -> list[Attributes]:
    """The same items; what is drawn about the waveforms of each follows from its own seed."""
    return [
        {name: replace(v, seed=seed) if isinstance(v, WavCondition) else v for name, v in item.items()}
        for item, seed in zip(attributes, seeds, strict=True)
    ]


def _way_of(conditioners: Mapping[str, Conditioner], fuse: Mapping[str, Sequence[str]]) -> dict[str, str]:
    if unknown := sorted(set(fuse) - set(WAYS)):
        raise ValueError(f"unknown ways to fuse {unknown}; there are {list(WAYS)}")
    pairs = [(name, way) for way, names in fuse.items() for name in names]
    way_of = dict(pairs)
    if len(way_of) != len(pairs):
        raise ValueError(f"an attribute is fused in one way only, got {pairs}")
    if way_of.keys() != set(conditioners):
        raise ValueError(f"conditioners are {sorted(conditioners)}, attributes to fuse {sorted(way_of)}")
    return way_of


def _join(conditions: Sequence[Condition]) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Conditions one after the other: embedding [B, sum of S, D], mask [B, sum of S]."""
    if not conditions:
        return None, None
    return torch.cat([c.embedding for c in conditions], dim=1), torch.cat([c.mask for c in conditions], dim=1)


def _stretch(embedding: Tensor, length: int | None) -> Tensor:
    """The nearest vector for each of `length` steps.  [B, S, D] -> [B, length, D]"""
    if length is None:
        raise ValueError("a condition fused by input_interpolate needs the length of the sequence in steps")
    return F.interpolate(embedding.transpose(1, 2), size=length).transpose(1, 2)
