"""Which split a clip belongs to, where its source does not say: by group, so that none is on both sides."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from sharding.schema import SPLITS
from sharding.sources.clip import Clip

FRACTIONS = {"train": 0.9, "valid": 0.05, "test": 0.05}


def assign_splits(
    clips: Sequence[Clip],
    *,
    fractions: Mapping[str, float] | None = None,
    group: str | None = None,
    group_pattern: str | None = None,
) -> list[Clip]:
    """The clips, each with its split: the source's own where it has them, else by `fractions` of the groups.

    fractions: of train, valid and test; None: `FRACTIONS`. Where the source has splits but not all for which
        fractions are given, those it lacks are cut from the groups of its train; with None nothing is cut.
    group: the attribute that tells groups, e.g. "artist".  group_pattern: a regular expression on the file
        name whose match (its first group, if it has one) tells them, e.g. "^[0-9]+".  Neither: the clip's own
        group, or its name.
    Groups are put in the order of their hash and cut at the fractions, so that the same files always fall the
    same way, and every split with a fraction gets a group while there are enough of them.
    """
    if not clips:
        raise ValueError("there are no clips")
    without = [clip.name for clip in clips if clip.split is None]
    if without and len(without) < len(clips):
        raise ValueError(
            f"{len(without)} of {len(clips)} clips have no split, e.g. {without[0]}: give all or none"
        )
    if not without:
        if group is not None or group_pattern is not None:
            _refuse_straddling(clips, [_group(clip, group, group_pattern) for clip in clips])
        return list(clips) if fractions is None else _cut_from_train(clips, fractions, group, group_pattern)
    return _divide(clips, FRACTIONS if fractions is None else fractions, group, group_pattern)


def _divide(
    clips: Sequence[Clip], fractions: Mapping[str, float], group: str | None, group_pattern: str | None
) -> list[Clip]:
    """The clips by `fractions` of their groups, whatever splits they have."""
    names = [_group(clip, group, group_pattern) for clip in clips]
    num_groups, num_splits = len(set(names)), sum(fraction > 0 for fraction in fractions.values())
    if group is None and group_pattern is None and num_groups < min(num_splits, len(clips)):
        # Music of one artist, say: by groups all of it would be training data.
        warnings.warn(
            f"the {len(clips)} clips are of {num_groups} groups, too few for {num_splits} splits: "
            "they are split by file",
            stacklevel=3,
        )
        names = [clip.name for clip in clips]
    split_of = split_groups(sorted(set(names)), fractions)
    return [replace(clip, split=split_of[name]) for clip, name in zip(clips, names, strict=True)]


def _cut_from_train(
    clips: Sequence[Clip], fractions: Mapping[str, float], group: str | None, group_pattern: str | None
) -> list[Clip]:
    """The clips, with the splits that their source lacks and `fractions` name cut from its train."""
    there = {clip.split for clip in clips}
    lacking = {split: part for split, part in fractions.items() if part > 0 and split not in there}
    if not lacking or "train" not in there:
        return list(clips)
    train = [clip for clip in clips if clip.split == "train"]
    divided = iter(_divide(train, {**lacking, "train": 1 - sum(lacking.values())}, group, group_pattern))
    return [next(divided) if clip.split == "train" else clip for clip in clips]


def _refuse_straddling(clips: Sequence[Clip], groups: Sequence[str]) -> None:
    split_of: dict[str, str | None] = {}
    for clip, name in zip(clips, groups, strict=True):
        if split_of.setdefault(name, clip.split) != clip.split:
            raise ValueError(
                f"the source has {name!r} in {split_of[name]} and in {clip.split}: its splits are not by this group"
            )


def split_groups(groups: Sequence[str], fractions: Mapping[str, float]) -> dict[str, str]:
    """Group -> split, in the given proportions."""
    unknown = set(fractions) - set(SPLITS)
    if unknown or min(fractions.values(), default=0) < 0 or abs(sum(fractions.values()) - 1) > 1e-6:
        raise ValueError(f"split fractions must be of train, valid, test and sum to 1, got {dict(fractions)}")
    ordered = sorted(groups, key=lambda name: hashlib.sha256(name.encode()).digest())
    wanted = [(split, fractions[split]) for split in ("test", "valid", "train") if fractions.get(split)]
    split_of: dict[str, str] = {}
    start = 0
    for place, (split, fraction) in enumerate(wanted):
        after = len(wanted) - place - 1  # splits still to come, train last: each is left a group if it can be
        count = max(1, round(fraction * len(ordered))) if len(ordered) - start > after else 0
        stop = len(ordered) if after == 0 else min(start + count, len(ordered) - after)
        split_of |= dict.fromkeys(ordered[start:stop], split)
        start = max(start, stop)
    return split_of


def _group(clip: Clip, attribute: str | None, pattern: str | None) -> str:
    if attribute is not None:
        if attribute not in clip.attributes:
            raise ValueError(f"{clip.name} has no attribute {attribute!r} to split by")
        return str(clip.attributes[attribute])
    if pattern is not None:
        match = re.search(pattern, PurePosixPath(clip.name).name)
        if match is None:
            raise ValueError(f"{clip.name} does not match the pattern {pattern!r} to split by")
        return match.group(1) if match.groups() else match.group()
    return clip.name if clip.group is None else clip.group
