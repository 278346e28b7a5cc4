"""Put cards side by side, make a blind listening test of two, or bring its votes back."""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase

from eval.card import Card
from eval.clip_table import ClipRow, load_clips
from eval.compare import Disagreement, compare_measurements, disagreements
from eval.listening_test import load_votes, plan_test, tally, with_votes
from eval.page.blind import listening_test_page
from eval.page.comparison import Comparison, comparison_page
from eval.page.listening import Sound
from lightning_audio.atomic import write_text
from lightning_audio.audio import read

EXAMPLE = """\
example:
  lightning-audio compare runs/a/evaluation runs/b/evaluation --out comparison.html
  lightning-audio compare runs/a/evaluation runs/b/evaluation --blind listening_test.html --items 20
  lightning-audio compare runs/a/evaluation runs/b/evaluation --votes votes-1.json --votes votes-2.json"""


@dataclass(frozen=True)
class Evaluation:
    """A card, the file it is in, and the clips beside it."""

    path: Path
    card: Card
    clips: list[ClipRow]

    def sound(self, key: str, label: str) -> Sound | None:
        """A clip's audio; None where it was not kept."""
        row = next((row for row in self.clips if row.key == key), None)
        if row is None or row.audio is None or not (self.path.parent / row.audio).exists():
            return None
        return Sound(label, *read(self.path.parent / row.audio))


def load_evaluation(path: str | Path) -> Evaluation:
    """From a card's file, or from the folder that holds a `card.json`."""
    path = Path(path)
    path = path / "card.json" if path.is_dir() else path
    if not path.exists():
        raise FileNotFoundError(f"there is no card {path}; `lightning-audio evaluate` writes one")
    return Evaluation(path, Card.load(path), load_clips(path.parent))


def refuse(found: Sequence[Disagreement]) -> None:
    """ValueError that names every disagreement with what each card says."""
    if found:
        raise ValueError(
            f"these cards cannot be compared, they differ in {'; '.join(map(str, found))}"
            " (--force shows them side by side all the same, marked)"
        )


def compare(
    evaluations: Sequence[Evaluation],
    out: str | Path,
    *,
    force: bool = False,
    num_sounds: int = 12,
    seed: int = 0,
) -> Comparison:
    """Write the page of the cards side by side.

    ValueError where they differ in what matters, unless `force`.
    num_sounds: clips whose audio is on the page, drawn with `seed` from those that all cards have.
    """
    cards = [evaluation.card for evaluation in evaluations]
    if len(cards) > len(ascii_uppercase):
        raise ValueError(f"a page holds at most {len(ascii_uppercase)} cards, got {len(cards)}")
    found = disagreements(cards)
    if not force:
        refuse(found)
    names = _names(evaluations)
    keys = _shared_audio(evaluations)
    chosen = random.Random(seed).sample(keys, min(num_sounds, len(keys)))
    tables = [evaluation.clips for evaluation in evaluations]
    comparison = Comparison(
        names=names,
        cards=cards,
        measurements=compare_measurements(cards, tables),
        tables=tables,
        sounds={key: _sounds(evaluations, key, ascii_uppercase) for key in chosen},
        disagreements=found,
    )
    write_text(out, comparison_page(comparison))
    return comparison


def write_listening_test(
    evaluations: Sequence[Evaluation], out: str | Path, *, num_items: int = 20, seed: int = 0
) -> int:
    """Write the page of a blind test of two cards; gives the number of its items."""
    refuse(disagreements([evaluation.card for evaluation in evaluations]))
    keys = _shared_audio(evaluations)
    test = plan_test([e.card for e in evaluations], keys, seed=seed, num_items=num_items)
    prompts = {row.key: row.prompt for row in evaluations[0].clips}
    sounds = {key: _sounds(evaluations, key, ["", ""]) for key in test.items}
    question = "Which of two sounds is the better one for its description?"
    write_text(out, listening_test_page(test, prompts, sounds, question=question))
    return len(test.items)


