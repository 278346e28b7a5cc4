"""Clips -> a dataset of tar shards. Its bytes depend on clips and settings alone, not on workers, parts or the clock.

A shard that is done leaves a receipt, so that an interrupted run goes on where it was, and so that of several
parts of one job, on as many machines, the one that comes last sees that it is and puts the dataset in place.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sharding.parallel import Progress, advance, run_all
from sharding.schema import SKIPPED_FILE, CodesInfo, DatasetInfo, index_path, split_folders
from sharding.sources.clip import Clip
from sharding.writing.plan import Plan, PlannedShard, make_plan
from sharding.writing.prepare import Settings, Skipped, prepare
from sharding.writing.receipts import Partial
from sharding.writing.shard import ShardWriter, WrittenShard
from sharding.writing.spool import Spool
from sharding.writing.staging import put_in_place, refuse_existing

PLAN_FILE = "plan.json"
"""In a dataset's folder: what was asked for, and the digest of the plan that it was made by."""


@dataclass(frozen=True)
class ShardReport:
    """What was written: the splits of the dataset in `folder`, and what was left out of it.

    num_clipped: samples whose source is clipped; their attribute `clipped` says how much of it.
    num_found: shards that an earlier, interrupted run had left.
    num_missing: shards that other parts of the job have still to write; no dataset is there before.
    """

    folder: Path
    splits: dict[str, DatasetInfo]
    skipped: list[Skipped] = field(default_factory=list)
    num_clipped: int = 0
    num_found: int = 0
    num_missing: int = 0

    @property
    def num_samples(self) -> int:
        return sum(split.num_samples for split in self.splits.values())


@dataclass(frozen=True)
class _Task:
    """One shard to write: the work of one process."""

    shard: PlannedShard
    settings: Settings
    partial: Partial


