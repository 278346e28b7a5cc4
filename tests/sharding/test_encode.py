from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_audio import audio
from sharding.check import check
from sharding.encode import encode
from sharding.read import read_part
from sharding.schema import CodesInfo, DatasetInfo, ShardIndex, parse_codes
from sharding.sources import find_clips
from sharding.write import write_shards


class LevelCodec(nn.Module):
    """Codes a frame of 100 samples by its level, in codebook 1 by its sign: the answer is known."""

    sample_rate, channels, frame_rate, num_codebooks, cardinality = 16000, 1, 160.0, 2, 64

    def __init__(self) -> None:
        super().__init__()
        self.batch_sizes: list[int] = []

    def encode(self, wav: Tensor) -> SimpleNamespace:
        self.batch_sizes.append(len(wav))
        frames = nn.functional.pad(wav, (0, -wav.shape[-1] % 100)).unflatten(-1, (-1, 100)).mean(-1)[:, 0]
        codes = torch.stack([(frames.abs() * 63).long().clamp(max=63), (frames > 0).long()], dim=1)
        return SimpleNamespace(codes=codes, scale=None)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    for i in range(10):
        wav = 0.5 * torch.randn(1, 3000 if i < 6 else 3000 + 50 * i, generator=generator).cumsum(-1).clamp(
            -1, 1
        )
        audio.write(tmp_path / f"in/{i}.wav", wav, 16000)
        (tmp_path / f"in/{i}.json").write_text(json.dumps({"description": f"clip {i}"}))
    write_shards(find_clips(tmp_path / "in"), tmp_path / "audio", fractions={"train": 0.8, "valid": 0.2})
    return tmp_path / "audio"


def codes_of(folder: Path) -> dict[str, np.ndarray]:
    found = {}
    for tar in sorted(folder.glob("*/*.tar")):
        index = ShardIndex.load(tar.with_suffix(".index.json"))
        with tar.open("rb") as file:
            for sample, key in enumerate(index.keys):
                found[key] = parse_codes(read_part(file, index, sample, "codes.npy"))
    return found


def test_codes_are_those_of_each_clip_alone(dataset: Path, tmp_path: Path) -> None:
    codec = LevelCodec()
    seen: list[tuple[int, int]] = []
    report = encode(
        dataset, tmp_path / "codes", codec, "abc", batch_size=4, progress=lambda *at: seen.append(at)
    )
    assert report.num_samples == 10
    assert seen[-1] == (10, 10)
    assert max(codec.batch_sizes) > 1  # equal lengths did share batches
    for key, codes in codes_of(tmp_path / "codes").items():
        wav, _ = audio.read(tmp_path / f"in/{key}.wav")
        assert codes.dtype == np.uint16
        assert np.array_equal(codes, codec.encode(wav[None]).codes[0].numpy())
    info = DatasetInfo.load(tmp_path / "codes/train")
    assert info.codes == CodesInfo(codec_hash="abc", frame_rate=160.0, num_codebooks=2, cardinality=64)
    assert info.sample_rates == {16000: 8}
    found = check(tmp_path / "codes")
    assert found.ok
    assert found.parts == {"codes.npy": 10, "json": 10}


def test_audio_is_kept_when_asked(dataset: Path, tmp_path: Path) -> None:
    encode(dataset, tmp_path / "codes", LevelCodec(), "abc", keep_audio=True)
    found = check(tmp_path / "codes")
    assert found.ok
    assert found.parts == {"codes.npy": 10, "json": 10, "wav": 10}


def test_other_rates_and_channels_are_converted(tmp_path: Path) -> None:
    audio.write(tmp_path / "in/a.wav", 0.5 * torch.ones(2, 32000), 32000)
    write_shards(find_clips(tmp_path / "in"), tmp_path / "audio")
    encode(tmp_path / "audio", tmp_path / "codes", LevelCodec(), "abc")
    assert codes_of(tmp_path / "codes")["a"].shape == (2, 160)


def test_what_a_codec_may_not_be(dataset: Path, tmp_path: Path) -> None:
    codec = LevelCodec()
    codec.cardinality = 1 << 17  # type: ignore[misc]
    with pytest.raises(ValueError, match="131072"):
        encode(dataset, tmp_path / "codes", codec, "abc")

    class Scaling(LevelCodec):
        def encode(self, wav: Tensor) -> SimpleNamespace:
            return SimpleNamespace(codes=super().encode(wav).codes, scale=torch.ones(len(wav), 1))

    with pytest.raises(ValueError, match="scale"):
        encode(dataset, tmp_path / "codes", Scaling(), "abc")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audio", "in"]


def test_a_folder_without_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no dataset in"):
        encode(tmp_path, tmp_path / "codes", LevelCodec(), "abc")
