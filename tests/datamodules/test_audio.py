from __future__ import annotations

import json
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.audio import AudioDataModule
from datamodules.transforms import RandomGain, Sample, crop_start
from lightning_audio import audio
from lightning_audio.batch import AudioBatch
from sharding.schema import ShardIndex, split_folders
from sharding.sources import find_clips
from sharding.writing.write import write_shards

RATE = 8000


def data(path: Path, **settings: Any) -> AudioDataModule:
    return AudioDataModule(
        path, **{"sample_rate": RATE, "batch_size": 4, "segment_duration": 0.25, **settings}
    )


def take(module: AudioDataModule, count: int) -> list[AudioBatch]:
    module.setup("fit")
    loader = module.train_dataloader()
    return list(islice((batch for _ in range(count) for batch in loader), count))


def original(path: Path, key: str) -> torch.Tensor:
    for folder in split_folders(path).values():
        for file in folder.glob("*.index.json"):
            index = ShardIndex.load(file)
            if key in index.keys:
                offset, size = index.parts["flac"][index.keys.index(key)]
                tar = file.with_name(file.name.replace(".index.json", ".tar")).read_bytes()
                return audio.read(tar[offset : offset + size])[0]
    raise AssertionError(key)


def test_segments_are_excerpts_of_their_clips(audio_shards: Path) -> None:
    starts = set()
    for batch in take(data(audio_shards), 5):
        assert batch.wav is not None
        assert batch.wav.shape == (4, 1, 2000)
        assert batch.num_samples is not None
        assert batch.num_samples.tolist() == [2000] * 4
        for key, wav, attributes in zip(batch.keys, batch.wav, batch.attributes, strict=True):
            whole = original(audio_shards, key)
            start = int((whole[0] - wav[0, 0]).abs().argmin())
            candidates = [
                s for s in range(max(0, start - 2), start + 3) if torch.equal(whole[:, s : s + 2000], wav)
            ]
            assert candidates
            starts.add(candidates[0])
            assert attributes["number"] == int(key[-2:])
            assert attributes["description"] in (f"ramp {int(key[-2:])}", f"slope {int(key[-2:])}")
    assert len(starts) > 10


def test_batches_do_not_depend_on_workers(audio_shards: Path) -> None:
    settings: dict[str, Any] = {"transforms": [RandomGain()], "channels": 2}
    alone = take(data(audio_shards, **settings), 8)
    helped = take(data(audio_shards, num_workers=2, **settings), 8)
    for one, other in zip(alone, helped, strict=True):
        assert one.keys == other.keys
        assert one.attributes == other.attributes
        assert torch.equal(one.wav, other.wav)  # type: ignore[arg-type]


def test_short_clips_are_padded_or_left_out(audio_shards: Path) -> None:
    # Training clips last 0.5 to 0.775 s: of those, 9 last 0.675 s = 0.9 · 0.75 s or more.
    module = data(audio_shards, segment_duration=0.75, min_segment_ratio=0.9, batch_size=8)
    loader = module.train_dataloader()
    assert len(loader.dataset.order) == 9
    batch = next(iter(loader))
    assert batch.wav is not None
    assert batch.num_samples is not None
    assert batch.wav.shape[-1] == 6000
    assert ((batch.num_samples >= 5400) & (batch.num_samples <= 6000)).all()
    for wav, length in zip(batch.wav, batch.num_samples.tolist(), strict=True):
        assert not wav[:, length:].any()
    with pytest.raises(ValueError, match=r"none of the 23 clips in .* lasts 5 s"):
        take(data(audio_shards, segment_duration=5.0), 1)


def test_whole_clips(audio_shards: Path) -> None:
    module = data(audio_shards, segment_duration=None, eval_batch_size=5)
    (batch,) = list(module.val_dataloader())
    assert batch.num_samples.tolist() == [4000 + 100 * int(key[-2:]) for key in batch.keys]
    assert batch.wav.shape[-1] == batch.num_samples.max()


def test_another_rate_is_refused_or_converted(audio_shards: Path) -> None:
    with pytest.raises(ValueError, match=r"are 8000 Hz, the data module wants 16000 Hz.*resample=True"):
        data(audio_shards, sample_rate=16000).setup("fit")
    (batch,) = take(data(audio_shards, sample_rate=12000, channels=2, resample=True), 1)
    assert batch.wav is not None
    assert batch.wav.shape == (4, 2, 3000)
    assert batch.sample_rate == 12000


