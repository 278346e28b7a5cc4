"""Codebook usage: counted over a validation, written as a table and a picture."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor, nn

from eval.callback import CodebookPanel
from eval.codebook_usage import CodebookUsage, usage_csv, usage_picture
from lightning_audio.batch import AudioBatch


class _Model(nn.Module):
    num_codebooks, cardinality = 2, 8

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def encode(self, wav: Tensor) -> Any:
        """All codes evenly in the first codebook, one alone in the second."""
        codes = torch.arange(16).remainder(8).expand(len(wav), 1, 16)
        return type("Encoded", (), {"codes": torch.cat([codes, torch.full_like(codes, 3)], 1)})


class _Task(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = _Model()

    def training_step(self, batch: AudioBatch) -> Tensor:
        return self.model.weight.sum()

    def validation_step(self, batch: AudioBatch) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _fit(folder: Path, batch: AudioBatch, panel: CodebookPanel, **options: Any) -> dict[str, float]:
    trainer = L.Trainer(
        max_epochs=3,
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=[panel],
        logger=options.pop("logger", False),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    loaders = [torch.utils.data.DataLoader([batch] * 2, batch_size=None) for _ in range(2)]  # type: ignore[arg-type]
    trainer.fit(_Task(), *loaders)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def _wavs() -> AudioBatch:
    return AudioBatch(keys=["a", "b"], sample_rate=8000, attributes=[{}] * 2, wav=torch.zeros(2, 1, 8))


def test_usage_of_a_codec(tmp_path: Path) -> None:
    values = _fit(tmp_path, _wavs(), CodebookPanel(every_n_validations=2))
    assert values["codebooks/perplexity_q1"] == pytest.approx(8)
    assert values["codebooks/perplexity_q2"] == pytest.approx(1)
    assert values["codebooks/used_q1"] == 100
    assert values["codebooks/used_q2"] == 12.5
    names = sorted(path.name for path in (tmp_path / "codebooks").iterdir())
    assert names == ["000000.csv", "000000.png", "000002.csv", "000002.png"]
    with (tmp_path / "codebooks" / "000002.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    # Two batches of two clips of 16 frames: what an earlier validation saw is not in it.
    assert [int(row["codebook_1"]) for row in rows] == [8] * 8
    assert [int(row["codebook_2"]) for row in rows] == [0, 0, 0, 64, 0, 0, 0, 0]


def test_padding_does_not_count(tmp_path: Path) -> None:
    codes = torch.tensor([[[1, 2, 7, 7], [3, 3, 7, 7]]])
    batch = AudioBatch(
        keys=["a"], sample_rate=8000, attributes=[{}], codes=codes, num_frames=torch.tensor([2])
    )
    values = _fit(tmp_path, batch, CodebookPanel())
    assert values["codebooks/perplexity_q1"] == pytest.approx(2)
    assert values["codebooks/used_q2"] == 12.5


def test_wandb_gets_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, str]] = []
    monkeypatch.setattr(
        WandbLogger, "log_image", lambda _, key, images, step: calls.append((key, Path(images[0]).name))
    )
    logger = WandbLogger(save_dir=tmp_path, offline=True, mode="disabled")
    _fit(tmp_path, _wavs(), CodebookPanel(folder=tmp_path / "here"), logger=logger)
    logger.experiment.finish()
    assert calls == [("codebooks/usage", f"{i:06d}.png") for i in range(3)]


def test_the_picture_is_bright_where_codes_are_frequent() -> None:
    import struct
    import zlib

    even, collapsed = torch.full((1, 1024), 5), torch.zeros(1, 1024, dtype=torch.int64)
    collapsed[0, 77] = 9000
    data = usage_picture(torch.cat([even, collapsed]))
    width, height = struct.unpack(">II", data[16:24])
    assert (width, height) == (512, 48)
    start = data.index(b"IDAT")
    (size,) = struct.unpack(">I", data[start - 4 : start])
    pixels = zlib.decompress(data[start + 4 : start + 4 + size])
    rows = [pixels[i * 513 + 1 : (i + 1) * 513] for i in range(height)]
    assert set(rows[0]) == {128}
    assert rows[24][0] == 255
    assert set(rows[24][1:]) == {0}


def test_the_table() -> None:
    assert usage_csv(torch.tensor([[1, 2], [3, 4]])) == "code,codebook_1,codebook_2\n0,1,3\n1,2,4\n"


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"codes are \(1, 3, 4\), want \[B, 2, T\]"):
        CodebookUsage(2, 8).update(torch.zeros(1, 3, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="must be positive"):
        CodebookPanel(max_batches=0)
    empty = AudioBatch(keys=["a"], sample_rate=8000, attributes=[{}])
    with pytest.raises(ValueError, match="no codes, and _Model makes none"):
        _fit(tmp_path, empty, CodebookPanel())
    assert math.isclose(float(CodebookUsage(1, 4).compute().sum()), 0.0)
