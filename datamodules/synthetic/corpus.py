"""The embedded corpus: pieces balanced over instrument, register and tempo; its splits share no melody."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.synthetic.captions import captions
from datamodules.synthetic.composition import KEYS, MOODS, Score, compose, melody_name, split_of
from datamodules.synthetic.instruments import INSTRUMENTS, render
from lightning_audio import audio

REGISTERS = {"low": 46, "middle": 64, "high": 82}
"""The MIDI number near which a register has its tonic. Eighteen semitones apart: the ranges do not meet."""

TEMPI = {"slow": (72.0, 80.0), "medium": (108.0, 118.0), "fast": (160.0, 174.0)}
"""Range of beats per minute of each tempo class."""

CLASSES: dict[str, list[str]] = {
    "instrument": list(INSTRUMENTS),
    "register": list(REGISTERS),
    "tempo": list(TEMPI),
}
"""The attributes that a caption always names and a listener can tell, with their classes."""

SPLITS = {"train": 9 / 12, "valid": 1 / 12, "test": 2 / 12}
"""Share of the pieces in each split."""


@dataclass(frozen=True)
class Piece:
    """One clip.  wav: [1, L] float32 in [-1, 1].  attributes: what made it, and its captions."""

    key: str
    wav: Tensor
    sample_rate: int
    attributes: dict[str, Any]
    split: str


def cell(index: int) -> dict[str, str]:
    """The index-th combination of classes. Any 36 in a row hold each once; fewer are nearly balanced."""
    instruments, registers, tempi = CLASSES.values()
    block = index // (len(instruments) * len(registers))
    return {
        "instrument": instruments[index % len(instruments)],
        "register": registers[index % len(registers)],
        "tempo": tempi[(index + block) % len(tempi)],
    }


def plan_piece(index: int, *, split: str, duration: float, seed: int) -> tuple[Score, dict[str, Any]]:
    """What the index-th piece of a split plays, and its attributes: a function of the arguments alone."""
    rng = np.random.default_rng([seed, list(SPLITS).index(split), index])
    classes = cell(index)
    bpm = round(float(rng.uniform(*TEMPI[classes["tempo"]])), 1)
    key = None if classes["instrument"] == "drums" else str(rng.choice(list(KEYS)))
    score = _score_in_split(split, bpm, duration, key, rng)
    attributes: dict[str, Any] = {
        **classes,
        "bpm": bpm,
        "key": key,
        "mood": "steady" if key is None else MOODS[key.split()[1]],
        "melody": melody_name(score),
        "seed": seed,
    }
    texts = captions(attributes)
    return score, {**attributes, "description": str(rng.choice(texts)), "descriptions": texts}


def make_piece(index: int, *, split: str, duration: float, sample_rate: int, seed: int) -> Piece:
    """The index-th piece of a split.  duration: s, sample_rate: Hz"""
    score, attributes = plan_piece(index, split=split, duration=duration, seed=seed)
    tonic = tonic_near(REGISTERS[attributes["register"]], attributes["key"])
    wav = render(score, attributes["instrument"], tonic=tonic, duration=duration, sample_rate=sample_rate)
    return Piece(f"{split}-{index:05d}", torch.from_numpy(wav), sample_rate, attributes, split)


def _score_in_split(
    split: str, bpm: float, duration: float, key: str | None, rng: np.random.Generator
) -> Score:
    """The first score that `rng` composes whose melody belongs to `split`: about one in twelve for valid."""
    scores = (compose(bpm=bpm, duration=duration, key=key, rng=rng) for _ in itertools.count())
    return next(score for score in scores if split_of(score) == split)


def tonic_near(centre: float, key: str | None) -> float:
    """The MIDI number of the key's tonic nearest to `centre`; `centre` itself where there is no key."""
    if key is None:
        return centre
    pitch_class = KEYS[key][0]
    return centre + (pitch_class - centre + 5) % 12 - 5


def split_sizes(num_pieces: int) -> dict[str, int]:
    """Pieces in each split, at least one, the rest of them for training."""
    if num_pieces < len(SPLITS):
        raise ValueError(f"a corpus of {num_pieces} pieces cannot have the {len(SPLITS)} splits")
    sizes = {split: max(1, round(share * num_pieces)) for split, share in SPLITS.items()}
    return {**sizes, "train": num_pieces - sizes["valid"] - sizes["test"]}


def make_corpus(
    *, num_pieces: int = 432, duration: float = 4.0, sample_rate: int = 16000, seed: int = 0
) -> Iterator[Piece]:
    """The pieces, split after split, made as they are asked for.  duration: s, sample_rate: Hz"""
    for split, size in split_sizes(num_pieces).items():
        for index in range(size):
            yield make_piece(index, split=split, duration=duration, sample_rate=sample_rate, seed=seed)


def write_corpus(folder: str | Path, pieces: Iterable[Piece]) -> dict[str, int]:
    """Number of pieces written in each split: `<split>/<key>.flac` with `<split>/<key>.json` beside it.

    The folder appears whole or not at all: it is filled under another name and renamed at the end.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists already and is not an empty folder")
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        counts = Counter(_write_piece(unfinished, piece) for piece in pieces)
        unfinished.replace(folder)
    except BaseException:  # an interrupt too: nothing half-written stays behind
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return dict(counts)


def _write_piece(folder: Path, piece: Piece) -> str:
    path = folder / piece.split / f"{piece.key}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    audio.write(path, piece.wav, piece.sample_rate)
    path.with_suffix(".json").write_text(json.dumps(piece.attributes, indent=1) + "\n")
    return piece.split
