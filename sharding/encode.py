"""Shards of audio -> shards of codes: `.codes.npy` (uint16 [K, T]) beside the same attributes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch
from torch import Tensor

from lightning_audio import audio
from sharding.parallel import Progress
from sharding.read import read_part
from sharding.schema import (
    ATTRIBUTES_PART,
    CODES_PART,
    CodesInfo,
    DatasetInfo,
    ShardIndex,
    index_path,
    split_folders,
)
from sharding.write import ShardReport, ShardWriter, Skipped, WrittenShard, describe, staged


class Codec(Protocol):
    """What is asked of a codec: `lightning_audio.codec.encodec.EnCodec` is one."""

    @property
    def sample_rate(self) -> int: ...

    @property
    def channels(self) -> int: ...

    @property
    def cardinality(self) -> int: ...

    @property
    def frame_rate(self) -> float: ...

    @property
    def num_codebooks(self) -> int: ...

    def encode(self, wav: Tensor) -> Any:
        """[B, C, L] -> an object with .codes [B, K, T] and .scale (None)."""


def encode(
    dataset: str | Path,
    out: str | Path,
    codec: Codec,
    codec_hash: str,
    *,
    batch_size: int = 16,
    device: str | torch.device = "cpu",
    keep_audio: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ShardReport:
    """Write a dataset of codes to `out`, shard for shard and sample for sample that of `dataset`.

    Audio of another rate or channel count is converted to the codec's. Only clips of equal length share a
    batch, so that a clip's codes do not depend on its neighbours. progress counts clips.
    """
    if codec.cardinality > 1 << 16:
        raise ValueError(f"codes are kept in 16 bits, a codec of cardinality {codec.cardinality} needs more")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if isinstance(codec, torch.nn.Module):
        codec.eval().to(device)
    folders = split_folders(dataset)
    infos = {split: DatasetInfo.load(folder) for split, folder in folders.items()}
    about = CodesInfo(
        codec_hash=codec_hash,
        frame_rate=float(codec.frame_rate),
        num_codebooks=codec.num_codebooks,
        cardinality=codec.cardinality,
    )
    total, done = sum(info.num_samples for info in infos.values()), 0
    report = progress or (lambda done, total: None)
    report(0, total)
    paths: list[Path] = []
    written: list[WrittenShard] = []
    with staged(out, overwrite=overwrite) as staging, torch.inference_mode():
        for split, info in infos.items():
            (staging / split).mkdir()
            for shard in info.shards:
                paths.append(staging / split / shard.name)
                written.append(
                    _encode_shard(
                        folders[split] / shard.name, paths[-1], codec, batch_size, device, keep_audio
                    )
                )
                done += shard.num_samples
                report(done, total)
        splits = describe(paths, written, about)
        if not splits:
            raise ValueError(f"none of the {total} clips of {dataset} could be encoded")
    return ShardReport(Path(out), splits, [skip for shard in written for skip in shard.skipped])


def _encode_shard(
    source: Path, target: Path, codec: Codec, batch_size: int, device: str | torch.device, keep_audio: bool
) -> WrittenShard:
    index = ShardIndex.load(index_path(source))
    codes: dict[int, np.ndarray] = {}
    skipped: list[Skipped] = []
    with source.open("rb") as file:
        for samples in _like_batches(index, batch_size):
            wavs: dict[int, Tensor] = {}
            for sample in samples:
                try:
                    wavs[sample] = _read_wav(file, index, sample, codec)
                except ValueError as error:
                    skipped.append(Skipped(index.keys[sample], str(error)))
            # A file can still be shorter than its index says: equal lengths only, whatever was promised.
            for length in sorted({wav.shape[-1] for wav in wavs.values()}):
                chosen = [sample for sample, wav in wavs.items() if wav.shape[-1] == length]
                batch = torch.stack([wavs[sample] for sample in chosen]).to(device)
                codes |= zip(chosen, _codes(codec, batch), strict=True)
        with ShardWriter(target) as writer:
            for sample in sorted(codes):
                parts = {ATTRIBUTES_PART: read_part(file, index, sample, ATTRIBUTES_PART)}
                part = index.audio_part(sample)
                if keep_audio and part is not None:
                    parts[part] = read_part(file, index, sample, part)
                num_samples = round(index.durations[sample] * codec.sample_rate)
                parts[CODES_PART] = npy_bytes(codes[sample])
                writer.add(index.keys[sample], parts, num_samples, codec.sample_rate, codec.channels)
    return writer.finish(skipped)


def _like_batches(index: ShardIndex, batch_size: int) -> Iterator[list[int]]:
    """The samples of a shard in batches of one length and rate."""
    alike: dict[tuple[int, int, int], list[int]] = {}
    for sample, kind in enumerate(zip(index.num_samples, index.sample_rates, index.channels, strict=True)):
        alike.setdefault(tuple(int(value) for value in kind), []).append(sample)  # type: ignore[arg-type]
    for samples in alike.values():
        for start in range(0, len(samples), batch_size):
            yield samples[start : start + batch_size]


def _read_wav(file: BinaryIO, index: ShardIndex, sample: int, codec: Codec) -> Tensor:
    """[C, L] as the codec wants it."""
    part = index.audio_part(sample)
    if part is None:
        raise ValueError(f"{index.keys[sample]} has no audio")
    wav, rate = audio.read(read_part(file, index, sample, part))
    if not wav.shape[-1] or not torch.isfinite(wav).all():
        raise ValueError(f"{index.keys[sample]} has no samples, or NaN among them")
    return audio.convert(wav, rate, codec.sample_rate, codec.channels)


def _codes(codec: Codec, wav: Tensor) -> np.ndarray:
    """[B, C, L] -> uint16 [B, K, T]"""
    encoded = codec.encode(wav)
    if getattr(encoded, "scale", None) is not None:
        raise ValueError("this codec scales its input clip by clip; codes alone do not hold that scale")
    codes: Tensor = encoded.codes
    return codes.cpu().numpy().astype(np.uint16)


def npy_bytes(array: np.ndarray) -> bytes:
    """The bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()
