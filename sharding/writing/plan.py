"""Clips -> which shard each goes into: a value that depends on clips and settings alone.

Every part of a job that is spread over machines computes it by itself and comes to the same.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from sharding.schema import SPLITS
from sharding.sources.clip import Clip
from sharding.splits import assign_splits
from sharding.writing.duplicates import duplicates
from sharding.writing.prepare import Settings, Skipped

# A part's name is key.condition.suffix, and a tar of the old and universal form holds names of 100 characters:
# 72 of the key, 6 of a chunk's number, 16 of a condition, and the rest for dots and suffix.
_MAX_KEY = 72
_CONDITION = re.compile(r"[a-z][a-z0-9_]{0,15}")
# Another number for another way to write shards: what an older program left is then not gone on with.
_WRITER_VERSION = 1


@dataclass(frozen=True)
class PlannedShard:
    """One tar to write: its split, its file's name, and the clips in it, with their keys."""

    split: str
    name: str
    clips: tuple[tuple[str, Clip], ...]


@dataclass(frozen=True)
class Plan:
    """All shards, in order, and what is left out before anything is read, by split.

    digest: of the clips, their files' sizes and times of change, and the settings; another one, another plan.
    """

    shards: tuple[PlannedShard, ...]
    left_out: dict[str, list[Skipped]]
    settings: Settings
    digest: str

    @property
    def num_clips(self) -> int:
        return sum(len(shard.clips) for shard in self.shards)


class _Entry(NamedTuple):
    key: str
    clip: Clip
    num_bytes: int
    state: list[int]


def make_plan(
    clips: Sequence[Clip],
    settings: Settings,
    *,
    fractions: Mapping[str, float] | None = None,
    group: str | None = None,
    group_pattern: str | None = None,
    samples_per_shard: int = 1000,
    bytes_per_shard: int = 256 << 20,
    keep_duplicates: bool = False,
) -> Plan:
    """Give each clip its split, key and shard (see `write_shards` for the arguments)."""
    if samples_per_shard < 1 or bytes_per_shard < 1:
        raise ValueError(f"a shard must hold something: {samples_per_shard} samples, {bytes_per_shard} bytes")
    clips = assign_splits(clips, fractions=fractions, group=group, group_pattern=group_pattern)
    left_out: dict[str, list[Skipped]] = {}
    entries: list[_Entry] = []
    for key, clip in zip(make_keys([clip.name for clip in clips]), clips, strict=True):
        _refuse_conditions(clip)
        try:
            entries.append(_Entry(key, clip, *_state(clip)))
        except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
            _leave_out(left_out, clip, f"cannot be opened: {error.strerror}")
    # By hash: clips of a class or an artist, neighbours by name, are spread over the shards.
    entries.sort(key=lambda entry: (hashlib.sha256(entry.key.encode()).digest(), entry.key))
    if not keep_duplicates:
        entries = _without_duplicates(entries, left_out)
    shards: list[PlannedShard] = []
    digest = hashlib.sha256(json.dumps([_WRITER_VERSION, asdict(settings)]).encode())
    digest.update(repr(sorted(left_out.items())).encode(errors="surrogateescape"))
    for split in SPLITS:
        ours = [entry for entry in entries if entry.clip.split == split]
        for number, part in enumerate(_cut(ours, samples_per_shard, bytes_per_shard)):
            shard = PlannedShard(split, f"{number:06d}.tar", tuple((entry.key, entry.clip) for entry in part))
            shards.append(shard)
            digest.update(f"{shard.split}/{shard.name}".encode())
            for entry in part:
                said = [entry.key, _description(entry.clip), entry.state]
                digest.update(json.dumps(said, sort_keys=True, default=str).encode())
    return Plan(tuple(shards), left_out, settings, digest.hexdigest())


def make_keys(names: Sequence[str]) -> list[str]:
    """A key for each path: letters, digits, '-' and '_' only, short, all different, always the same."""
    keys: dict[str, None] = {}
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9_-]+", "_", str(PurePosixPath(name).with_suffix(""))).strip("_-")
        key = plain
        if not plain or len(plain) > _MAX_KEY or plain in keys:
            digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:12]
            key = f"{plain[: _MAX_KEY - 13]}-{digest}".lstrip("-")
        if key in keys:
            raise ValueError(f"{name} is there twice")
        keys[key] = None
    return list(keys)


def _refuse_conditions(clip: Clip) -> None:
    for name in clip.conditions:
        if not _CONDITION.fullmatch(name):
            raise ValueError(
                f"{clip.name} has a condition {name!r}; a name is of 1 to 16 characters, a-z, 0-9 and _"
            )


def _state(clip: Clip) -> tuple[int, list[int]]:
    """Bytes of a clip and its conditions, and what tells that a file is still the same."""
    size, state = 0, []
    for part in (clip, *clip.conditions.values()):
        found = part.path.stat()
        size += found.st_size if part.span is None else part.span[1]
        state += [found.st_size, found.st_mtime_ns]
    return size, state


def _leave_out(left_out: dict[str, list[Skipped]], clip: Clip, reason: str) -> None:
    left_out.setdefault(str(clip.split), []).append(Skipped(clip.name, reason))


def _without_duplicates(entries: list[_Entry], left_out: dict[str, list[Skipped]]) -> list[_Entry]:
    repeated = duplicates([entry.clip for entry in entries], [entry.num_bytes for entry in entries])
    for place, kept in sorted(repeated.items()):
        other = entries[kept].clip
        _leave_out(left_out, entries[place].clip, f"the same audio as {other.name} in {other.split}")
    return [entry for place, entry in enumerate(entries) if place not in repeated]


def _description(clip: Clip) -> list[Any]:
    """All that is said of a clip but where its file lies: the same collection may be mounted elsewhere."""
    conditions = {name: _description(condition) for name, condition in clip.conditions.items()}
    return [clip.name, clip.split, clip.attributes, clip.start, clip.duration, clip.span, conditions]


def _cut(entries: list[_Entry], max_samples: int, max_bytes: int) -> Iterator[list[_Entry]]:
    part: list[_Entry] = []
    size = 0
    for entry in entries:
        if part and (len(part) >= max_samples or size + entry.num_bytes > max_bytes):
            yield part
            part, size = [], 0
        part.append(entry)
        size += entry.num_bytes
    if part:
        yield part
