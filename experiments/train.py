"""Train an experiment: instantiate the data, the task and the trainer; fit."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from hydra.utils import instantiate
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from omegaconf import DictConfig

from experiments.compose import compose_config, experiment_names, resolve
from experiments.progress import progress_callback
from experiments.training.checkpointing import (
    AtomicCheckpointIO,
    GlobalRandomness,
    RunRecord,
    newest_checkpoint,
)
from experiments.training.coherence import check_coherence, codec_hash
from experiments.training.lock import RunLock
from lightning_audio.atomic import write_text

EXAMPLE = """\
example:
  lightning-audio train experiment=musicgen_small data.path=shards/tokens trainer.devices=8
  lightning-audio train experiment=encodec_32khz data.path=shards trainer.max_steps=1000 run_dir=runs/mine

The same command again resumes the run in run_dir from its newest checkpoint."""


def loggers(config: DictConfig) -> list[Logger]:
    """CSV always (one file per life of the run); W&B online where there is a key, else offline, or off."""
    run_dir = Path(config.run_dir)
    every = config.trainer.log_every_n_steps  # to the disk with each line: a kill takes none with it
    found: list[Logger] = [CSVLogger(run_dir, name="logs", flush_logs_every_n_steps=every)]
    if config.wandb.mode != "disabled":
        has_key = bool(os.environ.get("WANDB_API_KEY")) or (Path.home() / ".netrc").exists()
        offline = config.wandb.mode == "offline" or (config.wandb.mode == "auto" and not has_key)
        found.append(
            WandbLogger(
                project=config.wandb.project,
                name=config.name,
                id=_wandb_id(run_dir),
                resume="allow",
                save_dir=run_dir,
                offline=offline or os.environ.get("WANDB_MODE") == "offline",
                config=resolve(config),
            )
        )
    return found


def _wandb_id(run_dir: Path) -> str:
    """One W&B id over all lives of a run, kept in its folder."""
    path = run_dir / "wandb_id"
    if not path.exists():
        write_text(path, os.urandom(4).hex())
    return path.read_text().strip()


def finish_wandb(trainer: L.Trainer) -> None:
    """Close the W&B run, so that another training in this process does not go on in it."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()


def build_trainer(config: DictConfig, resolved: dict[str, Any]) -> L.Trainer:
    """The Trainer of the config with its callbacks, loggers and atomic checkpoints."""
    callbacks = [instantiate(node, _convert_="all") for node in config.callbacks.values() if node is not None]
    progress = progress_callback()
    return instantiate(
        config.trainer,
        callbacks=[*callbacks, GlobalRandomness(), RunRecord(resolved), progress],
        enable_progress_bar=isinstance(progress, ProgressBar),
        logger=loggers(config),
        plugins=[AtomicCheckpointIO()],
        enable_model_summary=False,
        use_distributed_sampler=False,  # the datamodules give each rank its part
        default_root_dir=config.run_dir,
    )


def train(config: DictConfig) -> Path:
    """Train until the config's last step, going on from the run's newest checkpoint.  Gives the run folder."""
    resolved = resolve(config)
    check_coherence(resolved)
    resolved["codec_hash"] = codec_hash(resolved)
    run_dir = Path(config.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    with RunLock(run_dir):
        checkpoint = newest_checkpoint(run_dir / "checkpoints")
        L.seed_everything(config.seed, workers=True, verbose=False)
        data = instantiate(config.data, _convert_="all")
        task = instantiate(config.task, _convert_="all")
        write_text(run_dir / "config.yaml", yaml.safe_dump(resolved, sort_keys=False))
        trainer = build_trainer(config, resolved)
        if checkpoint is not None:
            print(f"  going on from {checkpoint}", flush=True)
        try:
            trainer.fit(task, data, ckpt_path=checkpoint)
        finally:
            finish_wandb(trainer)
        if trainer.interrupted:
            raise KeyboardInterrupt
    return run_dir


def main(arguments: list[str]) -> None:
    """The verb `train`."""
    parser = argparse.ArgumentParser(
        prog="lightning-audio train",
        description="Train an experiment. Every setting is a Hydra override.",
        epilog=f"{EXAMPLE}\n\nexperiments: {', '.join(experiment_names())}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args(arguments)
    if not any(override.startswith("experiment=") for override in options.overrides):
        raise ValueError(f"name an experiment: experiment=one of {', '.join(experiment_names())}")
    run_dir = train(compose_config("train", options.overrides))
    print(f"trained: {run_dir}")
