from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from lightning_audio import audio, load
from lightning_audio.checkpoints.native import write_native
from lightning_audio.checkpoints.stored import StoredModel
from lightning_audio.hashing import weights_hash
from sharding.checking.check import check
from sharding.encoding.encode import encode
from sharding.encoding.encoders import crop_offset
from sharding.read import read_part
from sharding.schema import (
    CROPS_ATTRIBUTE,
    CodesInfo,
    DatasetInfo,
    FeatureInfo,
    ShardIndex,
    parse_codes,
    parse_feature,
)
from sharding.sources import find_clips
from sharding.writing.write import write_shards


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


class Length:
    """A feature whose answer is known: the clip's length and the description's."""

    name, hears = "length", True
    info = FeatureInfo(attribute="melody", encoder="length", encoder_hash="1", dim=2, dtype="<f2")

    def __call__(self, attributes: Any, heard: Any, device: torch.device) -> list[Tensor | None]:
        return [torch.tensor([[heard.wav.shape[-1] / 1000, len(attributes["description"])]])]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    for i in range(10):
        wav = 0.5 * torch.randn(1, 3000 if i < 6 else 3000 + 50 * i, generator=generator).cumsum(-1).clamp(
            -1, 1
        )
        audio.write(tmp_path / f"in/{i}.wav", wav, 16000)
        (tmp_path / f"in/{i}.json").write_text(json.dumps({"description": f"clip {i}"}))
    write_shards(
        find_clips(tmp_path / "in"),
        tmp_path / "audio",
        fractions={"train": 0.8, "valid": 0.2},
        samples_per_shard=3,
    )
    return tmp_path / "audio"


