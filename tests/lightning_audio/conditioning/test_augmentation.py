"""Merged texts and dropped words."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from lightning_audio.conditioning.augmentation import as_text, drop_words, merge_text

SONG = {"description": "A slow song.", "genre": "rock", "bpm": 120.0, "moods": ["sad", "calm"], "title": "x"}


def test_as_text() -> None:
    values = [None, "", "rock", ["sad", "calm"], [], 120, 92.5]
    assert [as_text(v) for v in values] == [None, "", "rock", "sad, calm", None, "120", "92.5"]
    with pytest.raises(ValueError, match="dict"):
        as_text({"a": 1})


def test_merged_description_has_every_field_that_is_known() -> None:
    merged = merge_text(SONG, merge_p=1, drop_description_p=0, drop_field_p=0, rng=random.Random(0))
    first, *pairs = str(merged["description"]).split(". ")
    assert first == "A slow song"
    assert sorted(pairs) == ["bpm: 120", "genre: rock", "moods: sad, calm"]
    assert merged["genre"] == "rock"
    assert SONG["description"] == "A slow song."


def test_fields_are_merged_in_every_order() -> None:
    item = {"description": "a song", "genre": "rock", "bpm": 120, "moods": ["calm"]}
    always = {"merge_p": 1.0, "drop_description_p": 0.0, "drop_field_p": 0.0}
    rng = random.Random(0)
    texts = {merge_text(item, **always, rng=rng)["description"] for _ in range(200)}
    assert len(texts) == 6
    assert all(all(word in text for word in ("genre: rock", "bpm: 120", "moods: calm")) for text in texts)


def test_texts_that_are_not_merged_are_untouched() -> None:
    rng = random.Random(0)
    assert merge_text(SONG, merge_p=0, rng=rng) is SONG
    bare = {"description": "Rain.", "genre": None}
    assert merge_text(bare, merge_p=1, drop_description_p=1, rng=rng) == bare  # nothing would take its place
    assert merge_text({"genre": "rock"}, merge_p=1, drop_field_p=0, rng=rng)["description"] == "genre: rock"


def test_shares_are_those_asked_for() -> None:
    rng = random.Random(0)
    count: Counter[str] = Counter()
    for _ in range(4000):
        text = str(
            merge_text(SONG, merge_p=0.25, drop_description_p=0.5, drop_field_p=0.2, rng=rng)["description"]
        )
        count["merged"] += text != SONG["description"]
        count["no description"] += "slow" not in text
        count["genre"] += "genre" in text
    assert count["merged"] / 4000 == pytest.approx(0.25, abs=0.03)
    assert count["no description"] / count["merged"] == pytest.approx(0.5, abs=0.05)
    assert count["genre"] / count["merged"] == pytest.approx(0.8, abs=0.05)


def test_dropped_words_follow_the_global_generator_one_draw_per_word() -> None:
    random.seed(110)
    draws = [random.random() for _ in range(4)]
    random.seed(110)
    words = ["a", "deep", "bass"]
    assert drop_words("a deep bass", 0.3) == " ".join(
        w for w, d in zip(words, draws[:3], strict=True) if d >= 0.3
    )
    drop_words("", 0.3)
    random_state = random.getstate()
    random.seed(110)
    [random.random() for _ in range(4)]
    assert random.getstate() == random_state
    assert drop_words("a b", 1.0, random.Random(0)) == ""
    assert drop_words("a  b", 0.0, random.Random(0)) == "a  b"