@pytest.fixture
def damaged(audio_shards: Path, tmp_path: Path) -> Path:
    """The same shards with one clip's bytes overwritten and another cut off at the end of its tar."""
    folder = tmp_path / "damaged"
    shutil.copytree(audio_shards, folder)
    tar = folder / "train/000000.tar"
    index = ShardIndex.load(tar.with_suffix(".index.json"))
    raw = bytearray(tar.read_bytes())
    offset, size = index.parts["flac"][1]
    raw[offset : offset + size] = b"x" * int(size)
    tar.write_bytes(raw)
    last = folder / "train/000001.tar"
    index = ShardIndex.load(last.with_suffix(".index.json"))
    last.write_bytes(last.read_bytes()[: int(index.parts["flac"][3, 0]) + 100])
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_samples_are_replaced_and_named(damaged: Path, workers: int, tmp_path: Path) -> None:
    module = data(damaged, num_workers=workers, log_folder=tmp_path / "log", audit=True)
    with pytest.warns(UserWarning, match="left out"):
        batches = take(module, 12)
    assert all(len(batch) == 4 for batch in batches)
    lines = [json.loads(line) for line in (tmp_path / "log/quarantine-rank0.jsonl").read_text().splitlines()]
    bad = {
        ShardIndex.load(damaged / "train/000000.index.json").keys[1],
        ShardIndex.load(damaged / "train/000001.index.json").keys[3],
    }
    assert {line["key"] for line in lines} == bad
    assert len(lines) == 2
    assert not bad & {key for batch in batches for key in batch.keys}
    audit = [json.loads(line) for line in (tmp_path / "log/audit-rank0.jsonl").read_text().splitlines()]
    assert [line["keys"] for line in audit[:12]] == [batch.keys for batch in batches]
    assert audit[1]["positions"] == [4, 5, 6, 7]


def test_replacements_do_not_depend_on_workers(damaged: Path, tmp_path: Path) -> None:
    keys = []
    for workers in (0, 2):
        module = data(damaged, log_folder=tmp_path, num_workers=workers)
        with pytest.warns(UserWarning, match="left out"):
            keys.append([batch.keys for batch in take(module, 12)])
    assert keys[0] == keys[1]


def test_too_many_bad_samples_stop_the_run(damaged: Path, tmp_path: Path) -> None:
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(ValueError, match=r"samples could not be used, more than 0.10%"),
    ):
        take(data(damaged, log_folder=tmp_path, max_bad_ratio=0.001), 12)


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_usable_stops_the_run(audio_shards: Path, workers: int, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    shutil.copytree(audio_shards, folder)
    for tar in (folder / "train").glob("*.tar"):
        tar.write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(ValueError, match="no sample can be used any more") as caught,
    ):
        take(data(folder, num_workers=workers, log_folder=tmp_path), 1)
    assert "\n" not in str(caught.value)


def test_silence_is_replaced_when_asked(tmp_path: Path) -> None:
    for i in range(4):
        wav = torch.full((1, 4000), 0.1 * (i + 1))
        if i == 2:  # but for its very end
            wav[:, :-10] = 0
        audio.write(tmp_path / f"in/{i}.wav", wav, RATE)
    write_shards(find_clips(tmp_path / "in"), tmp_path / "out", fractions={"train": 1.0})
    heard = {key for batch in take(data(tmp_path / "out"), 4) for key in batch.keys}
    assert heard == {"0", "1", "2", "3"}
    module = data(tmp_path / "out", allow_silence=False, log_folder=tmp_path, max_bad_ratio=0.1)
    with pytest.warns(UserWarning, match="silent"):
        batches = take(module, 4)
    assert {key for batch in batches for key in batch.keys} == {"0", "1", "3"}


def test_crops_reach_both_ends_and_no_further() -> None:
    rng = np.random.default_rng(0)
    assert {crop_start(rng, 10, 6, 1.0) for _ in range(200)} == set(range(5))
    assert {crop_start(rng, 10, 6, 0.5) for _ in range(300)} == set(range(8))
    assert crop_start(rng, 3, 6, 1.0) == 0


def test_gain_stays_within_full_scale() -> None:
    rng = np.random.default_rng(0)
    wav = np.array([[0.5, -0.9]], np.float32)
    peaks = [float(np.abs(RandomGain()(Sample("a", {}, wav=wav), rng).wav).max()) for _ in range(50)]
    assert max(peaks) <= 1.0 + 1e-6
    assert min(peaks) < 0.6


def test_real_sounds(shared_data: Path, tmp_path: Path) -> None:
    write_shards(
        find_clips(shared_data / "sounds/rain"), tmp_path / "out", group_pattern=r"^\d", samples_per_shard=5
    )
    batches = take(data(tmp_path / "out", sample_rate=44100, segment_duration=1.0), 8)
    assert all(batch.wav is not None and batch.wav.abs().max() > 0.001 for batch in batches)
