"""Segments of audio with the codes of just that audio."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from datamodules.audio_codes import AudioCodesDataModule
from lightning_audio.batch import AudioBatch
from sharding.encoding.encode import encode

RATE, HOP = 8000, 80


def level(wav: Tensor) -> Tensor:
    """The mean of each frame in 100 levels: [B, 1, L] -> [B, 1, T]"""
    frames = nn.functional.pad(wav, (0, -wav.shape[-1] % HOP)).unflatten(-1, (-1, HOP)).mean(-1)
    return (frames * 50 + 50).long().clamp(0, 99)


class LevelCodec(nn.Module):
    sample_rate, channels, frame_rate, num_codebooks, cardinality = RATE, 1, 100.0, 1, 100

    def encode(self, wav: Tensor) -> SimpleNamespace:
        return SimpleNamespace(codes=level(wav), scale=None)


@pytest.fixture(scope="module")
def both_shards(audio_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("both") / "out"
    encode(audio_shards, out, LevelCodec(), "the-hash", batch_size=4, keep_audio=True)
    return out


def check(batch: AudioBatch, num_frames: int) -> None:
    assert batch.wav is not None
    assert batch.codes is not None
    assert batch.codes.shape[1:] == (1, num_frames)
    assert batch.codes.dtype == torch.int64
    whole = batch.wav.shape[-1] // HOP  # frames that lie within the segment with all their samples
    assert torch.equal(batch.codes[..., :whole], level(batch.wav)[..., :whole])


@pytest.mark.parametrize(("seconds", "num_frames"), [(0.3, 30), (0.305, 31)])
def test_the_codes_are_those_of_the_segment(both_shards: Path, seconds: float, num_frames: int) -> None:
    module = AudioCodesDataModule(
        both_shards, sample_rate=RATE, segment_duration=seconds, batch_size=6, codec_hash="the-hash"
    )
    module.setup("fit")
    first = set()
    for batch in module.train_dataloader():
        assert batch.wav.shape == (6, 1, round(seconds * RATE))
        check(batch, num_frames)
        first |= set(batch.codes[:, 0, 0].tolist())
    assert len(first) > 5  # segments from everywhere
    for batch in module.val_dataloader():
        check(batch, num_frames)


def test_clips_shorter_than_a_segment_are_left_out(both_shards: Path) -> None:
    """Clip i has 4000 + 100 i samples; the validation clips are 23 to 27."""
    module = AudioCodesDataModule(both_shards, sample_rate=RATE, segment_duration=6500 / RATE, batch_size=2)
    batches = list(module.val_dataloader())
    assert sorted(key[-2:] for batch in batches for key in batch.keys) == ["25", "26", "27"]


def test_shards_that_do_not_fit_are_refused(audio_shards: Path, both_shards: Path) -> None:
    with pytest.raises(ValueError, match="holds no codes"):
        AudioCodesDataModule(audio_shards, sample_rate=RATE, batch_size=2).source("train", training=True)
    with pytest.raises(ValueError, match="made by codec the-hash, the model's is another"):
        AudioCodesDataModule(both_shards, sample_rate=RATE, batch_size=2, codec_hash="another").source(
            "train", training=True
        )
    with pytest.raises(ValueError, match="8000 Hz, the data module wants 16000 Hz"):
        AudioCodesDataModule(both_shards, sample_rate=16000, batch_size=2).source("train", training=True)
