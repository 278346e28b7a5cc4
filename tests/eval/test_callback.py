"""Samples in training: at their interval, the same each time, and training does not notice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor, nn

from eval.callback import GenerateSamples, ReconstructSamples
from lightning_audio.audio import read
from lightning_audio.batch import AudioBatch
from lightning_audio.optim import EMA

RATE = 8000


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))
        self.drop = nn.Dropout(0.5)

    def forward(self, wav: Tensor) -> Any:
        return type("Output", (), {"wav": self.drop(wav * self.gain)})


class _Task(L.LightningModule):
    """Moves a gain; logs the random numbers that it meets."""

    def __init__(self) -> None:
        super().__init__()
        self.model = _Model()
        self.ema = EMA(self.model, decay=0.5)
        self.drawn: list[float] = []

    def training_step(self, batch: AudioBatch) -> Tensor:
        assert self.model.training
        self.drawn.append(float(torch.rand(())))
        return self.model(batch.wav).wav.square().mean()

    def validation_step(self, batch: AudioBatch) -> None:
        pass

    def on_train_batch_end(self, *_: Any) -> None:
        self.ema.update()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class _Generator:
    sample_rate = RATE

    def __init__(self, task: _Task) -> None:
        assert not task.model.training
        self.gain = float(task.model.gain)

    def generate(self, descriptions: list[str], *, duration: float, seed: int) -> Tensor:
        torch.rand(7)  # a generator that is careless with the global state
        noise = torch.randn(1, 1, round(duration * RATE), generator=torch.Generator().manual_seed(seed))
        return 0.1 * noise if descriptions != ["broken"] else noise * torch.nan


def _batches() -> list[AudioBatch]:
    wav = 0.1 * torch.randn(3, 1, RATE, generator=torch.Generator().manual_seed(0))
    return [AudioBatch(keys=["a", "b", "c"], sample_rate=RATE, attributes=[{}] * 3, wav=wav)] * 4


def _fit(folder: Path, callbacks: list[L.Callback], **options: Any) -> _Task:
    L.seed_everything(0)
    task = _Task()
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=callbacks,
        logger=options.pop("logger", False),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **options,
    )
    loaders = [torch.utils.data.DataLoader(_batches(), batch_size=None) for _ in range(2)]
    trainer.fit(task, *loaders)
    return task


def _generate(**changes: Any) -> GenerateSamples:
    options = {"captions": ["one", "two"], "duration": 0.25, "every_n_batches": 2, "seed": 5}
    return GenerateSamples(build=_Generator, **{**options, **changes})


def test_files_at_the_interval_and_training_undisturbed(tmp_path: Path) -> None:
    sampled, plain = _fit(tmp_path, [_generate()]), _fit(tmp_path, [])
    assert sampled.drawn == plain.drawn
    assert torch.equal(sampled.model.gain, plain.model.gain)
    written = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.wav"))
    assert written == [f"samples/{n:08d}/{i:02d}.wav" for n in (2, 4) for i in (0, 1)]
    first, second = (read(tmp_path / written[i]) for i in (0, 2))
    assert first[1] == RATE
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[0], read(tmp_path / written[1])[0])


def test_time_is_bounded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _fit(tmp_path, [_generate(max_seconds=1e-9)])
    assert len(list(tmp_path.rglob("*.wav"))) == 2  # one caption at each of two times
    assert "1 of 2 captions" in caplog.text


def test_audio_that_is_not_finite_is_said_and_not_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _fit(tmp_path, [_generate(captions=["broken", "fine"], every_n_batches=4)])
    assert [p.name for p in tmp_path.rglob("*.wav")] == ["01.wav"]
    assert "not finite" in caplog.text


def test_reconstructions(tmp_path: Path) -> None:
    callback = ReconstructSamples(num_clips=2, max_duration=0.5)
    task = _fit(tmp_path, [callback])
    written = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.wav"))
    assert written == [f"samples/{n}/{i:02d}.wav" for n in ("000001", "original") for i in (0, 1)]
    original, output = (read(tmp_path / f"samples/{n}/01.wav")[0] for n in ("original", "000001"))
    assert original.shape == (1, RATE // 2)
    with task.ema.average_weights():  # what is heard are the averaged weights, without dropout
        assert torch.allclose(output, original * task.model.gain.detach(), atol=1e-3)


def test_the_count_comes_back_with_the_checkpoint() -> None:
    callback = _generate()
    callback._batches = 7
    again = _generate()
    again.load_state_dict(callback.state_dict())
    assert again._batches == 7


def test_wandb_gets_the_audio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        WandbLogger,
        "log_audio",
        lambda _, key, audios, step, caption: calls.append((key, len(audios), step, caption)),
    )
    logger = WandbLogger(save_dir=tmp_path, offline=True, mode="disabled")
    _fit(tmp_path, [_generate(folder=tmp_path / "here", every_n_batches=4)], logger=logger)
    logger.experiment.finish()  # or the next W&B logger of this process goes on in its run
    assert calls == [("samples/generated", 2, 4, ["one", "two"])]
    assert len(list((tmp_path / "here").rglob("*.wav"))) == 2


@pytest.mark.parametrize("changes", [{"captions": []}, {"duration": 0.0}, {"every_n_batches": 0}])
def test_settings_that_make_no_sense(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="GenerateSamples"):
        _generate(**changes)
