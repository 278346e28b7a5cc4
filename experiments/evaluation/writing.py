"""The card of an evaluation, the table of its clips and its page."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from eval.card import Card, Durations, PublishedRow
from eval.clip_table import ClipRow, save_clips
from eval.protocols.measures import Results
from eval.protocols.scoring import Tally
from eval.report import Clip, Fact, Listening, Sound, Stage, card_report, write_report
from experiments.compose import resolve
from experiments.evaluation.setup import JudgedClips, Setup, beside_card


def write_results(
    setup: Setup,
    clips: JudgedClips,
    tally: Tally,
    results: Results,
    scores: dict[str, list[float]],
    *,
    out: Path,
    stages: list[Stage],
) -> None:
    """Writes card.json, clips.json and report.html.  scores: of each clip that was scored, by measurement."""
    tally = replace(tally, faults=tally.faults | _without_score(tally, scores))
    card = _card(setup, tally, results)
    rows = _rows(setup, clips, tally, scores, out)
    card.save(out / "card.json")
    save_clips(out, rows)
    page = replace(
        card_report(card),
        stages=stages,
        listening=[_listening(setup, clips, rows)],
        config=yaml.safe_dump({"evaluate": resolve(setup.config)}, sort_keys=False),
    )
    write_report(page, out / "report.html")


def _without_score(tally: Tally, scores: dict[str, list[float]]) -> dict[str, str]:
    """The faults of clips of which a measure could make nothing, such as one that is too short for it."""
    faults = {}
    for place, key in enumerate(tally.durations):
        without = [name for name, values in scores.items() if math.isnan(values[place])]
        if without:
            told = [tally.faults[key]] if key in tally.faults else []
            faults[key] = "; ".join([*told, f"without {', '.join(without)}"])
    return faults


def _rows(
    setup: Setup, clips: JudgedClips, tally: Tally, scores: dict[str, list[float]], out: Path
) -> list[ClipRow]:
    prompts = {item.key: item.caption or "" for item in setup.reference.items}
    rows = []
    for place, key in enumerate(tally.durations):
        path = clips.path(key)
        audio = None if path is None else beside_card(path, out, key)
        own = {name: values[place] for name, values in scores.items()}
        rows.append(ClipRow(key, prompts.get(key, ""), audio, own))
    return rows


def _card(setup: Setup, tally: Tally, results: Results) -> Card:
    config, dataset, maker = setup.config, setup.protocol["dataset"], setup.maker
    hears = [heard for measure in setup.measures.values() for heard in measure.hears()]
    return Card(
        protocol=setup.protocol["name"],
        model=str(config.model or config.audio_folder),
        model_hash=None if maker is None else "+".join(value[:16] for value in maker.hashes.values()),
        measurements=results.measurements,
        canaries=results.canaries,
        size_curves=results.size_curves,
        published=[PublishedRow(**row) for row in setup.protocol["published"]],
        num_clips=len(tally.durations),
        num_items=len(setup.reference.items),
        durations=Durations.of(list(tally.durations.values())),
        embedders=list({heard.name: heard for heard in hears}.values()),
        resampler="julius, wherever rates differ" if config.resample else "none: all audio has one rate",
        loudness=f"judged: {setup.level}; reference: as given",
        reference=f"{dataset['name']} ({dataset['source']}), read from {setup.reference.name}",
        reference_hash=setup.reference.hash,
        missing=tally.missing,
        faults=tally.faults,
        seeds={"generation": config.seed, "bootstrap": 0},
        sampling={} if maker is None else maker.settings(),
        warnings=_warnings(setup, tally, results),
        device=str(setup.rank.device(config.device)),
    )


def _warnings(setup: Setup, tally: Tally, results: Results) -> list[str]:
    dataset, used = setup.protocol["dataset"], len(setup.reference.items)
    found = list(results.warnings)
    if dataset["count"] not in (None, used):
        found.insert(
            0, f"{dataset['name']}: {used} of the {dataset['count']} items of the protocol were used"
        )
    if short := setup.reference.num_short:
        found.append(f"{short} items are shorter than {dataset['min_duration']:g} s and were left out")
    if tally.missing:
        found.append(f"{len(tally.missing)} clips could not be scored")
    if tally.faults:
        found.append(f"{len(tally.faults)} clips were scored though something is wrong with them")
    if setup.extra:
        found.append("No file has the name of a reference clip: the two were compared as sets")
    if setup.maker is None:
        found.append("No model was given: there is no codec reconstruction among the canaries")
    return found


def _listening(setup: Setup, clips: JudgedClips, rows: list[ClipRow]) -> Listening:
    """The first clips, beside their references."""
    places = {clips.key(place): place for place in range(len(clips))}
    examples = []
    for row in rows[: setup.protocol["examples"]]:
        place = places[row.key]
        heard: dict[str, Any] = {"judged": clips.wav(place), "reference": clips.target(place)}
        sounds = [Sound(name, wav, setup.sample_rate) for name, wav in heard.items() if wav is not None]
        facts = [Fact(name, f"{value:.3f}") for name, value in row.scores.items()]
        examples.append(Clip(row.prompt or row.key, sounds, facts))
    return Listening("Clips", "What was judged, beside the reference.", examples)
