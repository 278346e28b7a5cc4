from __future__ import annotations

import pytest

from sharding.sources.labels import caption_from_labels, labels_from_name, recording_name


@pytest.mark.parametrize(
    ("labels", "caption"),
    [
        (["Dog", "Bark"], "dog, bark"),
        (
            ["Child speech, kid speaking", "Inside, small room"],
            "child speech, kid speaking, inside, small room",
        ),
        (["Accelerating_and_revving_and_vroom", "Car"], "accelerating and revving and vroom, car"),
        (["Music", "music", " ", ""], "music"),
        ([], ""),
    ],
)
def test_the_one_rule(labels: list[str], caption: str) -> None:
    assert caption_from_labels(labels) == caption


@pytest.mark.parametrize(
    ("stem", "labels"),
    [
        # The Universal Category System, as Sonniss' and Free To Use Sounds' files are named.
        ("FGHTImpt_4 x Punch, Body 02_344 Audio_Cinematic Fight Vol 1", ["4 x Punch", "Body"]),
        (
            "WATRFlow-L,R,Ls,Rs_Australia-Water, Flow, Calm Forest River, Tasmania, 04",
            ["Australia", "Water", "Flow", "Calm Forest River", "Tasmania"],
        ),
        ("RAIN-L,R_Thailand-Rain, General", ["Thailand", "Rain", "General"]),
        # Free names.
        ("TAJ - Tank Battle Cannon Fire [XY Stereo]-001", ["TAJ", "Tank Battle Cannon Fire"]),
        ("DAYTIME JUNCTION 14", ["DAYTIME JUNCTION"]),
        ("Oil Barrel - HIT - Hammer - Take 2", ["Oil Barrel", "HIT", "Hammer"]),
        ("01 Heavy_Rain", ["Heavy Rain"]),
        ("12 - Old car, idle", ["Old car", "idle"]),
        ("747 flies over", ["747 flies over"]),  # a number that starts a description is no track number
        ("Wave-Crash", ["Wave-Crash"]),  # a hyphen within a word parts nothing
        ("BOOM_hit", ["BOOM hit"]),  # capitals before "_" are no CatID by themselves
        ("007", ["007"]),
    ],
)
def test_names_are_cut_into_labels(stem: str, labels: list[str]) -> None:
    assert labels_from_name(stem) == labels


def test_takes_of_a_recording_have_one_name() -> None:
    assert {recording_name(f"Rain, Geelong, {take}") for take in ("03", "12", "Take 4")} == {"Rain, Geelong"}
    assert {recording_name(f"rain_x{take}") for take in (1, 2)} == {"rain"}
    assert recording_name("Boeing 747 landing") == "Boeing 747 landing"
