"""Shards -> the same shards with codes (`.codes.npy`, uint16 [K, T]) and features (`.t5.npy`, ...) in them.

Every shard is the work of one process, and its bytes depend on nothing but the source, the encoders and their settings:
not on ranks, parts, workers or interruptions.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lightning_audio.atomic import write_text
from sharding.encoding.clips import SourceShard
from sharding.encoding.encoders import Codec, Encoders
from sharding.encoding.features import Feature
from sharding.encoding.task import EncodeTask, run
from sharding.parallel import Progress
from sharding.schema import SKIPPED_FILE, CodesInfo, DatasetInfo, split_folders
from sharding.writing.prepare import Skipped
from sharding.writing.receipts import Partial
from sharding.writing.staging import put_in_place, refuse_existing
from sharding.writing.write import PLAN_FILE, ShardReport, describe

# Another number for another way to encode: what an older program left is then not gone on with.
_ENCODER_VERSION = 1


def encode(
    dataset: str | Path,
    out: str | Path,
    codec: Codec | None,
    codec_hash: str | None,
    *,
    features: Sequence[Feature] = (),
    crops: int = 1,
    keep_audio: bool = False,
    batch_size: int = 16,
    num_workers: int = 0,
    accelerator: str = "auto",
    devices: int | str = 1,
    num_nodes: int = 1,
    part: tuple[int, int] = (0, 1),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ShardReport:
    """Write a dataset of codes to `out`, shard for shard and sample for sample that of `dataset`.

    codec: makes codes of the audio, converted to its rate and channels. None: codes that are there are kept, and the
        audio is; features are put beside them.
    features: what else is made (see `sharding.encoding.features`).
    crops: codes of each clip, all but the first of what is left after a part of a frame (see `CodesInfo`).
    keep_audio: also keep the audio itself. Other parts are kept always.
    batch_size: clips of equal length that are encoded together.   num_workers: processes that read and decode.
    accelerator, devices, num_nodes: Lightning's; each device encodes its share of the shards. For each device but the
        first Lightning starts the running program anew: only a program that does just this may ask for several.
    part: (i, n), of several jobs, only every n-th share; the job that finds all shards done finishes the dataset.
    Started again after an interruption, it goes on with what is there. progress counts clips.
    """
    encoders = Encoders(codec, tuple(features), crops)
    if batch_size < 1 or num_workers < 0:
        raise ValueError(
            f"want batch_size at least 1 and num_workers at least 0, got {batch_size}, {num_workers}"
        )
    number, count = part
    if not 0 <= number < count:
        raise ValueError(f"part {number} of {count}: parts are numbered from 0 to {count - 1}")
    out = Path(out)
    folders = split_folders(dataset)
    infos = {split: DatasetInfo.load(folder) for split, folder in folders.items()}
    if codec is not None and codec_hash is None:
        raise ValueError("codes need the hash of the codec that makes them")
    about = None if codec is None else encoders.codes_info(str(codec_hash))
    keep_audio = keep_audio or codec is None
    settings = _settings(infos, about, encoders, keep_audio)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    plan = json.dumps({"plan": digest, "settings": settings}, indent=1) + "\n"
    partial = Partial(out.parent / f".{out.name}.{digest[:12]}.partial", digest)
    if count > 1 and _is_of(out, plan):
        return _report_of(out)
    refuse_existing(out, overwrite=overwrite)
    shards = [
        SourceShard(split=split, name=shard.name, clips=(), source=folders[split] / shard.name)
        for split, info in infos.items()
        for shard in info.shards
    ]
    task = EncodeTask(
        shards,
        partial,
        encoders,
        keep_audio=keep_audio,
        batch_size=batch_size,
        num_workers=num_workers,
        part=part,
        progress=progress,
    )
    partial.dataset.mkdir(parents=True, exist_ok=True)
    try:
        run(task, accelerator=accelerator, devices=devices, num_nodes=num_nodes)
        return _finish(out, partial, shards, infos, about, encoders, plan)
    finally:
        _tidy(partial)


def _settings(
    infos: dict[str, DatasetInfo], about: CodesInfo | None, encoders: Encoders, keep_audio: bool
) -> dict[str, Any]:
    """All that the bytes of the result follow from."""
    return {
        "version": _ENCODER_VERSION,
        "source": {
            split: [(shard.name, shard.sha256, shard.index_sha256) for shard in info.shards]
            for split, info in infos.items()
        },
        "codes": None if about is None else asdict(about),
        "features": {feature.name: asdict(feature.info) for feature in encoders.features},
        "keep_audio": keep_audio,
    }


def _finish(
    out: Path,
    partial: Partial,
    shards: Sequence[SourceShard],
    infos: dict[str, DatasetInfo],
    about: CodesInfo | None,
    encoders: Encoders,
    plan: str,
) -> ShardReport:
    """The dataset comes to its place if all its shards are there; of several that see it, the first does it."""
    with _alone(partial) as is_there:
        if not is_there:
            return _report_of(out)
        receipts = [partial.receipt(shard) for shard in shards]
        written = [receipt for receipt in receipts if receipt is not None]
        skipped = [skip for receipt in written for skip in receipt.skipped]
        if len(written) < len(receipts):
            return ShardReport(out, {}, skipped, num_missing=len(receipts) - len(written))
        if not any(receipt.info for receipt in written):
            shutil.rmtree(partial.folder)
            total = sum(info.num_samples for info in infos.values())
            raise ValueError(
                f"none of the {total} clips could be encoded, e.g. {skipped[0].name}: {skipped[0].reason}"
                if skipped
                else "there are no clips to encode"
            )
        for split in infos:
            (partial.dataset / split).mkdir(exist_ok=True)
        splits = describe([partial.path(shard) for shard in shards], written)
        made = {feature.name: feature.info for feature in encoders.features}
        for split, info in splits.items():
            source = infos[split]
            splits[split] = replace(info, codes=about or source.codes, features={**source.features, **made})
            splits[split].save(partial.dataset / split)
        write_text(partial.dataset / PLAN_FILE, plan)
        put_in_place(partial.dataset, out)
        name = re.compile(rf"\.{re.escape(out.name)}\.[0-9a-f]{{12}}\.partial")
        for folder in out.parent.glob(".*.partial"):
            if name.fullmatch(folder.name):  # this one, and those of interrupted runs with other settings
                shutil.rmtree(folder, ignore_errors=True)
    return ShardReport(out, splits, skipped)


@contextlib.contextmanager
def _alone(partial: Partial) -> Iterator[bool]:
    """One process at a time, of all jobs. Whether the partial dataset is still there: another may have finished it."""
    try:
        lock = (partial.folder / "lock").open("w")
    except FileNotFoundError:
        yield False
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go of when the process ends, however it ends
        yield partial.dataset.is_dir()


def _tidy(partial: Partial) -> None:
    """Nothing is left of a run that has done nothing; another that has just begun makes its folders anew."""
    for folder in ("work", "dataset", "."):
        with contextlib.suppress(OSError):  # not empty, or not there
            (partial.folder / folder).rmdir()


def _is_of(out: Path, plan: str) -> bool:
    """Whether the dataset at `out` was made by this very plan."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return (out / PLAN_FILE).read_text() == plan
    return False


def _report_of(out: Path) -> ShardReport:
    """Of a dataset that another process has put in place."""
    splits = {split: DatasetInfo.load(folder) for split, folder in split_folders(out).items()}
    skipped: list[Skipped] = []
    for split in splits:
        with contextlib.suppress(FileNotFoundError):
            lines = (out / split / SKIPPED_FILE).read_text().splitlines()
            skipped += [Skipped(**json.loads(line)) for line in lines]
    return ShardReport(out, splits, skipped)