def add_votes(evaluations: Sequence[Evaluation], paths: Sequence[str]) -> list[Card]:
    """Write what listeners chose into both cards' files, and give the cards."""
    cards = [evaluation.card for evaluation in evaluations]
    judged = with_votes(cards, tally(cards, [load_votes(path) for path in paths]))
    for evaluation, card in zip(evaluations, judged, strict=True):
        card.save(evaluation.path)
    return judged


def _names(evaluations: Sequence[Evaluation]) -> list[str]:
    """What to call each card: its model's last word where that tells them apart, else its file."""
    names = [Path(evaluation.card.model).name for evaluation in evaluations]
    if len(set(names)) < len(names):
        names = [evaluation.card.model for evaluation in evaluations]
    if len(set(names)) < len(names):
        names = [str(evaluation.path.parent) for evaluation in evaluations]
    if len(set(names)) < len(names):
        raise ValueError(f"{len(names)} cards are {len(set(names))} files: {', '.join(sorted(set(names)))}")
    return names


def _shared_audio(evaluations: Sequence[Evaluation]) -> list[str]:
    """Names of the clips that all cards have audio of, sorted."""
    audible = [{row.key for row in e.clips if row.audio is not None} for e in evaluations]
    return sorted(set.intersection(*audible))


def _sounds(evaluations: Sequence[Evaluation], key: str, labels: Sequence[str]) -> list[Sound]:
    found = [e.sound(key, label) for e, label in zip(evaluations, labels, strict=False)]
    missing = [str(e.path.parent) for e, sound in zip(evaluations, found, strict=True) if sound is None]
    if missing:
        raise FileNotFoundError(f"the audio of clip {key} is gone from {', '.join(missing)}")
    return [sound for sound in found if sound is not None]


def main(arguments: list[str]) -> None:
    """The verb `compare`."""
    parser = argparse.ArgumentParser(
        prog="lightning-audio compare",
        description="Put cards side by side; refuses cards that differ in what decides the numbers.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("cards", nargs="+", metavar="card", help="card.json, or the folder that holds it")
    parser.add_argument("--out", default="comparison.html", metavar="PAGE", help="default: comparison.html")
    parser.add_argument(
        "--force", action="store_true", help="show unlike cards too, marked as not comparable"
    )
    parser.add_argument("--sounds", type=int, default=12, metavar="N", help="clips to listen to (default 12)")
    parser.add_argument("--blind", metavar="PAGE", help="write a blind listening test of two cards instead")
    parser.add_argument("--items", type=int, default=20, metavar="N", help="clips of the test (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of clips and their order")
    parser.add_argument(
        "--votes", action="append", default=[], metavar="FILE", help="votes to put into the cards"
    )
    options = parser.parse_args(arguments)
    if options.sounds < 0 or options.items < 1:
        raise ValueError(
            f"want --sounds 0 or more and --items 1 or more, got {options.sounds} and {options.items}"
        )
    evaluations = [load_evaluation(path) for path in options.cards]
    if options.votes:
        for card in add_votes(evaluations, options.votes):
            print(f"{card.model}: {card.measurements[-1].value:.1f} %, {card.measurements[-1].meaning}")
    elif options.blind:
        number = write_listening_test(evaluations, options.blind, num_items=options.items, seed=options.seed)
        print(f"written: {options.blind}, {number} items")
    else:
        comparison = compare(
            evaluations, options.out, force=options.force, num_sounds=options.sounds, seed=options.seed
        )
        for difference in comparison.disagreements:
            print(f"NOT COMPARABLE: {difference}")
        for compared in comparison.measurements:
            values = ["–" if m is None else f"{m.value:.3f}" for m in compared.measurements]
            print(f"{compared.name}: {' | '.join(values)} {compared.any.unit}".rstrip())
        print(f"written: {options.out}")
