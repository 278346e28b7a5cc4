"""Conditions taken away in training, so that a model also learns to do without them (needed for guidance).

All of it works on the attributes, before any conditioner runs: a dropped attribute is None. Random numbers
come from generators that the caller owns, saves and restores.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch

from lightning_audio.batch import Attributes


def drop_all(attributes: Sequence[Attributes], *, keep: Collection[str] = ()) -> list[Attributes]:
    """The same items with nothing known of them: the null condition.

    keep: names that stay. AudioCraft never drops joint (CLAP) embeddings.
    """
    return [{name: value if name in keep else None for name, value in item.items()} for item in attributes]


def drop_conditions(
    attributes: Sequence[Attributes],
    *,
    cfg_dropout: float = 0.0,
    attribute_dropout: Mapping[str, float] | None = None,
    generator: torch.Generator,
    attribute_generator: torch.Generator | None = None,
    per_item: bool = False,
    keep: Collection[str] = (),
) -> list[Attributes]:
    """With probability `cfg_dropout` all conditions are gone; then each named one with its own probability.

    per_item: False draws once for the whole batch, as AudioCraft does, so that in a step with guidance
        dropout no item has a condition; True draws for each item, and the share of dropped items varies less.
    generator, attribute_generator: AudioCraft has one for each kind of dropout, both seeded 1234, so that the
        two kinds of draws are the same numbers; with one generator for both (the default) they are
        independent.
    attribute_dropout: in the order in which the draws are made. A name that no item has still takes its draw;
        so the sequence of AudioCraft's melody recipe, whose stray `args` entry eats one draw per step, is had
        by {"args": 0.0, "melody": 0.5}.
    keep: names that the dropout of everything spares.
    """
    rows = len(attributes)
    gone = _draw(rows, cfg_dropout, generator, per_item)
    items = [
        drop_all([item], keep=keep)[0] if dropped else item
        for item, dropped in zip(attributes, gone, strict=True)
    ]
    for name, probability in (attribute_dropout or {}).items():
        gone = _draw(rows, probability, attribute_generator or generator, per_item)
        items = [
            {**item, name: None} if dropped and name in item else item
            for item, dropped in zip(items, gone, strict=True)
        ]
    return items


def _draw(rows: int, probability: float, generator: torch.Generator, per_item: bool) -> list[bool]:
    if not 0 <= probability <= 1:
        raise ValueError(f"a dropout is a probability in [0, 1], got {probability}")
    draws = torch.rand(rows if per_item else 1, generator=generator, device=generator.device) < probability
    return draws.expand(rows).tolist()
