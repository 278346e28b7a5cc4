"""Clips -> tar shards. The bytes depend on clips and settings alone, not on the workers nor on the clock."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from lightning_audio import audio
from sharding.examine import examine
from sharding.parallel import Progress, run_all
from sharding.read import span_table
from sharding.schema import (
    ATTRIBUTES_PART,
    DATASET_FILE,
    SKIPPED_FILE,
    SPLITS,
    CodesInfo,
    DatasetInfo,
    ShardIndex,
    ShardInfo,
    index_path,
)
from sharding.sources.clip import Clip
from sharding.splits import FRACTIONS, assign_splits


@dataclass(frozen=True)
class Skipped:
    """A clip that was left out, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class ShardReport:
    """What was written: the splits of the dataset in `folder`, and what was left out of it."""

    folder: Path
    splits: dict[str, DatasetInfo]
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def num_samples(self) -> int:
        return sum(split.num_samples for split in self.splits.values())


@dataclass(frozen=True, kw_only=True)
class _Shard:
    """One shard to write: the work of one process."""

    path: Path
    clips: list[tuple[str, Clip]]
    sample_rate: int | None
    channels: int | None


@dataclass(frozen=True)
class WrittenShard:
    """What came of it; info is None where no clip was good."""

    info: ShardInfo | None
    sample_rates: Counter[int]
    channels: Counter[int]
    skipped: list[Skipped]


def write_shards(
    clips: Sequence[Clip],
    out: str | Path,
    *,
    sample_rate: int | None = None,
    channels: int | None = None,
    fractions: Mapping[str, float] = FRACTIONS,
    group: str | None = None,
    group_pattern: str | None = None,
    samples_per_shard: int = 1000,
    bytes_per_shard: int = 256 << 20,
    workers: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ShardReport:
    """Cut `clips` into shards under `out`/<split>; unsound files are left out, counted and named.

    sample_rate (Hz), channels: what to re-encode to, as 16-bit FLAC; with neither, files go in as they are.
    fractions, group, group_pattern: of splits, where the source has none (see `assign_splits`).
    samples_per_shard, bytes_per_shard: a shard is closed at either, counted on the source's files.
    """
    if samples_per_shard < 1 or bytes_per_shard < 1:
        raise ValueError(f"a shard must hold something: {samples_per_shard} samples, {bytes_per_shard} bytes")
    clips = assign_splits(clips, fractions=fractions, group=group, group_pattern=group_pattern)
    keyed = list(zip(make_keys([clip.name for clip in clips]), clips, strict=True))
    # By hash: clips of a class or an artist, neighbours by name, are spread over the shards.
    keyed.sort(key=lambda pair: (hashlib.sha256(pair[0].encode()).digest(), pair[0]))
    with staged(out, overwrite=overwrite) as staging:
        shards: list[_Shard] = []
        for split in SPLITS:
            parts = _cut(
                [pair for pair in keyed if pair[1].split == split], samples_per_shard, bytes_per_shard
            )
            for number, part in enumerate(parts):
                path = staging / split / f"{number:06d}.tar"
                path.parent.mkdir(exist_ok=True)
                shards.append(_Shard(path=path, clips=part, sample_rate=sample_rate, channels=channels))
        written = list(run_all(_write_shard, shards, workers=workers, progress=progress))
        splits = describe([shard.path for shard in shards], written)
        skipped = [skip for shard in written for skip in shard.skipped]
        if not splits:
            raise ValueError(
                f"none of the {len(clips)} files could be used, e.g. {skipped[0].name}: {skipped[0].reason}"
            )
    return ShardReport(Path(out), splits, skipped)


def describe(
    paths: Sequence[Path], written: Sequence[WrittenShard], codes: CodesInfo | None = None
) -> dict[str, DatasetInfo]:
    """Write `dataset.json` and `skipped.jsonl` of each split that has samples; the others are removed."""
    infos: dict[str, DatasetInfo] = {}
    for folder in dict.fromkeys(path.parent for path in paths):
        shards = [shard for path, shard in zip(paths, written, strict=True) if path.parent == folder]
        skipped = [skip for shard in shards for skip in shard.skipped]
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


def make_keys(names: Sequence[str]) -> list[str]:
    """A key for each path: letters, digits, '-' and '_' only, short, all different, always the same."""
    keys: dict[str, None] = {}
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9_-]+", "_", str(PurePosixPath(name).with_suffix(""))).strip("_-")
        key = plain
        if not plain or len(plain) > 80 or plain in keys:
            digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:12]
            key = f"{plain[:64]}-{digest}".lstrip("-")
        if key in keys:
            raise ValueError(f"{name} is there twice")
        keys[key] = None
    return list(keys)


