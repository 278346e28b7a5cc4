"""Is a dataset what it says it is? Hashes, counts, indexes, and that everything in it decodes."""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sharding.examine import examine
from sharding.parallel import Progress, run_all
from sharding.read import read_part, spans
from sharding.schema import (
    ATTRIBUTES_PART,
    AUDIO_PARTS,
    CODES_PART,
    CodesInfo,
    DatasetInfo,
    ShardIndex,
    ShardInfo,
    index_path,
    parse_codes,
    split_folders,
)
from sharding.write import file_hash


@dataclass(frozen=True)
class CheckReport:
    """What was found: the splits, how many parts of each kind, and what is wrong, a line each."""

    splits: dict[str, DatasetInfo] = field(default_factory=dict)
    parts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def lines(self) -> list[str]:
        """For people: one line per split, then the problems."""
        found = [
            f"{name}: {info.num_samples} samples in {len(info.shards)} shards, {info.duration / 3600:.3f} h, "
            f"{', '.join(f'{rate} Hz' for rate in info.sample_rates)}, "
            + (f"codes of {info.codes.num_codebooks} codebooks" if info.codes else "audio")
            + (f", {info.num_skipped} skipped when made" if info.num_skipped else "")
            for name, info in self.splits.items()
        ]
        return [*found, *self.problems, "sound" if self.ok else f"{len(self.problems)} problems"]


@dataclass(frozen=True)
class _Shard:
    path: Path
    info: ShardInfo
    codes: CodesInfo | None
    decode: bool


def check(
    dataset: str | Path, *, decode: bool = True, workers: int = 1, progress: Progress | None = None
) -> CheckReport:
    """Read a dataset through; what is wrong is in the report, nothing is changed.

    decode: also decode every sample, not only compare hashes and indexes.
    """
    report = CheckReport()
    shards: list[_Shard] = []
    for split, folder in split_folders(dataset).items():
        try:
            info = DatasetInfo.load(folder)
        except ValueError as error:
            report.problems.append(str(error))
            continue
        report.splits[split] = info
        shards += [_Shard(folder / shard.name, shard, info.codes, decode) for shard in info.shards]
        report.problems.extend(_count_problems(split, info))
    for problems, parts in run_all(_check_shard, shards, workers=workers, progress=progress):
        report.problems.extend(problems)
        report.parts.update(parts)
    return report


def _count_problems(split: str, info: DatasetInfo) -> list[str]:
    names = Counter(shard.name for shard in info.shards)
    problems = [f"{split}: {name} is listed {count} times" for name, count in names.items() if count > 1]
    for what, counts in (("sample rates", info.sample_rates), ("channels", info.channels)):
        if sum(counts.values()) != info.num_samples:
            problems.append(
                f"{split}: {what} count {sum(counts.values())} samples, the shards {info.num_samples}"
            )
    return problems


def _check_shard(shard: _Shard) -> tuple[list[str], Counter[str]]:
    name = f"{shard.path.parent.name}/{shard.path.name}"
    parts: Counter[str] = Counter()
    problems: list[str] = []
    try:
        problems += [f"{name}: {problem}" for problem in _file_problems(shard)]
        index = ShardIndex.load(index_path(shard.path))
        keys, found = spans(shard.path)
    except (ValueError, OSError) as error:
        return [*problems, f"{name}: {error}"], parts
    parts.update({part: int((table[:, 1] >= 0).sum()) for part, table in found.items()})
    if len(keys) != shard.info.num_samples:
        problems.append(f"{name}: {len(keys)} samples, dataset.json says {shard.info.num_samples}")
    if (
        keys != index.keys
        or found.keys() != index.parts.keys()
        or any(not np.array_equal(found[part], index.parts[part]) for part in found)
    ):
        problems.append(f"{name}: the index is not that of the tar")
    elif shard.decode:
        with shard.path.open("rb") as file:
            for sample, key in enumerate(keys):
                problems += [
                    f"{name}: {key}: {problem}" for problem in _sample_problems(file, index, sample, shard)
                ]
    return problems, parts


def _file_problems(shard: _Shard) -> list[str]:
    size = shard.path.stat().st_size
    if size != shard.info.num_bytes:
        return [f"{size} bytes, dataset.json says {shard.info.num_bytes}"]
    files = {shard.path: shard.info.sha256, index_path(shard.path): shard.info.index_sha256}
    return [
        f"{path.name} has another hash than when it was made"
        for path, made in files.items()
        if file_hash(path) != made
    ]


def _sample_problems(file: io.BufferedReader, index: ShardIndex, sample: int, shard: _Shard) -> list[str]:
    problems: list[str] = []
    present = [part for part, table in index.parts.items() if table[sample, 1] >= 0]
    if ATTRIBUTES_PART not in present:
        problems.append("has no attributes")
    if not index.audio_part(sample) and CODES_PART not in present:
        problems.append("has neither audio nor codes")
    if shard.codes and CODES_PART not in present:
        problems.append("has no codes")
    for part in present:
        try:
            data = read_part(file, index, sample, part)
            if part == ATTRIBUTES_PART and not isinstance(json.loads(data), dict):
                problems.append("its attributes are no JSON object")
            elif part == CODES_PART and shard.codes:
                parse_codes(
                    data, num_codebooks=shard.codes.num_codebooks, cardinality=shard.codes.cardinality
                )
            elif part.rpartition(".")[2] in AUDIO_PARTS:
                audio = examine(io.BytesIO(data))
                stated = (int(index.sample_rates[sample]), int(index.num_samples[sample]))
                # With codes the index speaks of the codec's audio, not of the copy that was kept.
                if (
                    part in AUDIO_PARTS
                    and not shard.codes
                    and (audio.sample_rate, audio.num_samples) != stated
                ):
                    problems.append(
                        f"{audio.num_samples} samples at {audio.sample_rate} Hz, the index says {stated}"
                    )
        except (ValueError, RecursionError) as error:
            problems.append(f".{part}: {error}")
    return problems
