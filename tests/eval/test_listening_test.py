"""The blind test: names stay hidden, and the votes find their way back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from scipy.stats import beta

from eval.card import Card, Durations
from eval.listening_test import Votes, empty_votes, load_votes, plan_test, tally, with_votes
from eval.page.blind import listening_test_page
from eval.page.listening import Sound

KEYS = [f"clip{i:02d}" for i in range(40)]
RATE = 8000


def _card(model: str) -> Card:
    return Card(
        protocol="p",
        model=model,
        measurements=[],
        num_clips=4,
        durations=Durations(4.0, 1.0, 1.0),
        created="now",
    )


CARDS = [_card("secret-alpha"), _card("secret-beta")]


def _votes_for(winner: int, items: int = 40, listener: str = "x", seed: int = 0) -> Votes:
    """A listener who always prefers one system."""
    test = plan_test(CARDS, KEYS, seed=seed, num_items=items)
    choices = {
        item: "first" if f == winner else "second" for item, f in zip(test.items, test.first, strict=True)
    }
    return Votes(listener, test.code, test.seed, test.items, choices)


def test_the_order_is_by_chance_and_follows_from_the_seed() -> None:
    test = plan_test(CARDS, KEYS, seed=3)
    assert sorted(test.items) == KEYS
    assert test.items != KEYS
    assert 10 < sum(test.first) < 30
    assert plan_test(CARDS, reversed(KEYS), seed=3) == test
    other = plan_test(CARDS, KEYS, seed=4)
    assert other.items != test.items
    assert other.code != test.code


def test_which_card_is_named_first_does_not_matter() -> None:
    test, turned = plan_test(CARDS, KEYS), plan_test(CARDS[::-1], KEYS)
    assert turned.items == test.items
    assert turned.code == test.code
    assert turned.first == [1 - first for first in test.first]


@pytest.mark.parametrize("winner", [0, 1])
def test_votes_come_back_to_whom_they_were_given(winner: int) -> None:
    counted = tally(CARDS, [_votes_for(winner)])
    assert counted.wins[winner] == 40
    assert counted.wins[1 - winner] == 0
    assert tally(CARDS[::-1], [_votes_for(winner)]).wins == counted.wins[::-1]


def test_ties_are_counted_and_the_interval_is_the_binomial_one() -> None:
    votes = _votes_for(0)
    test = plan_test(CARDS, KEYS)
    choices = dict(votes.choices)
    for item in test.items[:10]:
        choices[item] = "tie"
    for item, first in list(zip(test.items, test.first, strict=True))[10:16]:
        choices[item] = "second" if first == 0 else "first"
    counted = tally(CARDS, [Votes("x", votes.code, 0, votes.items, choices)])
    assert (counted.wins, counted.ties, counted.num_votes) == ((24, 6), 10, 40)
    judged = with_votes(CARDS, counted)
    first, second = (card.measurements[0] for card in judged)
    assert (first.value, second.value) == (80.0, 20.0)
    assert first.name == second.name
    assert first.interval is not None
    assert first.interval.low == pytest.approx(100 * beta.ppf(0.025, 24, 7))
    assert first.interval.high == pytest.approx(100 * beta.ppf(0.975, 25, 6))
    assert first.beats_baselines is True
    assert "10 more heard no difference" in first.meaning


def test_votes_in_the_card_do_not_make_it_another_card() -> None:
    judged = with_votes(CARDS, tally(CARDS, [_votes_for(0)]))
    again = with_votes(judged, tally(judged, [_votes_for(0), _votes_for(1, listener="y")]))
    (measurement,) = again[0].measurements
    assert measurement.value == 50.0
    assert "2 listeners" in measurement.meaning


def test_a_later_file_of_one_listener_replaces_the_earlier() -> None:
    assert tally(CARDS, [_votes_for(0), _votes_for(1)]).wins == (0, 40)


def test_votes_on_other_cards_are_refused() -> None:
    with pytest.raises(ValueError, match="these cards make test"):
        tally([CARDS[0], _card("another")], [_votes_for(0)])
    changed = _votes_for(0)
    with pytest.raises(ValueError, match="these cards make test"):
        tally(CARDS, [Votes("x", changed.code, 1, changed.items, changed.choices)])


def test_bad_tests() -> None:
    with pytest.raises(ValueError, match="no items"):
        plan_test(CARDS, [])
    with pytest.raises(ValueError, match="one evaluation"):
        plan_test([CARDS[0], CARDS[0]], KEYS)
    with pytest.raises(ValueError, match="2 cards, got 3"):
        plan_test([*CARDS, CARDS[0]], KEYS)
    votes = _votes_for(0)
    ties = Votes("x", votes.code, 0, votes.items, dict.fromkeys(votes.items, "tie"))
    with pytest.raises(ValueError, match="none of 40 votes"):
        with_votes(CARDS, tally(CARDS, [ties]))


def test_the_votes_file(tmp_path: Path) -> None:
    test = plan_test(CARDS, KEYS, num_items=2)
    data = {**empty_votes(test), "listener": "abc", "votes": {test.items[0]: "first"}}
    path = tmp_path / "votes.json"
    path.write_text(json.dumps(data))
    assert load_votes(path) == Votes("abc", test.code, 0, test.items, {test.items[0]: "first"})
    for change, message in [
        ({"votes": {"other": "first"}}, "'other', which is none of its 2 items"),
        ({"votes": {test.items[0]: "loud"}}, "'loud', want one of first, second, tie"),
        ({"votes": [1]}, "no whole votes"),
        ({"votes_version": 7}, "votes version 7, this program reads version 1"),
    ]:
        path.write_text(json.dumps({**data, **change}))
        with pytest.raises(ValueError, match=message):
            load_votes(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="no votes"):
        load_votes(path)


def test_the_page_tells_no_names_and_plays_the_planned_order() -> None:
    test = plan_test(CARDS, KEYS[:4])
    sounds = {
        key: [
            Sound("secret-alpha", 0.1 * torch.randn(1, RATE), RATE),
            Sound("secret-beta", torch.zeros(1, RATE), RATE),
        ]
        for key in KEYS[:4]
    }
    page = listening_test_page(test, {KEYS[0]: "<i>rain</i> & wind"}, sounds, question="Which?")
    assert "secret" not in page
    assert "&lt;i&gt;rain" in page
    # The silent clips are the shortest files: they show the order.
    sizes = [len(part.partition('"')[0]) for part in page.split('src="data:audio')[1:]]
    first_is_silent = [a < b for a, b in zip(sizes[::2], sizes[1::2], strict=True)]
    assert first_is_silent == [first == 1 for first in test.first]


def test_too_much_sound_for_one_page(monkeypatch: pytest.MonkeyPatch) -> None:
    test = plan_test(CARDS, KEYS[:2])
    sounds = {key: [Sound("", torch.rand(1, RATE), RATE)] * 2 for key in KEYS}
    monkeypatch.setattr("eval.page.listening.LARGEST_LOSSLESS", 10)
    monkeypatch.setattr("eval.page.listening.LARGEST_TOTAL", 10)
    with pytest.raises(ValueError, match=r"4 sounds \(4 s\).*choose fewer items"):
        listening_test_page(test, {}, sounds, question="")
