"""A blind listening test of two systems: which is heard first, and what the votes say once names come back.

The page that a listener sees holds neither names nor which system is which. Both follow from the cards, the seed and
the items, so that the votes alone, brought back beside the cards, can be resolved.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from eval.bootstrap import Interval
from eval.card import Card, Measurement

VOTES_VERSION = 1
CHOICES = ("first", "second", "tie")
GROUP = "Blind listening"


@dataclass(frozen=True)
class ListeningTest:
    """Items in the order in which they are heard, and of each which card's clip comes first (0 or 1).

    code: names the test in the votes; it follows from the cards, the seed and the items.
    """

    items: list[str]
    first: list[int]
    seed: int
    code: str


def plan_test(
    cards: Sequence[Card], keys: Iterable[str], *, seed: int = 0, num_items: int | None = None
) -> ListeningTest:
    """The test of two cards on (some of) the items that both have; the same whichever card is named first."""
    prints = _fingerprints(cards)
    items = sorted(keys)
    if not items:
        raise ValueError(
            "a listening test of no items: the two cards have no clip of the same name with audio"
        )
    shuffled = random.Random(f"items {seed} {sorted(prints)}")
    shuffled.shuffle(items)
    return _test_of(prints, items[:num_items], seed)


def _test_of(prints: Sequence[str], items: list[str], seed: int) -> ListeningTest:
    """Which system comes first is tossed for each item by itself."""
    lower = prints.index(min(prints))
    tosses = [random.Random(f"first {seed} {item} {sorted(prints)}").randrange(2) for item in items]
    text = json.dumps([sorted(prints), seed, items])
    code = hashlib.sha256(text.encode()).hexdigest()[:32]
    return ListeningTest(items, [toss ^ lower for toss in tosses], seed, code)


def _fingerprints(cards: Sequence[Card]) -> list[str]:
    """What a card is known by; votes that are written into it do not change it."""
    if len(cards) != 2:
        raise ValueError(f"a listening test compares 2 cards, got {len(cards)}")
    prints = [
        hashlib.sha256(
            json.dumps([card.protocol, card.model, card.model_hash, card.created]).encode()
        ).hexdigest()
        for card in cards
    ]
    if prints[0] == prints[1]:
        raise ValueError(f"both cards are of one evaluation ({cards[0].model}, {cards[0].created})")
    return prints


@dataclass(frozen=True)
class Votes:
    """One listener's choices, by item: "first", "second" or "tie".  items: all of the test, in its order."""

    listener: str
    code: str
    seed: int
    items: list[str]
    choices: Mapping[str, str]


def load_votes(path: str | Path) -> Votes:
    """What the page saved; ValueError for a file that is no such thing."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} holds no votes: {error}") from error
    found = data.get("votes_version") if isinstance(data, dict) else None
    if found != VOTES_VERSION:
        raise ValueError(f"{path} has votes version {found}, this program reads version {VOTES_VERSION}")
    try:
        votes = Votes(
            listener=str(data["listener"]),
            code=str(data["test"]),
            seed=int(data["seed"]),
            items=[str(item) for item in data["items"]],
            choices={str(item): str(choice) for item, choice in data["votes"].items()},
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} holds no whole votes: {error!r}") from error
    unknown = sorted(set(votes.choices) - set(votes.items))
    if unknown:
        raise ValueError(
            f"{path} has a vote on {unknown[0]!r}, which is none of its {len(votes.items)} items"
        )
    for item, choice in votes.choices.items():
        if choice not in CHOICES:
            raise ValueError(f"{path}: the vote on {item!r} is {choice!r}, want one of {', '.join(CHOICES)}")
    return votes


@dataclass(frozen=True)
class Tally:
    """How many votes each of the two cards got, and how many heard no difference."""

    wins: tuple[int, int]
    ties: int
    num_listeners: int

    @property
    def num_votes(self) -> int:
        return sum(self.wins) + self.ties


def tally(cards: Sequence[Card], files: Sequence[Votes]) -> Tally:
    """All votes, with the names back. Of two files of one listener the later counts.

    ValueError for votes on another test than the cards make.
    """
    wins, ties = [0, 0], 0
    prints = _fingerprints(cards)
    latest = {votes.listener: votes for votes in files}
    for votes in latest.values():
        test = _test_of(prints, votes.items, votes.seed)
        if test.code != votes.code:
            raise ValueError(
                f"the votes of listener {votes.listener} are of test {votes.code[:12]}, these cards make test "
                f"{test.code[:12]}: they are of other cards, or of other evaluations of the same models"
            )
        first_of = dict(zip(test.items, test.first, strict=True))
        for item, choice in votes.choices.items():
            if choice == "tie":
                ties += 1
            else:
                wins[first_of[item] if choice == "first" else 1 - first_of[item]] += 1
    return Tally((wins[0], wins[1]), ties, len(latest))


def with_votes(cards: Sequence[Card], counted: Tally) -> list[Card]:
    """The cards with their share of the decided votes as a measurement; one that was there is replaced.

    The interval is the exact binomial one (Clopper-Pearson) of the decided votes, which takes votes for independent:
    several of one listener, or on one item, are less than that.
    """
    decided = sum(counted.wins)
    if not decided:
        raise ValueError(
            f"none of {counted.num_votes} votes prefers one of the two: there is no share to state"
        )
    names = [card.model for card in cards]
    lower, higher = sorted(names)
    judged = []
    for card, wins, other in zip(cards, counted.wins, reversed(names), strict=True):
        interval = binomtest(wins, decided).proportion_ci(0.95, method="exact")
        measurement = Measurement(
            name=f"Preferred by ear, {lower} or {higher}",
            value=100.0 * wins / decided,
            higher_is_better=True,
            meaning=f"{wins} of {decided} decided votes prefer it to {other}; {counted.ties} more heard no "
            f"difference ({_count(counted.num_listeners, 'listener')}, names hidden)",
            unit="%",
            interval=Interval(low=100.0 * interval.low, high=100.0 * interval.high, num_resamples=0),
            baselines={"chance": 50.0},
            group=GROUP,
        )
        kept = [m for m in card.measurements if m.name != measurement.name]
        judged.append(replace(card, measurements=[*kept, measurement]))
    return judged


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def empty_votes(test: ListeningTest) -> dict[str, Any]:
    """What the page begins with and fills: the votes file without votes and listener."""
    return {"votes_version": VOTES_VERSION, "test": test.code, "seed": test.seed, "items": test.items}