def samples(folder: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key and parts of all samples."""
    for tar in sorted(folder.glob("*/*.tar")):
        index = ShardIndex.load(tar.with_suffix(".index.json"))
        with tar.open("rb") as file:
            for sample, key in enumerate(index.keys):
                present = [part for part, spans in index.parts.items() if spans[sample, 1] >= 0]
                yield key, {part: read_part(file, index, sample, part) for part in present}


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def wav_of(folder: Path, key: str) -> Tensor:
    return audio.read(folder / f"in/{key}.wav")[0]


def test_codes_are_those_of_each_clip_alone(dataset: Path, tmp_path: Path) -> None:
    codec = LevelCodec()
    seen: list[tuple[int, int]] = []
    report = encode(
        dataset, tmp_path / "codes", codec, "abc", batch_size=4, progress=lambda *at: seen.append(at)
    )
    assert report.num_samples == 10
    assert seen[0] == (0, 10)
    assert seen[-1] == (10, 10)
    assert max(codec.batch_sizes) > 1  # equal lengths did share batches
    for key, parts in samples(tmp_path / "codes"):
        codes = parse_codes(parts["codes.npy"])
        assert codes.dtype == np.uint16
        assert np.array_equal(codes, codec.encode(wav_of(tmp_path, key)[None]).codes[0].numpy())
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
    ((_, parts),) = samples(tmp_path / "codes")
    assert parse_codes(parts["codes.npy"]).shape == (2, 160)


def test_crops_are_codes_of_the_rest_of_the_clip(dataset: Path, tmp_path: Path) -> None:
    codec = LevelCodec()
    encode(dataset, tmp_path / "codes", codec, "abc", crops=4, batch_size=4)
    info = DatasetInfo.load(tmp_path / "codes/train").codes
    assert info is not None
    assert info.crops == 4
    different = set()
    for key, parts in samples(tmp_path / "codes"):
        offsets = json.loads(parts["json"])[CROPS_ATTRIBUTE]
        assert offsets == [crop_offset(key, number, 100) for number in range(4)]
        for name, offset in zip(("codes", "codes.1", "codes.2", "codes.3"), offsets, strict=True):
            expected = codec.encode(wav_of(tmp_path, key)[None, :, offset:]).codes[0].numpy()
            assert np.array_equal(parse_codes(parts[f"{name}.npy"]), expected)
        different |= set(offsets)
    assert min(different) == 0
    assert len(different) > 20
    assert check(tmp_path / "codes").ok


def test_crops_begin_anywhere_in_a_frame() -> None:
    offsets = [crop_offset(f"clip{i}", n, 640) for i in range(500) for n in (1, 2)]
    assert min(offsets) >= 1
    assert max(offsets) <= 639
    assert len(set(offsets)) > 450
    assert abs(float(np.mean(offsets)) - 320) < 20


def test_features_go_beside_codes_that_are_there(dataset: Path, tmp_path: Path) -> None:
    encode(dataset, tmp_path / "codes", LevelCodec(), "abc", keep_audio=True)
    report = encode(tmp_path / "codes", tmp_path / "more", None, None, features=[Length()])
    before, after = dict(samples(tmp_path / "codes")), dict(samples(tmp_path / "more"))
    assert before.keys() == after.keys()
    for key, parts in after.items():
        made = parse_feature(parts.pop("length.npy"), Length.info, "length")
        assert made.tolist() == [[np.float16(wav_of(tmp_path, key).shape[-1] / 1000), 6]]
        assert parts == before[key]
    info = DatasetInfo.load(tmp_path / "more/train")
    assert info == report.splits["train"]
    assert info.features == {"length": Length.info}
    assert info.codes == DatasetInfo.load(tmp_path / "codes/train").codes


def test_other_parts_are_kept_and_a_melody_is_what_is_heard(tmp_path: Path) -> None:
    clips = []
    for i in range(3):
        audio.write(tmp_path / f"in/{i}.wav", 0.1 * (i + 1) * torch.ones(1, 4000), 16000)
        (tmp_path / f"in/{i}.json").write_text(json.dumps({"description": f"clip {i}"}))
    audio.write(tmp_path / "melody.flac", 0.05 * torch.ones(1, 2000), 16000)
    for clip in find_clips(tmp_path / "in"):
        melody = find_clips(tmp_path)[-1] if clip.name.startswith("1") else None
        assert melody is None or melody.name == "melody.flac"
        clips.append(
            clip
            if melody is None
            else type(clip)(clip.name, clip.path, clip.attributes, conditions={"melody": melody})
        )
    write_shards(clips, tmp_path / "audio")
    encode(tmp_path / "audio", tmp_path / "codes", LevelCodec(), "abc", features=[Length()])
    found = dict(samples(tmp_path / "codes"))
    assert {key for key, parts in found.items() if "melody.flac" in parts} == {"1"}
    lengths = {
        key: parse_feature(parts["length.npy"], Length.info, "length")[0, 0] for key, parts in found.items()
    }
    assert lengths == {"0": 4, "1": 2, "2": 4}


@pytest.fixture
def codec_folder(tmp_path: Path) -> Path:
    """A real codec of random weights."""
    config = Path(__file__).parents[3] / "experiments/configs/codec/tiny.yaml"
    node = OmegaConf.to_container(OmegaConf.load(config), resolve=True)
    assert isinstance(node, dict)
    torch.manual_seed(0)
    weights = instantiate(node, _convert_="all").state_dict()
    weights["quantizer.codebooks.embed"].normal_(std=0.1)
    return write_native(StoredModel({"codec": node}, {"codec": weights}), tmp_path / "codec")


def test_bytes_do_not_depend_on_batches_workers_or_parts(
    dataset: Path, codec_folder: Path, tmp_path: Path
) -> None:
    codec = load(codec_folder, device="cpu")
    settings: dict[str, Any] = {"crops": 2, "features": [Length()]}
    encode(dataset, tmp_path / "one", codec, "abc", batch_size=1, **settings)
    assert len({parts["codes.npy"] for _, parts in samples(tmp_path / "one")}) == 10
    encode(dataset, tmp_path / "many", codec, "abc", batch_size=5, num_workers=2, **settings)
    assert files(tmp_path / "many") == files(tmp_path / "one")
    missing = [
        encode(dataset, tmp_path / "parts", codec, "abc", part=(part, 6), **settings).num_missing
        for part in (3, 0, 5, 1, 2, 4)
    ]
    # Four shards: two of the six parts have none, and one of those comes when all is done.
    assert missing == [3, 2, 2, 1, 0, 0]
    assert files(tmp_path / "parts") == files(tmp_path / "one")
    assert not list(tmp_path.glob(".*"))


class Mortal(LevelCodec):
    """Kills its process instead of its last call."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls

    def encode(self, wav: Tensor) -> SimpleNamespace:
        if len(self.batch_sizes) == self.calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(wav)


def killed(*arguments: Any, **options: Any) -> None:
    process = multiprocessing.get_context("fork").Process(target=encode, args=arguments, kwargs=options)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_a_killed_run_goes_on(dataset: Path, tmp_path: Path) -> None:
    encode(dataset, tmp_path / "whole", whole := LevelCodec(), "abc", batch_size=1)
    seen: list[tuple[int, int]] = []
    killed(dataset, tmp_path / "codes", Mortal(7), "abc", batch_size=1)
    killed(dataset, tmp_path / "codes", Mortal(1), "abc", batch_size=1)
    assert not (tmp_path / "codes").exists()
    again = LevelCodec()
    encode(dataset, tmp_path / "codes", again, "abc", batch_size=1, progress=lambda *at: seen.append(at))
    # Two shards of three were done; the seventh clip was not.
    assert len(again.batch_sizes) == len(whole.batch_sizes) - 6
    assert seen[0] == (6, 10)
    assert seen[-1] == (10, 10)
    assert files(tmp_path / "codes") == files(tmp_path / "whole")
    assert not list(tmp_path.glob(".*"))


def test_another_codec_starts_anew(dataset: Path, tmp_path: Path) -> None:
    killed(dataset, tmp_path / "codes", Mortal(4), "abc", batch_size=1)
    encode(dataset, tmp_path / "codes", other := LevelCodec(), "xyz", batch_size=1)
    assert len(other.batch_sizes) == 10
    assert not list(tmp_path.glob(".*"))
    assert DatasetInfo.load(tmp_path / "codes/train").codes.codec_hash == "xyz"  # type: ignore[union-attr]


def test_a_clip_that_cannot_be_read_is_left_out_by_name(dataset: Path, tmp_path: Path) -> None:
    tar = dataset / "train/000001.tar"
    index = ShardIndex.load(tar.with_suffix(".index.json"))
    raw = bytearray(tar.read_bytes())
    offset, size = index.parts["wav"][1]
    raw[offset : offset + size] = b"x" * int(size)
    tar.write_bytes(raw)
    report = encode(dataset, tmp_path / "codes", LevelCodec(), "abc")
    assert [skip.name for skip in report.skipped] == [index.keys[1]]
    assert report.num_samples == 9
    assert json.loads((tmp_path / "codes/train/skipped.jsonl").read_text())["name"] == index.keys[1]


@pytest.mark.slow
def test_bytes_do_not_depend_on_ranks(dataset: Path, codec_folder: Path, tmp_path: Path) -> None:
    """The verb itself, on two processes that speak over gloo."""
    codec = load(codec_folder, device="cpu")
    encode(dataset, tmp_path / "one", codec, weights_hash(codec), crops=2)
    program = [sys.executable, "-m", "experiments.cli", "encode", str(dataset), str(tmp_path / "two")]
    options = ["--codec", str(codec_folder), "--crops", "2", "--devices", "2", "--workers", "1"]
    done = subprocess.run(
        [*program, *options],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "written:" in done.stdout
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert not list(tmp_path.glob(".*"))


def test_what_cannot_be_encoded_is_refused(dataset: Path, tmp_path: Path) -> None:
    codec = LevelCodec()
    codec.cardinality = 1 << 17  # type: ignore[misc]
    with pytest.raises(ValueError, match="131072"):
        encode(dataset, tmp_path / "codes", codec, "abc")

    class Scaling(LevelCodec):
        def encode(self, wav: Tensor) -> SimpleNamespace:
            return SimpleNamespace(codes=super().encode(wav).codes, scale=torch.ones(len(wav), 1))

    with pytest.raises(ValueError, match="scale"):
        encode(dataset, tmp_path / "codes", Scaling(), "abc")
    with pytest.raises(ValueError, match="want 1 to 100, got 101 of 100 samples"):
        encode(dataset, tmp_path / "codes", LevelCodec(), "abc", crops=101)
    with pytest.raises(ValueError, match="nothing to encode with"):
        encode(dataset, tmp_path / "codes", None, None)
    with pytest.raises(ValueError, match="part 2 of 2"):
        encode(dataset, tmp_path / "codes", LevelCodec(), "abc", part=(2, 2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audio", "in"]


def test_a_folder_without_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no dataset in"):
        encode(tmp_path, tmp_path / "codes", LevelCodec(), "abc")
