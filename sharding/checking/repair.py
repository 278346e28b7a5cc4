"""Mending a dataset: what is broken is dropped and named in a list, what is sound stays as it is, byte for byte.

Everything new is written into `<split>/.repair` and moved into place, the quarantine list first, `dataset.json`
last. Killed anywhere, the dataset is one that a second repair mends: a tar says by itself what it holds.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lightning_audio.atomic import write_text
from sharding.checking.check import GROUPS, CheckReport, Finding, check
from sharding.checking.samples import Sample, look_through, unlike_index
from sharding.parallel import Progress, run_all
from sharding.read import members, open_part, span_table
from sharding.schema import (
    DATASET_FILE,
    DURATIONS_FILE,
    DatasetInfo,
    ShardIndex,
    ShardInfo,
    index_path,
    pack_durations,
    split_folders,
)
from sharding.writing.shard import ShardWriter, file_hash

QUARANTINE_FILE = "quarantine.jsonl"
_WORK = ".repair"
# What shows only once something else is mended, such as a leak into a tar that could not be read, takes a round.
_MOST_ROUNDS = 4


@dataclass(frozen=True)
class RepairReport:
    """What was done: what was dropped, which files are other than before, and the check of what came of it."""

    dropped: list[Finding]
    changed: list[str]
    after: CheckReport

    def lines(self, *, most: int | None = None) -> list[str]:
        """For people."""
        shown = self.dropped[:most]
        more = [f"... and {len(self.dropped) - len(shown)} more"] if len(shown) < len(self.dropped) else []
        return [
            *(f"dropped {finding}" for finding in shown),
            *more,
            f"{len(self.dropped)} dropped, listed in {QUARANTINE_FILE} of their split; "
            f"{len(self.changed)} files written anew",
        ]


@dataclass(frozen=True, kw_only=True)
class _Shard:
    """One shard to mend: the work of one process.

    index_is_as_made: its hash is that in `dataset.json`.   drop: sample -> why, of what only the others tell.
    """

    split: str
    path: Path
    work: Path
    info: DatasetInfo
    index_is_as_made: bool
    drop: dict[int, list[str]]


@dataclass
class _Mended:
    """What came of it; info is None where no sample is left."""

    dropped: list[Finding] = field(default_factory=list)
    info: ShardInfo | None = None


def repair(
    dataset: str | Path,
    *,
    groups: Sequence[str] = GROUPS,
    max_dropped: float = 0.5,
    workers: int = 1,
    progress: Progress | None = None,
) -> RepairReport:
    """Drop what `check` finds broken, and make indexes and `dataset.json` say what is there.

    A sample that does not decode, or that leaks into a later split, is dropped: its shard is written anew without
    it. A tar that is missing leaves the list; one whose index is broken gets a new index. Where only a tar's hash
    is another than when it was made, samples that decode are kept: nothing tells which of them was changed.

    max_dropped: ValueError, and nothing is changed, where more than this share of a split's samples are broken:
        then it is rather what `dataset.json` says of them that is wrong, such as which codec made the codes.
    """
    folders = split_folders(dataset)
    for folder in folders.values():
        DatasetInfo.load(folder)  # whose codes they are cannot be guessed: without it nothing can be mended
    for folder in folders.values():
        shutil.rmtree(folder / _WORK, ignore_errors=True)  # of a repair that was killed
    dropped: list[Finding] = []
    changed: dict[str, None] = {}
    report = check(dataset, groups=groups, workers=workers, progress=progress)
    _refuse_to_drop_most(report, max_dropped)
    for _ in range(_MOST_ROUNDS):
        for split, folder in folders.items():
            problems = [problem for problem in report.problems if problem.split == split]
            if problems:
                _mend_split(split, folder, problems, dropped, changed, workers, progress)
        if report.ok:
            break
        report = check(dataset, groups=groups, workers=workers, progress=progress)
    return RepairReport(dropped, list(changed), report)


def _refuse_to_drop_most(report: CheckReport, max_dropped: float) -> None:
    for split, info in report.splits.items():
        broken = {(p.shard, p.sample) for p in report.problems if p.split == split and p.sample is not None}
        if len(broken) > max_dropped * info.num_samples:
            first = next(p for p in report.problems if p.split == split and p.sample is not None)
            raise ValueError(
                f"{len(broken)} of {info.num_samples} samples of {split} are broken, more than {max_dropped:.0%}; "
                f"nothing was changed. The first: {first}"
            )


def _mend_split(
    split: str,
    folder: Path,
    problems: Sequence[Finding],
    dropped: list[Finding],
    changed: dict[str, None],
    workers: int,
    progress: Progress | None,
) -> None:
    info = DatasetInfo.load(folder)
    listed = {shard.name: shard for shard in info.shards}
    work = folder / _WORK
    work.mkdir()
    missing = [name for name in listed if not (folder / name).is_file()]
    _quarantine(folder, [Finding("the tar is missing", split, name) for name in missing], dropped)
    affected = {problem.shard for problem in problems}
    tasks = [
        _task(split, folder, info, name, shard, problems)
        for name, shard in listed.items()
        if name in affected and name not in missing
    ]
    mended: dict[str, ShardInfo | None] = dict.fromkeys(missing)
    for task, result in zip(tasks, run_all(_mend, tasks, workers=workers, progress=progress), strict=True):
        _quarantine(folder, result.dropped, dropped)
        mended[task.path.name] = result.info
        # The tar first: of a new tar beside an old index, the tar tells what the index should be.
        for name in (task.path.name, index_path(task.path).name):
            if result.info is not None and _is_new(work / name, folder / name):
                (work / name).replace(folder / name)
                changed[f"{split}/{name}"] = None
    for name in (name for name, shard in mended.items() if shard is None):
        index_path(folder / name).unlink(missing_ok=True)
        (folder / name).unlink(missing_ok=True)
    shards = [mended.get(name, shard) for name, shard in listed.items()]
    _save_info(folder, replace(info, shards=tuple(shard for shard in shards if shard is not None)))
    changed |= dict.fromkeys((f"{split}/{DURATIONS_FILE}", f"{split}/{DATASET_FILE}"))
    shutil.rmtree(work)


def _task(
    split: str, folder: Path, info: DatasetInfo, name: str, shard: ShardInfo, problems: Sequence[Finding]
) -> _Shard:
    drop: dict[int, list[str]] = {}
    for problem in problems:
        if problem.shard == name and problem.sample is not None and problem.also_in is not None:
            drop.setdefault(problem.sample, []).append(problem.reason)
    index = index_path(folder / name)
    return _Shard(
        split=split,
        path=folder / name,
        work=folder / _WORK,
        info=replace(info, shards=()),  # of the others it need not know
        index_is_as_made=index.is_file() and file_hash(index) == shard.index_sha256,
        drop=drop,
    )


def _save_info(folder: Path, info: DatasetInfo) -> None:
    """Write `durations.bin` and `dataset.json` anew, with the counts of the indexes."""
    rates: Counter[int] = Counter()
    channels: Counter[int] = Counter()

    def indexes() -> Iterator[ShardIndex]:
        for shard in info.shards:
            index = ShardIndex.load(index_path(folder / shard.name))
            rates.update(index.sample_rates.tolist())
            channels.update(index.channels.tolist())
            yield index

    durations = pack_durations(info, indexes())
    counted = replace(info, sample_rates=dict(sorted(rates.items())), channels=dict(sorted(channels.items())))
    work = folder / _WORK
    counted.save(work)
    (work / DURATIONS_FILE).write_bytes(durations)
    for name in (DURATIONS_FILE, DATASET_FILE):
        (work / name).replace(folder / name)


def _is_new(made: Path, present: Path) -> bool:
    return made.exists() and not (present.is_file() and file_hash(made) == file_hash(present))


def _quarantine(folder: Path, findings: Sequence[Finding], dropped: list[Finding]) -> None:
    """Add to the list of what was dropped; a repair that was killed may have said the same already."""
    if not findings:
        return
    path = folder / QUARANTINE_FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    lines += [json.dumps({"shard": f.shard, "key": f.key, "reason": f.reason}) for f in findings]
    made = write_text(folder / _WORK / QUARANTINE_FILE, "".join(f"{line}\n" for line in dict.fromkeys(lines)))
    made.replace(path)
    dropped.extend(findings)


def _mend(task: _Shard) -> _Mended:
    """Look the tar through and write, into the work folder, what has to be new: its index, and it too if need be."""
    result = _Mended()

    def drop(reasons: Sequence[str], place: int | None = None, key: str | None = None) -> None:
        text = "; ".join(dict.fromkeys(reasons))
        result.dropped.append(Finding(text, task.split, task.path.name, place, key))

    walked = _walk(task.path, _index_as_made(task))
    index, codes = walked.index, task.info.codes
    good: dict[int, tuple[int, int, int]] = {}
    with task.path.open("rb") as file:
        for place, key in enumerate(index.keys):
            sample = look_through(file, index, place, task.info, decode=True)
            reasons = [*sample.problems, *walked.doubts.get(place, ()), *task.drop.get(place, ())]
            stated = codes is not None and index.sample_rates[place] > 0
            if stated and not reasons:
                reasons = unlike_index(sample, index, place, codes)
            if reasons:
                drop(reasons, place, key)
            else:
                good[place] = _stated(index, place) if stated else _numbers(sample, task.info)
        if walked.damage:
            drop([walked.damage])
        target = task.work / task.path.name
        if result.dropped:
            result.info = _write_without(target, file, index, good)
        else:
            new_index = ShardIndex(index.keys, index.parts, *_columns(list(good.values())))
            new_index.save(index_path(target))
            result.info = _shard_info(task.path, new_index, index_path(target))
    return result


def _write_without(
    target: Path, file: BinaryIO, index: ShardIndex, good: dict[int, tuple[int, int, int]]
) -> ShardInfo | None:
    """A new tar of the good samples of an open one."""
    with ShardWriter(target) as writer:
        for place, numbers in good.items():
            parts: dict[str, bytes | BinaryIO] = {
                part: open_part(file, index, place, part)
                for part, table in index.parts.items()
                if table[place, 1] >= 0
            }
            writer.add(index.keys[place], parts, *numbers)
    return writer.finish([]).info


def _shard_info(tar: Path, index: ShardIndex, saved: Path) -> ShardInfo:
    return ShardInfo(
        name=tar.name,
        num_samples=len(index),
        num_bytes=tar.stat().st_size,
        sha256=file_hash(tar),
        index_sha256=file_hash(saved),
        duration=round(float(index.durations.sum()), 6),
    )


def _columns(numbers: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """int64 [3, N]: samples, sample rates, channels, as an index has them."""
    return np.array(numbers, np.int64).reshape(-1, 3).T


def _stated(index: ShardIndex, place: int) -> tuple[int, int, int]:
    return int(index.num_samples[place]), int(index.sample_rates[place]), int(index.channels[place])


def _numbers(sample: Sample, info: DatasetInfo) -> tuple[int, int, int]:
    """(samples, sample rate, channels) for the index, of a sound sample; of codes, of what they stand for."""
    if info.codes is None:
        assert sample.audio is not None  # else it would have a problem
        return sample.audio.num_samples, sample.audio.sample_rate, sample.audio.channels
    assert sample.num_frames is not None
    if not info.sample_rates or not info.channels:
        raise ValueError(f"dataset.json of {info.split} does not say what audio its codes stand for")
    rate, channels = (max(counts, key=counts.__getitem__) for counts in (info.sample_rates, info.channels))
    duration = sample.num_frames / info.codes.frame_rate
    stated = sample.attributes.get("duration")
    # The codes end with a frame that is padded; the attributes know better where the audio ended.
    if isinstance(stated, float) and abs(stated - duration) * info.codes.frame_rate <= 1:
        duration = stated
    return round(duration * rate), rate, channels


@dataclass
class _Walked:
    """The samples of a tar; the index's sample rate is 0 where nothing true is known of the numbers.

    doubts: sample -> why it is not whole.   damage: what is lost without a name.
    """

    index: ShardIndex
    doubts: dict[int, list[str]] = field(default_factory=dict)
    damage: str = ""


def _walk(tar: Path, as_made: ShardIndex | None) -> _Walked:
    """By the tar itself if it can be read to its end; else by its index, if that is as it was made; else so far."""
    keys: list[str] = []
    parts: dict[str, dict[int, tuple[int, int]]] = {}
    doubts: dict[int, list[str]] = {}
    damage = ""
    try:
        for key, part, offset, size in members(tar):
            if not keys or keys[-1] != key:
                keys.append(key)
            places = parts.setdefault(part, {})
            if len(keys) - 1 in places:
                doubts[len(keys) - 1] = [f".{part} is there twice"]
            places[len(keys) - 1] = (offset, size)
    except ValueError as error:
        if as_made is not None:
            return _Walked(as_made, damage=f"{error}; its samples are read by the index")
        damage = f"{error}; what came after is lost"
        if keys:  # its other parts may be among what is lost
            doubts.setdefault(len(keys) - 1, []).append("the tar is damaged after it")
    seen: set[str] = set()
    for place, key in enumerate(keys):
        if key in seen:
            doubts.setdefault(place, []).append("its key is there twice, or its parts apart")
        seen.add(key)
    known = {} if as_made is None else {key: _stated(as_made, at) for at, key in enumerate(as_made.keys)}
    columns = _columns([known.get(key, (0, 0, 0)) for key in keys])
    table = {part: span_table(places, len(keys)) for part, places in parts.items()}
    return _Walked(ShardIndex(keys, table, *columns), doubts, damage)


def _index_as_made(task: _Shard) -> ShardIndex | None:
    """The index beside a tar, unless it was changed, or was never true: spans that overlap would fill a disk."""
    if not task.index_is_as_made:
        return None
    try:
        index = ShardIndex.load(index_path(task.path))
    except ValueError:
        return None
    spans = np.concatenate([np.zeros((0, 2), np.int64), *index.parts.values()])
    spans = spans[spans[:, 1] >= 0]
    spans = spans[np.argsort(spans[:, 0], kind="stable")].astype(np.float64)
    if (spans[:, 0] < 0).any() or (spans[:-1].sum(axis=1) > spans[1:, 0]).any():
        return None
    return index
