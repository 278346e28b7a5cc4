"""Scores: melodies in a key with a motif that returns and ends on the tonic, and grooves for a drum kit."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

KEYS = {
    # The semitones of degrees 0..6 above the tonic, and the tonic's pitch class. Four related keys:
    # music in few pitches is music that a very small model can learn.
    "C major": (0, (0, 2, 4, 5, 7, 9, 11)),
    "G major": (7, (0, 2, 4, 5, 7, 9, 11)),
    "A minor": (9, (0, 2, 3, 5, 7, 8, 10)),
    "D minor": (2, (0, 2, 3, 5, 7, 8, 10)),
}
MOODS = {"major": "bright", "minor": "wistful"}

OPENING_BEATS = 4
"""A melody is known by its opening bar: two pieces with the same opening share a melody."""

LOWEST_DEGREE, HIGHEST_DEGREE = -1, 5
LAST_NOTE_SECONDS = 0.35  # the closing tonic sounds at least this long

# Two-beat rhythms, in beats, with weights: mostly one note a beat, so that the tempo can be heard.
# About 1.1 notes a beat on average: a slow piece with many short notes would sound like a faster one.
RHYTHMS = (
    ((1.0, 1.0), 0.5),
    ((1.0, 0.5, 0.5), 0.2),
    ((0.5, 0.5, 1.0), 0.15),
    ((1.5, 0.5), 0.15),
)

# Voices of the drum kit, in the numbers of the General MIDI percussion map.
KICK, SNARE, LOW_TOM, HAT, OPEN_HAT, HIGH_TOM = 36, 38, 41, 42, 46, 48
KIT_VOICES = {KICK, SNARE, LOW_TOM, HAT, OPEN_HAT, HIGH_TOM}


@dataclass(frozen=True)
class Note:
    """start, duration: beats.  step: semitones above the tonic, or a voice of the kit.  velocity: 0 to 1."""

    start: float
    duration: float
    step: int
    velocity: float


@dataclass(frozen=True)
class Score:
    """What is played: notes in order of their start, at a tempo in beats per minute."""

    notes: tuple[Note, ...]
    bpm: float

    @property
    def opening(self) -> tuple[Note, ...]:
        """The notes that begin in the first bar."""
        return tuple(note for note in self.notes if note.start < OPENING_BEATS)


def signature(notes: tuple[Note, ...]) -> tuple[tuple[int, float], ...]:
    """The melody without its key, tempo and dynamics: (interval from the note before, beats since it)."""
    following = itertools.pairwise(notes)
    return tuple((after.step - before.step, after.start - before.start) for before, after in following)


def split_of(score: Score) -> str:
    """The split that a melody belongs to: train, valid or test, in about 9, 1 and 2 of 12 cases.

    It depends on the melody's opening alone, so that no melody can be in two splits, whichever instrument,
    key or tempo it is played in, and however many pieces or seeds are made.
    """
    bucket = zlib.crc32(repr(signature(score.opening)).encode()) % 12
    return {0: "valid", 1: "test", 2: "test"}.get(bucket, "train")


def melody_name(score: Score) -> str:
    """A short name for the melody: the same for the same opening in any key or tempo."""
    return f"{zlib.crc32(repr(signature(score.opening)).encode()):08x}"


def num_beats(bpm: float, duration: float) -> int:
    """The beat on which a piece's last note starts, so that it can be heard.  duration: s."""
    beats = int((duration - LAST_NOTE_SECONDS) * bpm / 60)
    if beats < OPENING_BEATS:
        shortest = OPENING_BEATS * 60 / bpm + LAST_NOTE_SECONDS
        raise ValueError(
            f"a piece of {duration} s at {bpm} bpm has no room for a bar and its last note: "
            f"it needs at least {shortest:.2f} s"
        )
    return beats


def compose(*, bpm: float, duration: float, key: str | None, rng: np.random.Generator) -> Score:
    """A score of `duration` s: a melody in `key`, or a drum groove where there is no key."""
    beats = num_beats(bpm, duration)
    end = duration * bpm / 60
    notes = compose_groove(beats, end, rng) if key is None else compose_melody(beats, end, KEYS[key][1], rng)
    return Score(shape_dynamics(notes, end, rng), bpm)


