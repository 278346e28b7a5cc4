"""Small datasets to read."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_audio import audio
from sharding.encoding.encode import encode
from sharding.schema import CodesInfo, DatasetInfo
from sharding.sources import find_clips
from sharding.writing.write import ShardWriter, write_shards

RATE = 8000


class RampCodec(nn.Module):
    """One code per 80 samples: the frame's mean, in 100 levels; and its place in the clip."""

    sample_rate, channels, frame_rate, num_codebooks, cardinality = RATE, 1, 100.0, 2, 100

    def encode(self, wav: Tensor) -> SimpleNamespace:
        frames = nn.functional.pad(wav, (0, -wav.shape[-1] % 80)).unflatten(-1, (-1, 80)).mean(-1)[:, 0]
        level = (frames * 50 + 50).long().clamp(0, 99)
        place = torch.arange(frames.shape[-1]).expand_as(level) % 100
        return SimpleNamespace(codes=torch.stack([level, place], dim=1), scale=None)


@pytest.fixture(scope="session")
def audio_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """23 training, 5 validation clips in shards of 4: each a ramp whose slope and length tell which it is."""
    folder = tmp_path_factory.mktemp("ramps")
    for i in range(28):
        length = 4000 + 100 * i
        wav = torch.linspace(-0.9, 0.9, length)[None] * (i + 1) / 28
        split = "train" if i < 23 else "valid"
        audio.write(folder / f"in/{split}/clip{i:02d}.flac", wav, RATE)
        about = {"description": [f"ramp {i}", f"slope {i}"], "number": i}
        (folder / f"in/{split}/clip{i:02d}.json").write_text(json.dumps(about))
    write_shards(find_clips(folder / "in"), folder / "out", samples_per_shard=4)
    return folder / "out"


@pytest.fixture(scope="session")
def code_shards(audio_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("codes") / "out"
    encode(audio_shards, out, RampCodec(), "the-hash", batch_size=4)
    return out


@pytest.fixture(scope="session")
def make_codes() -> Callable[..., Path]:
    """Writes a dataset of codes [1, T] with shards of the given sizes; clip i's codes are i, 10 + i % 7 frames long."""

    def make(folder: Path, sizes: Sequence[int], *, split: str = "train") -> Path:
        (folder / split).mkdir(parents=True)
        shards = []
        for number in range(len(sizes)):
            with ShardWriter(folder / split / f"{number:06d}.tar") as writer:
                for i in range(sum(sizes[:number]), sum(sizes[: number + 1])):
                    frames, npy = 10 + i % 7, io.BytesIO()
                    np.save(npy, np.full((1, frames), i, np.uint16))
                    parts = {
                        "codes.npy": npy.getvalue(),
                        "json": json.dumps({"description": f"clip {i}", "number": i}).encode(),
                    }
                    writer.add(f"c{i:03d}", parts, frames * 80, RATE, 1)
            info = writer.finish([]).info
            assert info is not None
            shards.append(info)
        total = sum(sizes)
        codes = CodesInfo(codec_hash="the-hash", frame_rate=100.0, num_codebooks=1, cardinality=1000)
        DatasetInfo(
            split=split, shards=tuple(shards), sample_rates={RATE: total}, channels={1: total}, codes=codes
        ).save(folder / split)
        return folder

    return make