def write_shards(
    clips: Sequence[Clip],
    out: str | Path,
    *,
    sample_rate: int | None = None,
    channels: int | None = None,
    subtype: str = "PCM_16",
    flac_level: int = 5,
    loudness: float | None = None,
    peak: float = -1.0,
    chunk_duration: float | None = None,
    min_duration: float = 0.0,
    keep_duplicates: bool = False,
    fractions: Mapping[str, float] | None = None,
    group: str | None = None,
    group_pattern: str | None = None,
    samples_per_shard: int = 1000,
    bytes_per_shard: int = 256 << 20,
    workers: int = 1,
    part: tuple[int, int] = (0, 1),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ShardReport:
    """Cut `clips` into shards under `out`/<split>; unsound and silent files are left out, counted and named.

    sample_rate (Hz), channels, subtype, flac_level, loudness (LUFS), peak (dBFS), chunk_duration, min_duration (s):
        see `sharding.writing.prepare.Settings`; with none of them, files go in as they are.
    keep_duplicates: also keep what is byte for byte the audio of another clip.
    fractions, group, group_pattern: of splits, where the source has none (see `assign_splits`).
    samples_per_shard, bytes_per_shard: a shard is closed at either, counted on the source's files; all chunks of
        a track are in one shard.
    part: (i, n), write only every n-th shard from the i-th on; the part that finds all done finishes the dataset.
    Started again after an interruption, it goes on with what is there. progress counts clips.
    """
    settings = Settings(
        sample_rate=sample_rate,
        channels=channels,
        subtype=subtype,
        flac_level=flac_level,
        loudness=loudness,
        peak=peak,
        chunk_duration=chunk_duration,
        min_duration=min_duration,
    )
    number, count = part
    if not 0 <= number < count:
        raise ValueError(f"part {number} of {count}: parts are numbered from 0 to {count - 1}")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    out = Path(out)
    if count == 1:  # of several parts, one that starts late may find the dataset that it belongs to
        refuse_existing(out, overwrite=overwrite)
    plan = make_plan(
        clips,
        settings,
        fractions=fractions,
        group=group,
        group_pattern=group_pattern,
        samples_per_shard=samples_per_shard,
        bytes_per_shard=bytes_per_shard,
        keep_duplicates=keep_duplicates,
    )
    partial = Partial(out.parent / f".{out.name}.{plan.digest[:12]}.partial", plan.digest)
    if count > 1 and _is_of(out, plan):
        return _report_of(out, partial)
    refuse_existing(out, overwrite=overwrite)
    _warn_of_others(out, partial)
    partial.dataset.mkdir(parents=True, exist_ok=True)
    tasks: list[_Task] = []
    num_found = num_done = 0
    for shard in plan.shards[number::count]:
        if partial.receipt(shard) is None:
            tasks.append(_Task(shard, settings, partial))
        else:
            num_found += 1
            num_done += len(shard.clips)
    total = num_done + sum(len(task.shard.clips) for task in tasks)
    for _ in run_all(_write_shard, tasks, workers=workers, progress=progress, done=num_done, total=total):
        pass
    return _finish(out, plan, partial, num_found)


def _write_shard(task: _Task) -> None:
    skipped: list[Skipped] = []
    num_clipped = 0
    with task.partial.work(task.shard) as folder:
        with ShardWriter(folder / task.shard.name) as writer, Spool(folder) as spool:
            for key, clip in task.shard.clips:
                try:
                    for made in prepare(key, clip, task.settings, spool):
                        if isinstance(made, Skipped):
                            skipped.append(made)
                            continue
                        writer.add(made.key, made.parts, made.num_samples, made.sample_rate, made.channels)
                        num_clipped += made.is_clipped
                except ValueError as error:
                    skipped.append(Skipped(clip.name, str(error)))
                advance()
        written = writer.finish(skipped, num_clipped)
        if written.info:
            task.partial.take(folder / task.shard.name, task.shard)
        task.partial.sign(task.shard, written)


def _finish(out: Path, plan: Plan, partial: Partial, num_found: int) -> ShardReport:
    """The dataset comes to its place if all its shards are there; of several that see it, one does it."""
    receipts = [partial.receipt(shard) for shard in plan.shards]
    written = [receipt for receipt in receipts if receipt is not None]
    skipped = [skip for skips in plan.left_out.values() for skip in skips]
    skipped += [skip for receipt in written for skip in receipt.skipped]
    num_clipped = sum(receipt.num_clipped for receipt in written)
    if len(written) < len(receipts):
        if _is_of(out, plan):  # another part has put it in place meanwhile
            return _report_of(out, partial)
        return ShardReport(out, {}, skipped, num_clipped, num_found, len(receipts) - len(written))
    if not any(receipt.info for receipt in written):
        shutil.rmtree(partial.folder, ignore_errors=True)
        num_files = plan.num_clips + sum(map(len, plan.left_out.values()))
        raise ValueError(
            f"none of the {num_files} files could be used, e.g. {skipped[0].name}: {skipped[0].reason}"
        )
    try:
        splits = _describe_apart(plan, partial, written)
        put_in_place(partial.dataset, out)
    except FileNotFoundError:
        if not _is_of(out, plan):
            raise
        return _report_of(out, partial)
    for folder in _partials(out):
        shutil.rmtree(folder, ignore_errors=True)
    return ShardReport(out, splits, skipped, num_clipped, num_found)


def _describe_apart(plan: Plan, partial: Partial, written: list[WrittenShard]) -> dict[str, DatasetInfo]:
    """`describe`, in a folder of its own: another part may be doing the same, and only whole files get across."""
    with tempfile.TemporaryDirectory(dir=partial.folder, ignore_cleanup_errors=True) as scratch:
        paths = [Path(scratch) / shard.split / shard.name for shard in plan.shards]
        for path, shard, made in zip(paths, plan.shards, written, strict=True):
            path.parent.mkdir(exist_ok=True)
            if made.info:
                index_path(path).symlink_to(index_path(partial.path(shard)).absolute())
        splits = describe(paths, written, left_out=plan.left_out)
        for split in splits:
            for file in (Path(scratch) / split).iterdir():
                if not file.is_symlink():
                    file.replace(partial.dataset / split / file.name)
        (Path(scratch) / PLAN_FILE).write_text(_plan_text(plan))
        (Path(scratch) / PLAN_FILE).replace(partial.dataset / PLAN_FILE)
    return splits


def describe(
    paths: Sequence[Path],
    written: Sequence[WrittenShard],
    codes: CodesInfo | None = None,
    left_out: Mapping[str, Sequence[Skipped]] | None = None,
) -> dict[str, DatasetInfo]:
    """Write `dataset.json` and `skipped.jsonl` of each split that has samples; the others are removed.

    left_out: by split, what was left out before there were shards.
    """
    infos: dict[str, DatasetInfo] = {}
    for folder in dict.fromkeys(path.parent for path in paths):
        shards = [shard for path, shard in zip(paths, written, strict=True) if path.parent == folder]
        skipped = list((left_out or {}).get(folder.name, []))
        skipped += [skip for shard in shards for skip in shard.skipped]
        infos[folder.name] = DatasetInfo(
            split=folder.name,
            shards=tuple(shard.info for shard in shards if shard.info),
            sample_rates=dict(sorted(sum((shard.sample_rates for shard in shards), Counter()).items())),
            channels=dict(sorted(sum((shard.channels for shard in shards), Counter()).items())),
            codes=codes,
            num_skipped=len(skipped),
        )
        infos[folder.name].save(folder)
        if skipped:
            lines = (json.dumps({"name": skip.name, "reason": skip.reason}) + "\n" for skip in skipped)
            (folder / SKIPPED_FILE).write_text("".join(lines))
        if not infos[folder.name].shards:
            shutil.rmtree(folder)
            del infos[folder.name]
    return infos


def _plan_text(plan: Plan) -> str:
    values = {"plan": plan.digest, "settings": asdict(plan.settings), "num_clips": plan.num_clips}
    return json.dumps(values, indent=1) + "\n"


def _is_of(out: Path, plan: Plan) -> bool:
    """Whether the dataset at `out` was made by this very plan."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return (out / PLAN_FILE).read_text() == _plan_text(plan)
    return False


def _report_of(out: Path, partial: Partial) -> ShardReport:
    """Of a dataset that another part has put in place."""
    shutil.rmtree(partial.folder, ignore_errors=True)
    splits = {split: DatasetInfo.load(folder) for split, folder in split_folders(out).items()}
    skipped: list[Skipped] = []
    for split in splits:
        with contextlib.suppress(FileNotFoundError):
            for line in (out / split / SKIPPED_FILE).read_text().splitlines():
                skipped.append(Skipped(**json.loads(line)))
    return ShardReport(out, splits, skipped)


def _partials(out: Path) -> list[Path]:
    name = re.compile(rf"\.{re.escape(out.name)}\.[0-9a-f]{{12}}\.partial")
    return sorted(folder for folder in out.parent.glob(".*.partial") if name.fullmatch(folder.name))


def _warn_of_others(out: Path, partial: Partial) -> None:
    others = [folder.name for folder in _partials(out) if folder != partial.folder]
    if others and not partial.folder.exists():
        warnings.warn(
            f"files or settings have changed since an interrupted run wrote {', '.join(others)} in {out.parent}: "
            "starting anew, those shards are not used; they are removed when this run is done",
            stacklevel=3,
        )
