"""Training texts made less regular: attributes merged into the description, words left out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from lightning_audio.batch import Attributes
from lightning_audio.conditioning.base import Precomputed

FIELDS = ("key", "bpm", "genre", "moods", "instrument", "keywords")


def as_text(value: Any) -> str | None:
    """An attribute's value as text: lists are joined by ", ", numbers written out; None and [] are None."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return ", ".join(str(part) for part in value) or None
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    raise ValueError(f"want a text, a number or a list of them, got {type(value).__name__}: {value!r}")


def merge_text(
    attributes: Attributes,
    *,
    merge_p: float = 0.25,
    drop_description_p: float = 0.5,
    drop_field_p: float = 0.5,
    fields: Sequence[str] = FIELDS,
    rng: random.Random,
) -> Attributes:
    """The attributes with, at probability `merge_p`, some of them written into the description.

    MusicGen's recipe. Each field that is known stays out with `drop_field_p`; the others follow the
    description as "genre: rock.
    bpm: 120", shuffled; and the description itself gives way to them with `drop_description_p`.

    Two things differ from AudioCraft, where `drop_other_p` is really the probability to keep a field (the
    same at its 0.5), and where every training description, merged or not, loses its last period and gains ".
    " before what follows, which evaluation's never do. Here only merged texts change, and a description is
    dropped only where something takes its place. A precomputed description is past merging.
    """
    if rng.random() >= merge_p or isinstance(attributes.get("description"), Precomputed):
        return attributes
    values = {name: as_text(attributes.get(name)) for name in fields}
    pairs = [f"{name}: {text}" for name, text in values.items() if text and rng.random() >= drop_field_p]
    rng.shuffle(pairs)
    dropped = rng.random() < drop_description_p
    if not pairs:
        return attributes
    description = as_text(attributes.get("description"))
    kept = [description.rstrip(" .")] if description and not dropped else []
    return {**attributes, "description": ". ".join([*kept, *pairs])}


def drop_words(text: str, probability: float, rng: random.Random | None = None) -> str:
    """The text without some of its words (what spaces separate), each gone with `probability`.

    rng: None is Python's global generator, from which AudioCraft draws, one number per word; the empty text
        too takes one, so that its sequence of draws is met exactly.
    """
    draw = random.random if rng is None else rng.random
    return " ".join(word for word in text.split(" ") if draw() >= probability)
