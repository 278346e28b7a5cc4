"""A protocol from start to end: audio is made or found, scored beside canaries, and written up as card and page."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TypeVar

from omegaconf import DictConfig

from eval.card import Card
from eval.protocols.judged import canaries
from eval.protocols.measures import joined
from eval.protocols.scoring import score
from eval.report import Stage
from experiments.compose import resolve
from experiments.evaluation.ranks import Rank, on_all_ranks
from experiments.evaluation.setup import JudgedClips, Setup, found_clips, made_clips
from experiments.evaluation.writing import write_results
from experiments.progress import track
from experiments.stages import StageRecord
from experiments.training.lock import RunLock

Thing = TypeVar("Thing")


def evaluate_protocol(config: DictConfig, *, stages: Sequence[StageRecord] = ()) -> Card:
    """Runs the protocol on a model, or on a folder of audio; gives the card that then lies in `config.out`."""
    resolve(config)  # what has no value yet is named before any process starts
    on_all_ranks(_evaluate, config, list(stages), devices=config.devices)
    return Card.load(Path(config.out) / "card.json")


def _evaluate(rank: Rank, config: DictConfig, stages: list[StageRecord]) -> None:
    began, out = time.monotonic(), Path(config.out)
    setup = Setup(config, rank)
    rank.first_only(lambda: out.mkdir(parents=True, exist_ok=True))
    with RunLock(out) if rank.is_first else nullcontext():
        clips = _clips(setup, out)
        measures = list(setup.measures.values())
        tally = score(
            clips,
            measures,
            canaries(setup.reconstruct),
            rank=rank.rank,
            world_size=rank.world_size,
            track=partial(_tracked, rank, "scoring"),
        )
        if not tally.durations:
            key, reason = next(iter(tally.missing.items()))
            raise ValueError(f"none of {len(clips)} clips could be scored; {key}: {reason}")
        # All ranks ask for them, since each has a share.
        results = joined([measure.results() for measure in measures])
        keys = list(tally.durations)
        scores = {name: scores_of(keys).tolist() for name, scores_of in results.scores_of.items()}
        before = [Stage(stage.name, stage.seconds, stage.detail) for stage in stages]
        own = Stage("evaluation", time.monotonic() - began, f"{len(keys)} clips")
        rank.first_only(
            lambda: write_results(setup, clips, tally, results, scores, out=out, stages=[*before, own])
        )


def _clips(setup: Setup, out: Path) -> JudgedClips:
    """What is judged: made now, or found."""
    rank, maker = setup.rank, setup.maker
    if maker is None:
        return found_clips(setup)
    generations = setup.generations(out, maker)
    if line := rank.first_only(generations.open):
        print(f"  {line}", flush=True)
    generations.make(
        maker,
        setup.reference.items,
        setup.read_for(maker),
        rank=rank,
        batch_size=setup.config.batch_size,
        level=setup.level,
        track=partial(_tracked, rank, "making audio"),
    )
    rank.barrier()
    return made_clips(setup, generations)


def _tracked(rank: Rank, what: str, things: Iterable[Thing]) -> Iterable[Thing]:
    return track(things, what) if rank.is_first else things
