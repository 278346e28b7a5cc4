"""Small datasets, made sample by sample, so that a test can say what is in them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_audio import audio
from sharding.schema import CodesInfo
from sharding.writing.shard import ShardWriter
from sharding.writing.write import describe

RATE = 8000
CODES = CodesInfo(codec_hash="abc", frame_rate=100.0, num_codebooks=2, cardinality=64)

Sample = tuple[str, dict[str, bytes]]
"""A key and its parts."""


def _npy(array: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(array), allow_pickle=False)
    return buffer.getvalue()


def _noise(seed: int, num_samples: int, suffix: str) -> bytes:
    wav = 0.4 * torch.rand(1, num_samples, generator=torch.Generator().manual_seed(seed)) - 0.2
    return audio.encode(wav, RATE, suffix=suffix)


@pytest.fixture
def audio_sample() -> Callable[..., Sample]:
    """(seed, key=..., attributes=..., parts=...) -> a sample of 0.1 s of noise, told by its seed."""

    def make(seed: int, *, key: str = "", suffix: str = ".flac", **extra: object) -> Sample:
        attributes = {"source": f"{seed}{suffix}", "description": f"noise {seed}", **extra}
        parts = {suffix[1:]: _noise(seed, 800, suffix), "json": json.dumps(attributes).encode()}
        return key or f"clip{seed}", parts

    return make


@pytest.fixture
def code_sample() -> Callable[..., Sample]:
    """(seed, ...) -> a sample of 10 frames of codes."""

    def make(seed: int, *, key: str = "", **extra: object) -> Sample:
        codes = np.random.default_rng(seed).integers(0, CODES.cardinality, (2, 10)).astype(np.uint16)
        attributes = {"source": f"{seed}.flac", "duration": 0.1, **extra}
        return key or f"clip{seed}", {"codes.npy": _npy(codes), "json": json.dumps(attributes).encode()}

    return make


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Write {split: shards of samples} as a dataset, each sample 800 long; gives its folder."""

    def make(splits: Mapping[str, Sequence[Sequence[Sample]]], codes: CodesInfo | None = None) -> Path:
        paths, written = [], []
        for split, shards in splits.items():
            (tmp_path / "dataset" / split).mkdir(parents=True)
            for number, samples in enumerate(shards):
                paths.append(tmp_path / "dataset" / split / f"{number:06d}.tar")
                with ShardWriter(paths[-1]) as writer:
                    for key, parts in samples:
                        writer.add(key, parts, 800, RATE, 1)
                written.append(writer.finish([]))
        describe(paths, written, codes)
        return tmp_path / "dataset"

    return make
