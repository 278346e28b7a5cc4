"""Whether cards may be compared at all, and by how much what they measured differs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from eval.bootstrap import Interval, bootstrap_mean
from eval.card import Card, EmbedderInfo, Measurement
from eval.clip_table import ClipRow


def _embedder(info: EmbedderInfo) -> str:
    heard = f", {info.hearing}" if info.hearing else ""
    return f"{info.name} at {info.sample_rate} Hz, weights {info.weights_hash or 'none'}{heard}"


def _durations(card: Card) -> str:
    found = card.durations
    return f"{found.shortest:.3f} to {found.longest:.3f} s, {found.total:.3f} s together"


# What decides a number besides the model: cards that differ in one of these have measured different things.
MUST_AGREE: dict[str, Callable[[Card], Any]] = {
    "card version": lambda card: card.schema_version,
    "protocol": lambda card: card.protocol,
    "embedders": lambda card: [
        _embedder(info) for info in sorted(card.embedders, key=lambda info: info.name)
    ],
    "resampler": lambda card: card.resampler,
    "loudness": lambda card: card.loudness,
    "reference": lambda card: card.reference_hash or card.reference,
    "number of clips": lambda card: card.num_clips,
    "number of items": lambda card: card.num_items,
    "durations": _durations,
    "seeds": lambda card: card.seeds,
}


@dataclass(frozen=True)
class Disagreement:
    """One thing in which cards differ, and what each of them says."""

    name: str
    values: list[str]

    def __str__(self) -> str:
        return f"{self.name}: {' | '.join(self.values)}"


def disagreements(cards: Sequence[Card]) -> list[Disagreement]:
    """In what the cards differ that would make a comparison of their numbers say nothing; empty where they agree.

    Of the settings of sampling only those count that all cards have: each kind of model has some of its own.
    """
    if len(cards) < 2:
        raise ValueError(f"a comparison takes at least 2 cards, got {len(cards)}")
    found = [
        Disagreement(name, [_text(value(card)) for card in cards])
        for name, value in MUST_AGREE.items()
        if any(value(card) != value(cards[0]) for card in cards)
    ]
    shared = set.intersection(*(set(card.sampling) for card in cards))
    for name in sorted(shared):
        values = [card.sampling[name] for card in cards]
        if any(value != values[0] for value in values):
            found.append(Disagreement(f"sampling {name}", [_text(value) for value in values]))
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


@dataclass(frozen=True)
class PairedDifference:
    """Mean over clips of one card's score less the first card's.

    num_clips: with a score on both cards.   interval: by bootstrap over those clips; None under two of them.
    """

    mean: float
    interval: Interval | None
    num_clips: int

    def is_better(self, higher_is_better: bool) -> bool | None:
        """Whether the whole interval is on the good side of 0, or on the bad; None where it holds 0."""
        if self.interval is None or self.interval.low <= 0.0 <= self.interval.high:
            return None
        return (self.interval.low > 0.0) == higher_is_better


@dataclass(frozen=True)
class ComparedMeasurement:
    """One measurement over all cards; None where a card lacks it.

    differences: of each card to the first, where both have a score for each clip.
    """

    name: str
    measurements: list[Measurement | None]
    differences: list[PairedDifference | None]

    @property
    def any(self) -> Measurement:
        return next(m for m in self.measurements if m is not None)


def compare_measurements(
    cards: Sequence[Card], tables: Sequence[Sequence[ClipRow]], *, num_resamples: int = 1000, seed: int = 0
) -> list[ComparedMeasurement]:
    """Every measurement of any card, in the order of the first that has it, with paired differences.

    tables: the clips of each card, in the cards' order; empty ones where they were not kept.
    ValueError where cards call unlike things by one name.
    """
    names = dict.fromkeys(m.name for card in cards for m in card.measurements)
    compared = []
    for name in names:
        found = [next((m for m in card.measurements if m.name == name), None) for card in cards]
        kinds = {(m.unit, m.higher_is_better) for m in found if m is not None}
        if len(kinds) > 1:
            said = ", ".join(
                f"{unit or 'no unit'}, {'higher' if up else 'lower'} is better" for unit, up in kinds
            )
            raise ValueError(f"the cards mean different things by {name!r}: {said}")
        scores = [scores_by_key(table, name) for table in tables]
        differences = [None] + [
            paired_difference(scores[0], other, num_resamples=num_resamples, seed=seed)
            for other in scores[1:]
        ]
        compared.append(ComparedMeasurement(name, found, differences))
    return compared


def scores_by_key(table: Sequence[ClipRow], name: str) -> dict[str, float]:
    """The finite scores of one measurement."""
    return {row.key: row.scores[name] for row in table if math.isfinite(row.scores.get(name, math.nan))}


def paired_difference(
    first: Mapping[str, float], other: Mapping[str, float], *, num_resamples: int = 1000, seed: int = 0
) -> PairedDifference | None:
    """Mean and interval of other - first over the clips that both have; None without any.

    Clips differ far more from one another than two systems do on a clip: taken in pairs that spread drops out.
    """
    keys = sorted(first.keys() & other.keys())
    if not keys:
        return None
    differences = torch.tensor([other[key] - first[key] for key in keys], dtype=torch.float64)
    interval = bootstrap_mean(differences, num_resamples=num_resamples, seed=seed) if len(keys) > 1 else None
    return PairedDifference(float(differences.sort().values.mean()), interval, len(keys))
