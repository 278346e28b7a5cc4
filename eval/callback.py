"""Hearing a model while it trains: a few fixed prompts, or a few fixed clips, every so often."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import lightning as L
import torch
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from lightning_audio.audio import write
from lightning_audio.batch import AudioBatch

log = logging.getLogger(__name__)


class Generator(Protocol):
    """The part of `TextToAudio` that sampling in training needs."""

    sample_rate: int

    def generate(self, descriptions: list[str], *, duration: float, seed: int) -> Tensor: ...


class GenerateSamples(L.Callback):
    """Generates each caption with a seed of its own, the same at every time, and keeps the audio.

    build: gives the generator for a task, such as `lambda task: TextToAudio(codec=codec, lm=task.model)`.
    captions: what to generate; the i-th with seed `seed + i`.   duration: of each, in seconds.
    every_n_batches: training batches between two times.
    max_seconds: no further caption is begun once a time has taken this long.
    folder: where the files go; `samples` in the trainer's folder unless given.

    All ranks generate, since a sharded model needs them all; rank 0 writes, and decides for all when to stop.
    The random state of training is left as it was. A task's averaged weights (`task.ema`) are used where it
    has them.
    """

    def __init__(
        self,
        *,
        build: Callable[[Any], Generator],
        captions: Sequence[str],
        seed: int = 0,
        duration: float = 5.0,
        every_n_batches: int = 1000,
        max_seconds: float = 60.0,
        folder: str | Path | None = None,
    ) -> None:
        super().__init__()
        if not captions:
            raise ValueError("GenerateSamples: no captions to generate")
        if every_n_batches < 1 or duration <= 0 or max_seconds <= 0:
            raise ValueError(
                f"GenerateSamples: every_n_batches is {every_n_batches}, duration {duration} s, "
                f"max_seconds {max_seconds} s; all must be positive"
            )
        self.build = build
        self.captions = list(captions)
        self.seed = seed
        self.duration = duration
        self.every_n_batches = every_n_batches
        self.max_seconds = max_seconds
        self.folder = folder
        self._batches = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._batches += 1
        if self._batches % self.every_n_batches == 0:
            self.generate(trainer, pl_module)

    def generate(self, trainer: L.Trainer, task: L.LightningModule) -> list[Path]:
        """Generates now; gives the files that this rank wrote."""
        folder = _folder(self.folder, trainer) / f"{self._batches:08d}"
        started = time.monotonic()
        paths: list[Path] = []
        with _listening(task):
            generator = self.build(task)
            for i, caption in enumerate(self.captions):
                wav = generator.generate([caption], duration=self.duration, seed=self.seed + i)[0]
                if trainer.is_global_zero and (
                    path := _write(folder / f"{i:02d}.wav", wav, generator.sample_rate)
                ):
                    paths.append(path)
                late = time.monotonic() - started > self.max_seconds
                if trainer.strategy.broadcast(late) and i + 1 < len(self.captions):
                    log.warning(
                        "samples: %d of %d captions in %.0f s, the rest is left out this time",
                        i + 1,
                        len(self.captions),
                        self.max_seconds,
                    )
                    break
        captions = [self.captions[int(path.stem)] for path in paths]
        _log_audio(trainer, "samples/generated", paths, captions)
        return paths

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self._batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._batches = state_dict["batches"]


class ReconstructSamples(L.Callback):
    """Reconstructs the first clips of the first validation batch at every n-th validation; keeps the audio.

    reconstruct: gives the codec's output for a task and clips [B, C, L]; by default `task.model(wav).wav`.
    num_clips: how many.   max_duration: seconds of each.   folder: `samples` in the trainer's folder unless
    given.
    """

    def __init__(
        self,
        *,
        reconstruct: Callable[[Any, Tensor], Tensor] = lambda task, wav: task.model(wav).wav,
        num_clips: int = 4,
        max_duration: float = 10.0,
        every_n_validations: int = 1,
        folder: str | Path | None = None,
    ) -> None:
        super().__init__()
        if num_clips < 1 or every_n_validations < 1 or max_duration <= 0:
            raise ValueError(
                f"ReconstructSamples: num_clips is {num_clips}, every_n_validations {every_n_validations}, "
                f"max_duration {max_duration} s; all must be positive"
            )
        self.reconstruct = reconstruct
        self.num_clips = num_clips
        self.max_duration = max_duration
        self.every_n_validations = every_n_validations
        self.folder = folder
        self._validations = 0

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx or dataloader_idx or trainer.sanity_checking:
            return
        self._validations += 1
        due = (self._validations - 1) % self.every_n_validations == 0
        if due and trainer.is_global_zero and isinstance(batch, AudioBatch) and batch.wav is not None:
            self._save(trainer, pl_module, batch)

    def _save(self, trainer: L.Trainer, task: L.LightningModule, batch: AudioBatch) -> None:
        assert batch.wav is not None
        wav = batch.wav[: self.num_clips, :, : round(self.max_duration * batch.sample_rate)]
        with _listening(task):
            output = self.reconstruct(task, wav)
        folder = _folder(self.folder, trainer)
        names = [f"{i:02d}" for i in range(len(wav))]
        # The originals do not change: one copy, beside the reconstructions of every time.
        if not (folder / "original").is_dir():
            for name, clip in zip(names, wav, strict=True):
                _write(folder / "original" / f"{name}.wav", clip, batch.sample_rate)
        now = folder / f"{self._validations:06d}"
        paths = [_write(now / f"{n}.wav", c, batch.sample_rate) for n, c in zip(names, output, strict=True)]
        written = [path for path in paths if path is not None]
        _log_audio(trainer, "samples/reconstructed", written, [batch.keys[int(p.stem)] for p in written])

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._validations = state_dict["validations"]


@contextmanager
def _listening(task: L.LightningModule) -> Iterator[None]:
    """Evaluation mode, averaged weights, no gradients; afterwards each part is in the mode it was in.

    `no_grad` and not `inference_mode`: a tensor that a module caches here must still be good in training.
    """
    modes = [(module, module.training) for module in task.modules()]
    ema = getattr(task, "ema", None)
    devices = [task.device] if task.device.type == "cuda" else []
    try:
        task.eval()
        averaged = ema.average_weights() if ema is not None else nullcontext()
        with averaged, torch.no_grad(), torch.random.fork_rng(devices=devices):
            yield
    finally:
        for module, training in modes:
            module.training = training


def _folder(folder: str | Path | None, trainer: L.Trainer) -> Path:
    if folder is not None:
        return Path(folder)
    return Path(trainer.log_dir or trainer.default_root_dir) / "samples"


def _write(path: Path, wav: Tensor, sample_rate: int) -> Path | None:
    """Writes one clip [C, L]; one that is not finite is said, and not written."""
    if not wav.isfinite().all():
        log.warning("samples: %s holds samples that are not finite and is not written", path)
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, wav.detach().float().cpu(), sample_rate)
    return path


def _log_audio(trainer: L.Trainer, key: str, paths: list[Path], captions: list[str]) -> None:
    """Sends the files to W&B where a run logs there."""
    for logger in trainer.loggers:
        if paths and isinstance(logger, WandbLogger):
            logger.log_audio(key, [str(path) for path in paths], step=trainer.global_step, caption=captions)