def compose_melody(beats: int, end: float, scale: tuple[int, ...], rng: np.random.Generator) -> list[Note]:
    """A phrase in the form A A' B A'' ...: a motif, its shift along the scale, an answer, and the tonic."""
    motif, answer = _motif(rng), _motif(rng)
    shift = int(rng.choice([-1, 1, 2]))
    form: list[Callable[[float, int], float]] = [lambda _, degree: degree, lambda _, degree: degree + shift]
    notes: list[Note] = []
    for unit in range((beats + 1) // 2):
        source = answer if unit % 4 == 2 else motif
        move = form[unit % 2]
        for start, duration, degree in source:
            at = 2 * unit + start
            if at < beats:
                note_degree = int(move(at, degree))
                notes.append(Note(at, min(duration, beats - at), _semitones(note_degree, scale), 1.0))
    # The cadence: the tonic is reached by a step, from above or from below.
    notes[-1] = replace(notes[-1], step=_semitones(int(rng.choice([-1, 1])), scale))
    return [*notes, Note(float(beats), end - beats, 0, 1.0)]


def _motif(rng: np.random.Generator) -> list[tuple[float, float, int]]:
    """Two beats of melody: (start, duration, degree), beginning on a note of the tonic chord."""
    rhythm = RHYTHMS[rng.choice(len(RHYTHMS), p=[weight for _, weight in RHYTHMS])][0]
    degree, start, motif = int(rng.choice([0, 2, 4])), 0.0, []
    for duration in rhythm:
        motif.append((start, duration, degree))
        start += duration
        leap = int(rng.choice([-2, -1, 1, 2], p=[0.2, 0.3, 0.3, 0.2]))
        # At the edge of its range a melody turns back.
        degree = degree + leap if 0 <= degree + leap <= HIGHEST_DEGREE - 1 else degree - leap
    return motif


def _semitones(degree: int, scale: tuple[int, ...]) -> int:
    degree = min(max(degree, LOWEST_DEGREE), HIGHEST_DEGREE)
    octave, within = divmod(degree, len(scale))
    return 12 * octave + scale[within]


def compose_groove(beats: int, end: float, rng: np.random.Generator) -> list[Note]:
    """Kick on one, snare on two, hats throughout, a syncopation of its own, and toms to close a bar."""
    kicks_off_beat = rng.random(4) < 0.3
    hats_off_beat = rng.random(4) < 0.7
    open_hat = int(rng.integers(4))
    fill = [int(voice) for voice in rng.choice([LOW_TOM, HIGH_TOM, SNARE], size=2)]
    notes: list[Note] = []
    for beat in range(beats):
        at, in_bar = float(beat), beat % 4
        notes.append(Note(at, 1.0, KICK if in_bar % 2 == 0 else SNARE, 1.0))
        if in_bar == 3:
            notes += [Note(at + 0.5 * i, 0.5, voice, 0.7) for i, voice in enumerate(fill)]
            continue
        notes.append(Note(at, 0.5, HAT, 0.6))
        if kicks_off_beat[in_bar]:
            notes.append(Note(at + 0.5, 0.5, KICK, 0.7))
        if hats_off_beat[in_bar]:
            notes.append(Note(at + 0.5, 0.5, OPEN_HAT if in_bar == open_hat else HAT, 0.5))
    return [
        *notes,
        Note(float(beats), end - beats, KICK, 1.0),
        Note(float(beats), end - beats, OPEN_HAT, 0.5),
    ]


def shape_dynamics(notes: list[Note], end: float, rng: np.random.Generator) -> tuple[Note, ...]:
    """The notes with an accent on each bar, lighter off-beats, some unevenness, and a slope of loudness."""
    slope = float(rng.choice([-0.25, 0.0, 0.25]))
    shaped = []
    for note in notes:
        on_beat = 1.0 if note.start % 4 == 0 else 0.85 if note.start % 1 == 0 else 0.65
        uneven = 1.0 + 0.06 * float(rng.standard_normal())
        velocity = note.velocity * on_beat * uneven * (1.0 + slope * (note.start / end - 0.5))
        shaped.append(replace(note, velocity=float(np.clip(velocity, 0.1, 1.0))))
    return tuple(shaped)
