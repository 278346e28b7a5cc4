"""Score a model, or audio that some other system made, by a protocol; write a card, a page and the audio."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from hydra.utils import instantiate
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from eval.card import Card
from eval.clip_table import load_clips
from eval.wandb_card import log_card
from experiments.compose import compose_config
from experiments.stages import StageRecord

EXAMPLE = """\
examples:
  lightning-audio evaluate protocol=musicgen-musiccaps model=facebook/musicgen-small audio=shards/musiccaps devices=4
  lightning-audio evaluate protocol=audiogen-audiocaps audio=shards/audiocaps audio_folder=their_wavs out=theirs
  lightning-audio evaluate protocol=encodec model=runs/encodec audio=my_recordings resample=true
  lightning-audio evaluate protocol=quickstart model=runs/mine audio=shards codes=codes out=runs/mine/evaluation

Killed, it goes on with the audio that is made already when it is started again. Under torchrun or srun every process
takes its share; devices=N starts N of them on this machine."""


def evaluate(config: DictConfig, *, stages: Sequence[StageRecord] = ()) -> Card:
    """Run the protocol; write `card.json`, `report.html` and the audio into `config.out`.

    stages: of a longer job before it, for the page.
    """
    card = instantiate(config.protocol.run)(config, stages=stages)
    assert isinstance(card, Card)
    if config.wandb.mode != "disabled":
        rank_zero_only(send_to_wandb)(config, card)
    return card


def send_to_wandb(config: DictConfig, card: Card) -> None:
    """Gives the card to a W&B run of its own."""
    import wandb

    with wandb.init(
        project=config.wandb.project,
        mode=config.wandb.mode,
        name=card.protocol,
        dir=config.out,
        job_type="evaluate",
    ) as run:
        log_card(run, card, config.out, load_clips(config.out))


def main(arguments: list[str]) -> None:
    """The verb `evaluate`."""
    parser = argparse.ArgumentParser(
        prog="lightning-audio evaluate",
        description="Score a model, or a folder of audio, by a protocol; write a card, a page and the audio.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args(arguments)
    # Which settings of sampling there are is for the model to say; Hydra would refuse to add a name.
    added = re.compile(r"^(?=protocol\.make\.sampling\.)")
    config = compose_config("evaluate", [added.sub("++", override) for override in options.overrides])
    rank_zero_only(print_card)(evaluate(config), config.out)


def print_card(card: Card, out: str) -> None:
    """The values, and what a reader must know of them."""
    for measurement in card.measurements:
        print(f"{measurement.name}: {measurement.value:.3f} {measurement.unit}")
    for warning in card.warnings:
        print(f"note: {warning}")
    print(f"written: {out}/report.html")