def _cut(pairs: list[tuple[str, Clip]], max_samples: int, max_bytes: int) -> Iterator[list[tuple[str, Clip]]]:
    part: list[tuple[str, Clip]] = []
    size = 0
    for pair in pairs:
        part_bytes = pair[1].path.stat().st_size
        if part and (len(part) >= max_samples or size + part_bytes > max_bytes):
            yield part
            part, size = [], 0
        part.append(pair)
        size += part_bytes
    if part:
        yield part


def _write_shard(task: _Shard) -> WrittenShard:
    skipped: list[Skipped] = []
    with ShardWriter(task.path) as writer:
        for key, clip in task.clips:
            try:
                _add_clip(writer, key, clip, task.sample_rate, task.channels)
            except (ValueError, FileNotFoundError, PermissionError) as error:
                skipped.append(Skipped(clip.name, str(error)))
    return writer.finish(skipped)


def _add_clip(
    writer: ShardWriter, key: str, clip: Clip, sample_rate: int | None, channels: int | None
) -> None:
    found = examine(clip.path)
    rate, count = sample_rate or found.sample_rate, channels or found.channels
    part = clip.path.suffix.lower()
    kept = (sample_rate is None and channels is None) or (
        part == ".flac" and (rate, count) == (found.sample_rate, found.channels)
    )
    num_samples = found.num_samples
    data: bytes | None = None
    if not kept:
        wav = audio.convert(audio.read(clip.path)[0], found.sample_rate, rate, count)
        part, num_samples, data = ".flac", wav.shape[-1], audio.encode(wav, rate)
    about = {
        "source": clip.name,
        "sample_rate": rate,
        "channels": count,
        "duration": round(num_samples / rate, 6),
    }
    text = json.dumps({**clip.attributes, **about}, ensure_ascii=False, allow_nan=False).encode()
    with clip.path.open("rb") if data is None else io.BytesIO(data) as file:
        writer.add(key, {part[1:]: file, ATTRIBUTES_PART: text}, num_samples, rate, count)


class ShardWriter:
    """A tar and its index, written sample by sample; `finish`, after the `with` block, sums it up."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._keys: list[str] = []
        self._spans: dict[str, dict[int, tuple[int, int]]] = {}
        self._audio: list[tuple[int, int, int]] = []

    def __enter__(self) -> ShardWriter:
        self._tar = tarfile.open(self.path, "w", format=tarfile.USTAR_FORMAT)
        return self

    def __exit__(self, *error: object) -> None:
        self._tar.close()

    def add(
        self,
        key: str,
        parts: Mapping[str, bytes | BinaryIO],
        num_samples: int,
        sample_rate: int,
        channels: int,
    ) -> None:
        """One sample; parts by name, without the dot. The numbers (sample_rate in Hz) are its audio's."""
        for part, data in sorted(parts.items()):
            file = io.BytesIO(data) if isinstance(data, bytes) else data
            member = tarfile.TarInfo(f"{key}.{part}")  # mtime 0, no owner: the same bytes every time
            member.size = file.seek(0, 2)
            file.seek(0)
            # A ustar header is one block, always, so the data starts 512 bytes on.
            self._spans.setdefault(part, {})[len(self._keys)] = (self._tar.offset + 512, member.size)
            self._tar.addfile(member, file)
        self._keys.append(key)
        self._audio.append((num_samples, sample_rate, channels))

    def finish(self, skipped: list[Skipped]) -> WrittenShard:
        """Write the index; an empty shard is removed."""
        if not self._keys:
            self.path.unlink()
            return WrittenShard(None, Counter(), Counter(), skipped)
        parts = {part: span_table(places, len(self._keys)) for part, places in self._spans.items()}
        num_samples, sample_rates, channels = np.array(self._audio, np.int64).T
        index = ShardIndex(self._keys, parts, num_samples, sample_rates, channels)
        index.save(index_path(self.path))
        info = ShardInfo(
            name=self.path.name,
            num_samples=len(index),
            num_bytes=self.path.stat().st_size,
            sha256=file_hash(self.path),
            index_sha256=file_hash(index_path(self.path)),
            duration=round(float(index.durations.sum()), 6),
        )
        return WrittenShard(info, Counter(sample_rates.tolist()), Counter(channels.tolist()), skipped)


def file_hash(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def staged(out: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder beside `out` that takes its place if the block ends well, and is removed if it does not.

    overwrite: replace a dataset that is there; a folder that holds anything else is never removed.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not overwrite:
            raise FileExistsError(f"{out} exists already; choose another folder or ask to overwrite it")
        if not any(out.glob(f"*/{DATASET_FILE}")):
            raise FileExistsError(f"{out} exists and is no dataset; it is not overwritten")
    staging = out.parent / f".{out.name}.partial"
    if staging.exists():  # of a run that was killed
        shutil.rmtree(staging)
    staging.mkdir(parents=True)
    try:
        yield staging
        if out.exists():
            shutil.rmtree(out)
        staging.replace(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
