"""Embeddings of files: the same as clip by clip, in order, with nothing lost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from eval.embedders import CodecFrameEmbedder, LogMelEmbedder, embed_files
from lightning_audio.audio import read, write


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    generator = torch.Generator().manual_seed(0)
    paths = []
    for index, (rate, channels) in enumerate([(8000, 1), (16_000, 2), (8000, 1), (44_100, 2), (8000, 1)]):
        paths.append(tmp_path / f"{index}.wav")
        write(paths[-1], 0.1 * torch.randn(channels, rate // 2 + 100 * index, generator=generator), rate)
    return paths


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (2, 3), (16, 2)])
def test_as_one_by_one_and_in_order(files: list[Path], batch_size: int, workers: int) -> None:
    embedder = LogMelEmbedder(sample_rate=8000, num_mels=20)
    found = list(embed_files(embedder, files, batch_size=batch_size, workers=workers))
    assert [file.path for file in found] == files
    for file in found:
        wav, rate = read(file.path)
        assert file.fault is None
        assert torch.allclose(file.rows, embedder.embed(wav[None], rate), atol=1e-5)


class _Framer:
    sample_rate, channels, frame_rate = 8000, 1, 50.0

    def encode_latent(self, wav: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(wav[:, 0], (0, -wav.shape[-1] % 160))
        return padded.unflatten(1, (-1, 160)).transpose(1, 2)


def test_each_file_gets_its_own_frames(files: list[Path]) -> None:
    embedder = CodecFrameEmbedder(_Framer())
    for file in embed_files(embedder, files, batch_size=3):
        wav, rate = read(file.path)
        assert torch.allclose(file.rows, embedder.embed(wav[None], rate), atol=1e-6)
        assert len(file.rows) == -(-embedder.hear(wav, rate).shape[-1] // 160)


def test_bad_files_are_named_and_their_neighbours_kept(files: list[Path], tmp_path: Path) -> None:
    broken, silent = tmp_path / "broken.wav", tmp_path / "silent.wav"
    broken.write_bytes(b"RIFF and no more")
    write(silent, torch.zeros(1, 8000), 8000)
    embedder = LogMelEmbedder(sample_rate=8000, num_mels=20)
    asked = [files[0], broken, tmp_path / "absent.wav", silent, files[2]]
    found = list(embed_files(embedder, asked, batch_size=2))
    assert [len(file.rows) for file in found] == [1, 0, 0, 1, 1]
    assert [file.fault and file.fault.split(" ")[0] for file in found] == [
        None,
        str(broken),
        "no",
        "silent",
        None,
    ]


def test_no_files_give_nothing() -> None:
    assert list(embed_files(LogMelEmbedder(), [])) == []
