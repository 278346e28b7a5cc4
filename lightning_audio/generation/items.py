"""What is asked for, item by item: texts, attributes and waveforms become one mapping of attributes each.

All that a user can get wrong about them is refused here, before any work.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from lightning_audio.audio import convert
from lightning_audio.batch import Attributes
from lightning_audio.codec.base import Codec
from lightning_audio.conditioning.base import WavCondition

Waveforms = Tensor | Sequence[Tensor | None]
"""[B, C, L]; or [C, L] or [1, C, L] for all items; or [C, L] or None for each item."""


def waveforms_of(
    name: str, wavs: Waveforms | None, sample_rate: int | None, codec: Codec
) -> list[WavCondition | None] | None:
    """The waveforms at the rate and with the channels of the codec, as AudioCraft's conditioners get them."""
    if wavs is None:
        return None
    if sample_rate is None or sample_rate <= 0:
        raise ValueError(
            f"a {name} comes with its sample rate: give {name}_sample_rate in Hz, got {sample_rate}"
        )
    rows = list(wavs[None] if isinstance(wavs, Tensor) and wavs.dim() == 2 else wavs)
    for wav in rows:
        if wav is not None and not (isinstance(wav, Tensor) and wav.dim() == 2 and wav.numel()):
            raise ValueError(f"a {name} is [channels, samples], got {shape_of(wav)}")
        if wav is not None and not torch.isfinite(wav).all():
            raise ValueError(f"a {name} has NaN or infinite samples")
    converted = [
        wav if wav is None else convert(wav.float(), sample_rate, codec.sample_rate, codec.channels)
        for wav in rows
    ]
    return [None if wav is None else WavCondition(wav, codec.sample_rate) for wav in converted]


def items_of(
    known: Collection[str],
    *,
    texts: Sequence[str | None] | None,
    attributes: Sequence[Attributes] | None,
    num_samples: int | None,
    waveforms: Mapping[str, list[WavCondition | None] | None],
) -> list[Attributes]:
    """One mapping per item; its text is the "description".  known: attributes that the model takes."""
    _check_kinds(texts, attributes)
    given = {name: wavs for name, wavs in waveforms.items() if wavs is not None}
    size = _size(texts, attributes, num_samples, given)
    asked = [name for name, wavs in given.items() if any(wav is not None for wav in wavs)]
    asked += ["description"] if any(texts or ()) else []
    asked += [k for item in attributes or () for k, value in item.items() if isinstance(value, WavCondition)]
    if unknown := [name for name in asked if name not in known]:
        what = {"description": "text"}.get(unknown[0], unknown[0])
        raise ValueError(f"this model takes no {what}; it takes {', '.join(known) or 'nothing'}")
    items = [dict(item) for item in attributes] if attributes is not None else [{} for _ in range(size)]
    for item, text in zip(items, texts or (), strict=False):
        item["description"] = text
    for name, wavs in given.items():
        for item, wav in zip(items, wavs if len(wavs) == size else wavs * size, strict=True):
            item[name] = wav
    return list(items)


def seeds_of(seed: int | Sequence[int], size: int) -> list[int]:
    """One for each item: those given, or `seed` and the numbers after it."""
    seeds = list(seed) if isinstance(seed, Sequence) else [seed + row for row in range(size)]
    if len(seeds) != size:
        raise ValueError(f"{len(seeds)} seeds for {size} items")
    return seeds


def shape_of(value: object) -> str:
    """How a message names a value that is no waveform."""
    return str(list(value.shape)) if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _check_kinds(texts: Sequence[str | None] | None, attributes: Sequence[Attributes] | None) -> None:
    if isinstance(texts, str):
        raise ValueError(f"texts is a list of descriptions, got the text {texts!r}")
    for text in texts or ():
        if text is not None and not isinstance(text, str):
            raise ValueError(f"a description is a text or None, got {text!r}")
    if isinstance(attributes, Mapping):
        raise ValueError("attributes is a list of mappings, one per item, got one mapping")


def _size(
    texts: Sequence[str | None] | None,
    attributes: Sequence[Attributes] | None,
    num_samples: int | None,
    waveforms: Mapping[str, list[WavCondition | None]],
) -> int:
    """How many items there are; what comes as a single waveform is for all of them."""
    lists = {"texts": texts, "attributes": attributes, **waveforms}
    sizes = {name: len(values) for name, values in lists.items() if values is not None}
    if num_samples is not None:
        sizes["samples"] = num_samples
    for name in waveforms:
        if sizes[name] == 1 and len(sizes) > 1:
            del sizes[name]
    if len(set(sizes.values())) > 1:
        counts = ", ".join(f"{count} {name}" for name, count in sizes.items())
        raise ValueError(f"these are not of the same items: {counts}")
    size = next(iter(sizes.values()), 0)
    if size < 1:
        raise ValueError("there is nothing to generate: no texts, no attributes, no num_samples")
    return size
