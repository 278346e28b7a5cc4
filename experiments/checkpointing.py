"""Checkpoints that a kill cannot harm, and the newest good one of a run."""

from __future__ import annotations

import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lightning_audio.atomic import whole_file


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, waits for the disk, then renames.

    Lightning's own goes through TMPDIR; where that is another file system its last step is a copy, and a
    kill in the copy leaves a torn file under the final name.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with whole_file(path) as file:
            torch.save(checkpoint, file)


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
