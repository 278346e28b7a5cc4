"""The main job, whole and small: audio, shards, codec, codes, language model, generations, scores, a page."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import nn

from datamodules.synthetic import make_corpus, write_corpus
from experiments.compose import compose_config, resolve
from experiments.encode import encode_dataset
from experiments.evaluate import evaluate
from experiments.progress import progress_report
from experiments.stages import StageLog
from experiments.train import train
from experiments.training.lock import RunLock
from lightning_audio import TextToAudio, export, load
from sharding.sources import find_clips
from sharding.writing.write import write_shards

EXAMPLE = """\
examples:
  lightning-audio quickstart
  lightning-audio quickstart --out runs/longer 'codec_overrides=["trainer.max_steps=5000"]'

Started again after an interruption it goes on where it was."""


def quickstart(config: DictConfig) -> Path:
    """Walk the whole road in `config.out`.  Gives the report page's path."""
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    with RunLock(out):
        stages = StageLog(out)
        stages.run("corpus", lambda: _make_corpus(config, out))
        stages.run("shards", lambda: _make_shards(out))
        stages.run("codec", lambda: _train_codec(config, out))
        stages.run("codes", lambda: _encode(config, out))
        stages.run("language model", lambda: _train_language_model(config, out))
        stages.run("package", lambda: f"{export(load(out / 'musicgen'), out / 'model', replace=True)}")
        stages.run("evaluation", lambda: _evaluate(config, out, stages))
    return out / "evaluation" / "report.html"


def _make_corpus(config: DictConfig, out: Path) -> str:
    settings = resolve(config)["corpus"]
    shutil.rmtree(out / "corpus", ignore_errors=True)  # what a killed life left
    pieces = make_corpus(seed=config.seed, **settings)
    counts = write_corpus(out / "corpus", pieces)
    return ", ".join(f"{count} {split}" for split, count in counts.items()) + " pieces"


def _make_shards(out: Path) -> str:
    with progress_report("sharding") as progress:
        report = write_shards(
            find_clips(out / "corpus"),
            out / "shards",
            samples_per_shard=100,
            overwrite=True,
            progress=progress,
        )
    return f"{report.num_samples} clips in {sum(len(info.shards) for info in report.splits.values())} shards"


def _train_codec(config: DictConfig, out: Path) -> str:
    overrides = [
        "experiment=quickstart_codec",
        f"run_dir={out / 'codec'}",
        f"data.path={out / 'shards'}",
        f"seed={config.seed}",
        *config.codec_overrides,
    ]
    train(compose_config("train", overrides))
    return _size(load(out / "codec", device="cpu"))


def _encode(config: DictConfig, out: Path) -> str:
    report = encode_dataset(
        out / "shards",
        out / "codes",
        out / "codec",
        batch_size=config.batch_size,
        keep_audio=False,
        overwrite=True,
    )
    return f"{report.num_samples} clips"


def _train_language_model(config: DictConfig, out: Path) -> str:
    overrides = [
        "experiment=quickstart_musicgen",
        f"run_dir={out / 'musicgen'}",
        f"data.path={out / 'codes'}",
        f"codec_source={out / 'codec'}",
        f"seed={config.seed}",
        *config.lm_overrides,
    ]
    train(compose_config("train", overrides))
    model = load(out / "musicgen", device="cpu")
    assert isinstance(model, TextToAudio)
    return _size(model.lm)


def _size(model: nn.Module) -> str:
    return f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters"


def _evaluate(config: DictConfig, out: Path, stages: StageLog) -> str:
    overrides = [
        "protocol=quickstart",
        f"model={out / 'model'}",
        f"audio={out / 'shards'}",
        f"codes={out / 'codes'}",
        f"runs=[{out / 'codec'},{out / 'musicgen'}]",
        f"out={out / 'evaluation'}",
        f"seed={config.seed}",
        f"batch_size={config.batch_size}",
        f"num_generations={config.num_generations}",
    ]
    card = evaluate(compose_config("evaluate", overrides), stages=list(stages.done.values()))
    judged = [m for m in card.measurements if m.beats_baselines is not None]
    return f"{sum(bool(m.beats_baselines) for m in judged)} of {len(judged)} measures beat every baseline"


def _farewell(out: Path, page: Path) -> str:
    model = out / "model"
    return f"""
The report page:  {page.resolve()}
The audio files:  {(out / "evaluation" / "generated").resolve()}
The checkpoints:  {(out / "codec" / "checkpoints").resolve()}
                  {(out / "musicgen" / "checkpoints").resolve()}
The whole model:  {model.resolve()}

Hear more of it:
  {_program()} generate model={model} "a fast bright melody on a high bell" duration=4
Step by step, on your own audio:
  {_program()} shard MY_MUSIC shards --sample-rate 16000 --channels 1
  {_program()} train experiment=quickstart_codec data.path=shards run_dir=runs/my_codec
  {_program()} encode shards codes --codec runs/my_codec
  {_program()} train experiment=quickstart_musicgen data.path=codes codec_source=runs/my_codec run_dir=runs/my_model
  {_program()} generate model=runs/my_model "a text" duration=4"""


def _program() -> str:
    """How the reader can call this program: by its path where it is not on PATH."""
    return "lightning-audio" if shutil.which("lightning-audio") else sys.argv[0]


def main(arguments: list[str]) -> None:
    """The verb `quickstart`."""
    parser = argparse.ArgumentParser(
        prog="lightning-audio quickstart",
        description="Make a corpus, train a codec and a language model on it, generate, score, and show it all.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out", default="runs/quickstart", help="folder for everything (default: runs/quickstart)"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args(arguments)
    torch.set_float32_matmul_precision("high")
    config = compose_config("quickstart", [f"out={options.out}", *options.overrides])
    page = quickstart(config)
    print(_farewell(Path(config.out), page))
