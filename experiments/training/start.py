"""A training that starts from another model's weights: a stereo model from a mono one, a fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import lightning as L
from torch import Tensor, nn

from experiments.training.checkpointing import newest_checkpoint
from lightning_audio import load
from lightning_audio.checkpoints.keymap import load_strict
from lightning_audio.generation.base import AudioGenerator

Weights = Mapping[str, Tensor]


class StartFrom(L.Callback):
    """Gives the task's model the weights of another one before its first step.

    source: what `lightning_audio.load` opens: a run, a package. Of a whole model, its language model.
    convert: makes weights for this model out of those, such as `lightning_audio.lm.stereo.stereo_weights`.
    run_dir: of this training; where it holds a checkpoint the training goes on from there and `source` is not read.
    """

    def __init__(
        self, *, source: str | Path, run_dir: str | Path, convert: Callable[[Weights], Weights] | None = None
    ) -> None:
        self.source, self.run_dir, self.convert = source, Path(run_dir), convert

    # Before Lightning shards the model over ranks, and before it restores a checkpoint.
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage != "fit" or newest_checkpoint(self.run_dir / "checkpoints") is not None:
            return
        loaded = load(self.source, device="cpu")
        weights: Weights = (loaded.lm if isinstance(loaded, AudioGenerator) else loaded).state_dict()
        model = pl_module.model
        assert isinstance(model, nn.Module)
        load_strict(model, weights if self.convert is None else self.convert(weights))
