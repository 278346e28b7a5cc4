from __future__ import annotations

from pathlib import Path

import pytest

from sharding.sources import Clip
from sharding.splits import assign_splits, split_groups


def test_splits_keep_groups_together_in_the_stated_fractions() -> None:
    clips = [Clip(f"{i // 4}-{i}.wav", Path("x"), {"artist": i // 4}) for i in range(400)]
    by_pattern = assign_splits(clips, group_pattern=r"^(\d+)-")
    by_attribute = assign_splits(clips, group="artist")
    assert [clip.split for clip in by_pattern] == [clip.split for clip in by_attribute]
    sides: dict[str, set[str | None]] = {}
    for clip in by_pattern:
        sides.setdefault(clip.name.split("-")[0], set()).add(clip.split)
    assert all(len(side) == 1 for side in sides.values())
    counts = {split: sum(clip.split == split for clip in by_pattern) for split in ("train", "valid", "test")}
    assert counts == {"train": 360, "valid": 20, "test": 20}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 30])
def test_small_sets_leave_no_split_empty_while_they_can(count: int) -> None:
    split_of = split_groups([str(i) for i in range(count)], {"train": 0.9, "valid": 0.05, "test": 0.05})
    assert len(split_of) == count
    assert len(set(split_of.values())) == min(count, 3)
    assert "train" in split_of.values()


def test_a_clips_own_group_is_kept_together() -> None:
    clips = [Clip(f"{i}.wav", Path("x"), group=str(i % 40)) for i in range(400)]
    divided = assign_splits(clips)
    sides: dict[str | None, set[str | None]] = {}
    for clip in divided:
        sides.setdefault(clip.group, set()).add(clip.split)
    assert all(len(side) == 1 for side in sides.values())
    assert [sum(side == {split} for side in sides.values()) for split in ("train", "valid", "test")] == [
        36,
        2,
        2,
    ]
    assert [clip.split for clip in divided] != [
        clip.split for clip in assign_splits(clips, group_pattern=r"^\d+")
    ]


def test_one_artist_is_split_by_file_with_a_warning() -> None:
    clips = [Clip(f"{i}.wav", Path("x"), {"artist": "Ann"}, group="Ann") for i in range(20)]
    with pytest.warns(UserWarning, match="20 clips are of 1 groups, too few for 3 splits"):
        divided = assign_splits(clips)
    assert {clip.split for clip in divided} == {"train", "valid", "test"}
    assert {clip.split for clip in assign_splits(clips, group="artist")} == {"train"}  # asked for: as asked


OFFICIAL = [
    Clip(f"{split}/{i}.wav", Path("x"), split=split, group=f"{split}{i // 2}")
    for split in ("train", "test")
    for i in range(40)
]


def test_official_splits_are_kept() -> None:
    assert assign_splits(OFFICIAL) == OFFICIAL


def test_a_split_that_is_lacking_is_cut_from_the_groups_of_train_when_asked() -> None:
    divided = assign_splits(OFFICIAL, fractions={"train": 0.8, "valid": 0.1, "test": 0.1})
    valid = [clip for clip in divided if clip.split == "valid"]
    assert len(valid) == 4  # a tenth of train, by groups of two
    assert {clip.group for clip in valid}.isdisjoint(
        {clip.group for clip in divided if clip.split != "valid"}
    )
    assert [clip.name for clip in divided if clip.split == "test"] == [
        clip.name for clip in OFFICIAL if clip.split == "test"
    ]
    assert [clip.name for clip in divided] == [clip.name for clip in OFFICIAL]
    assert assign_splits(OFFICIAL, fractions={"train": 1.0}) == OFFICIAL
    only_test = [clip for clip in OFFICIAL if clip.split == "test"]
    assert assign_splits(only_test, fractions={"train": 0.9, "valid": 0.1}) == only_test


def test_a_group_that_official_splits_divide_is_refused_when_it_was_asked_for() -> None:
    clips = [Clip(f"{split}.wav", Path("x"), {"artist": "Ann"}, split) for split in ("train", "test")]
    with pytest.raises(ValueError, match="'Ann' in train and in test"):
        assign_splits(clips, group="artist")


def test_bad_splits() -> None:
    clips = [Clip("a.wav", Path("a"), {}, "train"), Clip("b.wav", Path("b"))]
    with pytest.raises(ValueError, match="1 of 2 clips have no split"):
        assign_splits(clips)
    with pytest.raises(ValueError, match="artist"):
        assign_splits(clips[1:], group="artist")
    with pytest.raises(ValueError, match="sum to 1"):
        assign_splits(clips[1:], fractions={"train": 0.5})
