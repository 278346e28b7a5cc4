"""Is a dataset what it says it is? Hashes, counts, indexes, that all of it decodes, and that no split leaks."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sharding.checking.repetition import DIGEST, across_splits, digest, within_splits
from sharding.checking.samples import look_through, unlike_index
from sharding.parallel import Progress, run_all
from sharding.read import spans
from sharding.schema import (
    DURATIONS_FILE,
    DatasetInfo,
    ShardIndex,
    ShardInfo,
    index_path,
    parse_durations,
    read_small,
    split_folders,
)
from sharding.writing.shard import file_hash

GROUPS = ("source", "group")
"""Attributes of which no value may be in two splits: the track that a clip was cut from, and its group."""

# Seconds, on a shard: durations are rounded when they are written.
_DURATION_SLACK = 1e-3


@dataclass(frozen=True)
class Finding:
    """One thing that was found, and where; shard, sample and key are absent where it is about the whole.

    also_in: the other place, where it is about something that is there twice.
    """

    reason: str
    split: str
    shard: str | None = None
    sample: int | None = None
    key: str | None = None
    also_in: str | None = None

    def __str__(self) -> str:
        place = self.split if self.shard is None else f"{self.split}/{self.shard}"
        return f"{place}: {self.reason}" if self.key is None else f"{place}: {self.key}: {self.reason}"


@dataclass(frozen=True)
class CheckReport:
    """What was found: the splits, how many parts of each kind, what is wrong, and what is worth knowing."""

    splits: dict[str, DatasetInfo] = field(default_factory=dict)
    parts: Counter[str] = field(default_factory=Counter)
    problems: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def lines(self, *, most: int | None = None) -> list[str]:
        """For people: one line per split, then at most so many notes and problems, then the verdict."""
        found = [
            f"{name}: {info.num_samples} samples in {len(info.shards)} shards, {info.duration / 3600:.3f} h, "
            f"{', '.join(f'{rate} Hz' for rate in info.sample_rates)}, "
            f"{', '.join(f'{channels} ch' for channels in info.channels)}, "
            + (f"codes of {info.codes.num_codebooks} codebooks" if info.codes else "audio")
            + (f", {info.num_skipped} skipped when made" if info.num_skipped else "")
            for name, info in self.splits.items()
        ]
        if self.parts:
            found.append(
                "parts: " + ", ".join(f"{count} .{part}" for part, count in sorted(self.parts.items()))
            )
        found += _at_most([f"note: {note}" for note in self.notes], most, "notes")
        found += _at_most([str(problem) for problem in self.problems], most, "problems")
        return [*found, "sound" if self.ok else f"{len(self.problems)} problems"]

    def values(self) -> dict[str, Any]:
        """For machines: the same as plain values for JSON."""
        return {
            "sound": self.ok,
            "splits": {
                name: {
                    "num_samples": info.num_samples,
                    "num_shards": len(info.shards),
                    "duration": info.duration,
                    "sample_rates": info.sample_rates,
                    "channels": info.channels,
                    "codes": asdict(info.codes) if info.codes else None,
                    "num_skipped": info.num_skipped,
                }
                for name, info in self.splits.items()
            },
            "parts": dict(sorted(self.parts.items())),
            "problems": [asdict(problem) for problem in self.problems],
            "notes": [asdict(note) for note in self.notes],
        }


def _at_most(lines: list[str], most: int | None, what: str) -> list[str]:
    if most is None or len(lines) <= most:
        return lines
    return [*lines[:most], f"... and {len(lines) - most} more {what}"]


@dataclass(frozen=True, kw_only=True)
class _Shard:
    """One shard to look at: the work of one process."""

    split: str
    path: Path
    info: ShardInfo
    split_info: DatasetInfo
    decode: bool
    groups: tuple[str, ...]


@dataclass
class _Found:
    """What came of it.  digests: by what they are of, S16 [N], empty where a sample has no such thing."""

    problems: list[Finding] = field(default_factory=list)
    parts: Counter[str] = field(default_factory=Counter)
    sample_rates: Counter[int] = field(default_factory=Counter)
    channels: Counter[int] = field(default_factory=Counter)
    milliseconds: np.ndarray | None = None
    digests: dict[str, np.ndarray] = field(default_factory=dict)


def check(
    dataset: str | Path,
    *,
    decode: bool = True,
    groups: Sequence[str] = GROUPS,
    workers: int = 1,
    progress: Progress | None = None,
) -> CheckReport:
    """Read a dataset through; what is wrong is in the report, nothing is changed.

    decode: also decode every sample, not only compare hashes, indexes and attributes.
    groups: attributes of which no value may be in two splits.
    Keeps some 64 bytes of each sample, to find what is there twice; nothing else grows with the dataset.
    """
    report = CheckReport()
    shards: list[_Shard] = []
    folders = split_folders(dataset)
    for split, folder in folders.items():
        try:
            info = DatasetInfo.load(folder)
        except ValueError as error:
            report.problems.append(Finding(str(error), split))
            continue
        report.splits[split] = info
        listed = {shard.name: shard for shard in info.shards}
        shards += [
            _Shard(
                split=split,
                path=folder / name,
                info=shard,
                split_info=replace(info, shards=()),  # of the others it need not know
                decode=decode,
                groups=tuple(groups),
            )
            for name, shard in listed.items()
        ]
        report.problems.extend(_twice_listed(split, info))
        report.notes.extend(
            Finding("is in the folder but not in dataset.json", split, path.name)
            for path in sorted(folder.glob("*.tar"))
            if path.name not in listed
        )
    found = list(run_all(_check_shard, shards, workers=workers, progress=progress))
    for shard in found:
        report.problems.extend(shard.problems)
        report.parts.update(shard.parts)
    for split, info in report.splits.items():
        own = [findings for shard, findings in zip(shards, found, strict=True) if shard.split == split]
        report.problems.extend(_count_problems(split, info, own))
        report.problems.extend(_duration_problems(split, folders[split], info, own))
    for finding, is_wrong in _repetitions(shards, found):
        (report.problems if is_wrong else report.notes).append(finding)
    return report


def _twice_listed(split: str, info: DatasetInfo) -> list[Finding]:
    names = Counter(shard.name for shard in info.shards)
    return [Finding(f"{name} is listed {count} times", split) for name, count in names.items() if count > 1]


def _count_problems(split: str, info: DatasetInfo, found: Sequence[_Found]) -> list[Finding]:
    """Where the counts of dataset.json are not those of the indexes; not asked where an index is broken."""
    if any(shard.milliseconds is None for shard in found):
        return []
    problems = []
    stated_counts = (("sample rates", info.sample_rates), ("channels", info.channels))
    for (what, stated), name in zip(stated_counts, ("sample_rates", "channels"), strict=True):
        counted: Counter[int] = sum((getattr(shard, name) for shard in found), Counter())
        if Counter(stated) != counted:
            problems.append(
                Finding(
                    f"{what} in dataset.json count {_counts(stated)}, the indexes {_counts(counted)}", split
                )
            )
    return problems


def _duration_problems(split: str, folder: Path, info: DatasetInfo, found: Sequence[_Found]) -> list[Finding]:
    """Where `durations.bin` does not say what the indexes say; a dataset from before it does without."""
    lengths = [shard.milliseconds for shard in found if shard.milliseconds is not None]
    path = folder / DURATIONS_FILE
    if not path.is_file() or len(lengths) < len(found):
        return []
    stated = parse_durations(read_small(path), info)
    if stated is None:
        return [Finding(f"{path.name} is not of these shards", split)]
    if not np.array_equal(stated, np.concatenate([np.zeros(0, np.uint32), *lengths])):
        return [Finding(f"{path.name} has other durations than the indexes", split)]
    return []


def _counts(counts: dict[int, int] | Counter[int]) -> str:
    return ", ".join(f"{value}: {count}" for value, count in sorted(counts.items())) or "none"


def _check_shard(shard: _Shard) -> _Found:
    found = _Found()

    def problem(reason: object, sample: int | None = None, key: str | None = None) -> None:
        found.problems.append(Finding(str(reason), shard.split, shard.path.name, sample, key))

    try:
        for reason in _file_problems(shard):
            problem(reason)
        keys, table = spans(shard.path)
    except (ValueError, OSError) as error:
        problem(error)
        return found
    found.parts.update({part: int((places[:, 1] >= 0).sum()) for part, places in table.items()})
    if len(keys) != shard.info.num_samples:
        problem(f"{len(keys)} samples, dataset.json says {shard.info.num_samples}")
    index = _own_index(shard, keys, table, problem)
    if index is not None:
        found.sample_rates.update(index.sample_rates.tolist())
        found.channels.update(index.channels.tolist())
        found.milliseconds = index.milliseconds
    # Without an index that is the tar's own, the samples are still looked through, as the tar has them.
    unsaid = np.zeros(len(keys), np.int64)
    walked = index or ShardIndex(keys, table, unsaid, unsaid, unsaid)
    found.digests = {name: np.zeros(len(keys), DIGEST) for name in ("key", "content", *shard.groups)}
    with shard.path.open("rb") as file:
        for place, key in enumerate(keys):
            sample = look_through(file, walked, place, shard.split_info, decode=shard.decode)
            reasons = sample.problems
            if index is not None:
                reasons = reasons + unlike_index(sample, index, place, shard.split_info.codes)
            for reason in reasons:
                problem(reason, place, key)
            found.digests["key"][place] = digest(key)
            found.digests["content"][place] = sample.content
            for name in shard.groups:
                value = sample.attributes.get(name)
                found.digests[name][place] = digest(str(value)) if value not in (None, "") else b""
    return found


def _own_index(
    shard: _Shard, keys: list[str], table: dict[str, np.ndarray], problem: Callable[[object], None]
) -> ShardIndex | None:
    """The index of a tar, if it is one and it is that of the tar."""
    try:
        index = ShardIndex.load(index_path(shard.path))
    except (ValueError, OSError) as error:
        problem(error)
        return None
    if (
        keys != index.keys
        or table.keys() != index.parts.keys()
        or any(not np.array_equal(table[part], index.parts[part]) for part in table)
    ):
        problem("the index is not that of the tar")
        return None
    duration = float(index.durations.sum())
    if not abs(duration - shard.info.duration) <= _DURATION_SLACK:
        problem(f"{duration:.3f} s of audio by its index, dataset.json says {shard.info.duration:.3f} s")
    return index


def _file_problems(shard: _Shard) -> Iterator[str]:
    if not shard.path.is_file():  # a pipe would wait for ever
        raise FileNotFoundError(f"there is no file {shard.path}")
    size = shard.path.stat().st_size
    if size != shard.info.num_bytes:
        yield f"{size} bytes, dataset.json says {shard.info.num_bytes}"
    elif file_hash(shard.path) != shard.info.sha256:
        yield f"{shard.path.name} has another hash than when it was made"
    index = index_path(shard.path)
    if index.is_file() and file_hash(index) != shard.info.index_sha256:
        yield f"{index.name} has another hash than when it was made"


def _repetitions(shards: Sequence[_Shard], found: Sequence[_Found]) -> Iterator[tuple[Finding, bool]]:
    """What is there twice, and whether that is wrong: only the same audio twice in one split is not."""
    walked = [number for number, shard in enumerate(found) if shard.digests]
    if not walked:
        return
    counts = [len(found[number].digests["key"]) for number in walked]
    stops = np.cumsum(counts)
    splits = {split: number for number, split in enumerate(dict.fromkeys(shard.split for shard in shards))}
    split_of = np.repeat([splits[shards[number].split] for number in walked], counts)

    def gathered(what: str) -> np.ndarray:
        return np.concatenate([found[number].digests[what] for number in walked])

    @functools.lru_cache(maxsize=64)
    def keys_of(path: Path) -> list[str]:
        return spans(path)[0]

    def finding(place: int, other: int, reason: str) -> Finding:
        (shard, sample), (other_shard, other_sample) = locate(place), locate(other)
        where = f"{other_shard.split}/{other_shard.path.name}: {keys_of(other_shard.path)[other_sample]}"
        key = keys_of(shard.path)[sample]
        return Finding(f"{reason} {where}", shard.split, shard.path.name, sample, key, where)

    def locate(place: int) -> tuple[_Shard, int]:
        number = int(np.searchsorted(stops, place, side="right"))
        return shards[walked[number]], place - int(stops[number]) + counts[number]

    keys, content = gathered("key"), gathered("content")
    for pair in within_splits(keys, split_of):
        yield finding(*pair, "its key is also that of"), True
    for pair in within_splits(content, split_of):
        yield finding(*pair, "the same audio as"), False
    for pair in across_splits(content, split_of):
        yield finding(*pair, "the same audio are in another split,"), True
    for what in shards[0].groups:
        for pair in across_splits(gathered(what), split_of):
            yield finding(*pair, f"its {what} is also in another split,"), True
