"""Checkpoints that a kill cannot harm, and the newest good one of a run."""

from __future__ import annotations

import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from lightning_audio.atomic import whole_file


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, waits for the disk, then renames.

    Lightning's own goes through TMPDIR; where that is another file system its last step is a copy, and a
    kill in the copy leaves a torn file under the final name.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with whole_file(path) as file:
            torch.save(checkpoint, file)


class LastCheckpoint(ModelCheckpoint):
    """The newest state, every so many steps and of the step that the training ends with."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.global_step == trainer.max_steps and not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole `.ckpt` of a run, or None.  A torn file is passed over: its zip directory is missing."""
    files = sorted(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    return next((path for path in files if zipfile.is_zipfile(path)), None)


class RunRecord(L.Callback):
    """Puts into every checkpoint what it takes to build and trust it: the resolved config and the versions."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["config"] = self.config
        checkpoint["versions"] = {
            name: version(name) for name in ("lightning-audio", "torch", "lightning", "transformers")
        }

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        theirs, ours = checkpoint.get("config", {}).get("name"), self.config.get("name")
        if theirs != ours:
            raise ValueError(f"the checkpoint is of experiment {theirs!r}, this run is {ours!r}")


class GlobalRandomness(L.Callback):
    """Keeps torch's global random states in the checkpoint, one of each rank: what a model's dropout draws from.

    A resumed run has them back at its first step and not before, since starting draws too; validation leaves them
    as they were, whether it comes before a checkpoint or after.
    """

    def __init__(self) -> None:
        self._resumed: list[Tensor] | None = None
        self._before_validation: list[Tensor] = []

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        states: list[Any] = [_random_states(pl_module.device)]
        if dist.is_initialized():
            own = states[0]
            states = [None] * dist.get_world_size()
            dist.all_gather_object(states, own)
        checkpoint["global_random_states"] = states

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        states = checkpoint.get("global_random_states", [])
        if trainer.global_rank < len(states):  # a rank that was not there before goes on from the seed
            self._resumed = states[trainer.global_rank]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._resumed is not None:
            _set_random_states(self._resumed, pl_module.device)
            self._resumed = None

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._before_validation = _random_states(pl_module.device)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        _set_random_states(self._before_validation, pl_module.device)


def _random_states(device: torch.device) -> list[Tensor]:
    """Of the CPU and, where the model is on one, of the GPU."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _set_random_states(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0].cpu())
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1].cpu(), device)
