"""The embedded corpus: what the attributes say is what can be measured in the sound."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.synthetic import (
    CLASSES,
    INSTRUMENTS,
    Note,
    Piece,
    Score,
    captions,
    make_corpus,
    make_piece,
    plan_piece,
    render,
    write_corpus,
)
from datamodules.synthetic.composition import HAT, KIT_VOICES, signature
from datamodules.synthetic.corpus import TEMPI, split_sizes
from datamodules.synthetic.instruments import PEAK, frequency_of

RATE = 16000
PITCHED = [name for name in INSTRUMENTS if name != "drums"]


@pytest.fixture(scope="module")
def pieces() -> list[Piece]:
    """Two of each combination of classes."""
    return [make_piece(i, split="train", duration=4.0, sample_rate=RATE, seed=3) for i in range(72)]


def plans(num_pieces: int, seed: int) -> Iterator[tuple[str, Score, dict]]:
    for split, size in split_sizes(num_pieces).items():
        for index in range(size):
            score, attributes = plan_piece(index, split=split, duration=4.0, seed=seed)
            yield split, score, attributes


def onset_envelope(wav: np.ndarray) -> np.ndarray:
    """Rise of log energy in eight bands, 100 values a second."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(wav, 256), 512)[::160] * np.hanning(512)
    power = np.abs(np.fft.rfft(frames)) ** 2
    bands = np.add.reduceat(power, [1, 4, 8, 14, 24, 40, 70, 120], axis=1)
    log = np.log10(bands / bands.max() + 1e-4)
    return np.maximum(np.diff(log, axis=0, prepend=-4.0), 0).mean(1)


def pitch_of(wav: np.ndarray, low: float, high: float) -> float:
    """Frequency (Hz) of the strongest partial between `low` and `high`, read off an interpolated spectrum."""
    size = 1 << 17
    spectrum = np.log(np.abs(np.fft.rfft(wav * np.hanning(len(wav)), size)) + 1e-9)
    first, last = int(low * size / RATE), int(high * size / RATE)
    peak = first + int(spectrum[first:last].argmax())
    left, middle, right = spectrum[peak - 1 : peak + 2]
    return float((peak + 0.5 * (left - right) / (left - 2 * middle + right)) * RATE / size)


# --- composition ------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_splits_share_no_melody(seed: int) -> None:
    openings: dict[tuple, set[str]] = {}
    melodies: dict[tuple, set[str]] = {}
    for split, score, _ in plans(432, seed):
        openings.setdefault(signature(score.opening), set()).add(split)
        melodies.setdefault(signature(score.notes), set()).add(split)
    assert all(len(splits) == 1 for splits in openings.values())
    assert all(len(splits) == 1 for splits in melodies.values())
    assert len(openings) > 250  # they differ within a split too


def test_melodies_stay_apart_between_seeds() -> None:
    train = {signature(score.opening) for split, score, _ in plans(216, 0) if split == "train"}
    test = {signature(score.opening) for split, score, _ in plans(216, 1) if split == "test"}
    assert not train & test


def test_classes_are_balanced_in_every_split() -> None:
    for split, size in split_sizes(432).items():
        planned = [attributes for name, _, attributes in plans(432, 0) if name == split]
        cells = Counter(tuple(a[name] for name in CLASSES) for a in planned)
        assert len(planned) == size
        assert set(cells.values()) == {size // 36}


@pytest.mark.parametrize("num_pieces", [3, 10, 50, 432])
def test_split_sizes_add_up(num_pieces: int) -> None:
    sizes = split_sizes(num_pieces)
    assert sum(sizes.values()) == num_pieces
    assert min(sizes.values()) >= 1


def test_melodies_are_phrases_in_a_key() -> None:
    for _, score, attributes in plans(144, 0):
        low, high = TEMPI[attributes["tempo"]]
        assert low <= attributes["bpm"] == score.bpm <= high
        starts = [note.start for note in score.notes]
        assert starts == sorted(starts)
        assert starts[0] == 0.0
        beats = {start for start in starts if start % 1 == 0}
        assert len(beats) > 0.5 * starts[-1]  # notes on most beats
        assert 0.7 < len(set(starts)) / (starts[-1] + 1) < 2.0
        assert len({round(note.velocity, 2) for note in score.notes}) > 1  # dynamics
        if attributes["key"] is not None:
            major = attributes["mood"] == "bright"
            scale = {0, 2, 4, 5, 7, 9, 11} if major else {0, 2, 3, 5, 7, 8, 10}
            assert {note.step % 12 for note in score.notes} <= scale
            assert score.notes[-1].step == 0  # home
            assert abs(score.notes[-2].step) <= 2  # reached by a step
        else:
            assert {note.step for note in score.notes} <= KIT_VOICES


def test_motif_returns() -> None:
    """The rhythm of the first two beats comes again in the next two, in every melody."""
    for _, score, attributes in plans(144, 0):
        if attributes["key"] is not None and attributes["tempo"] != "slow":
            first = [note.start for note in score.notes if note.start < 2]
            again = [note.start - 2 for note in score.notes if 2 <= note.start < 4]
            assert first == again


# --- sound ------------------------------------------------------------


def test_levels(pieces: list[Piece]) -> None:
    for piece in pieces:
        wav = piece.wav[0].numpy()
        assert piece.wav.shape == (1, 4 * RATE)
        assert wav.dtype == np.float32
        assert np.isfinite(wav).all()
        assert np.abs(wav).max() == pytest.approx(PEAK, rel=1e-5)
        level = 20 * np.log10(np.sqrt((wav**2).mean()))
        assert -30 < level < -8, piece.attributes
        assert abs(wav.mean()) < 2e-3
        assert np.abs(wav[-8:]).max() < 0.01  # no click at the end
        assert np.abs(wav[: RATE // 20]).max() > 0.05  # begins on beat 0


@pytest.mark.parametrize("instrument", PITCHED)
@pytest.mark.parametrize("midi", [43, 50, 57, 64, 71, 78, 85, 93])
def test_in_tune(instrument: str, midi: int) -> None:
    """Every instrument sounds the pitch it is given to within 10 cents, over the range of the corpus."""
    score = Score((Note(0.0, 2.0, 0, 0.9),), bpm=120.0)
    wav = render(score, instrument, tonic=midi, duration=1.0, sample_rate=RATE)[0]
    wanted = frequency_of(midi)
    cents = 1200 * np.log2(pitch_of(wav, 0.8 * wanted, 1.25 * wanted) / wanted)
    assert abs(cents) < 10


def test_registers_do_not_meet(pieces: list[Piece]) -> None:
    """The lowest strong partial of any melody is higher in a higher register; kits are tuned higher too."""
    for instrument in INSTRUMENTS:
        pitches: dict[str, list[float]] = {register: [] for register in CLASSES["register"]}
        for piece in pieces:
            if piece.attributes["instrument"] == instrument:
                spectrum = np.abs(np.fft.rfft(piece.wav[0].numpy()))
                lowest = int((spectrum > 0.3 * spectrum.max()).argmax())
                pitches[piece.attributes["register"]].append(lowest / 4.0)  # 4 s: bins of 0.25 Hz
        assert max(pitches["low"]) < min(pitches["middle"]), instrument
        assert max(pitches["middle"]) < min(pitches["high"]), instrument


def test_notes_are_heard_when_they_start(pieces: list[Piece]) -> None:
    found, wanted = 0, 0
    for index, piece in enumerate(pieces):
        score, attributes = plan_piece(index, split="train", duration=4.0, seed=3)
        assert attributes == piece.attributes
        envelope = onset_envelope(piece.wav[0].numpy())
        for start in {note.start for note in score.notes}:
            frame = round(start * 60 / score.bpm * 100)
            found += envelope[max(0, frame - 3) : frame + 4].max() > 2.5 * envelope.mean()
            wanted += 1
    assert found / wanted > 0.93


def test_tempo_can_be_heard(pieces: list[Piece]) -> None:
    """Onsets lie on the beats of the piece's own tempo, and not on those of the other classes."""
    right = 0
    for piece in pieces:
        envelope = onset_envelope(piece.wav[0].numpy())
        own = piece.attributes["tempo"]
        strength = {}
        for tempo, (low, high) in TEMPI.items():
            bpm = piece.attributes["bpm"] if tempo == own else (low + high) / 2
            beats = np.arange(0, 3.6, 60 / bpm)
            around = (100 * beats[:, None] + np.arange(-3, 4)).round().astype(int).clip(min=0)
            strength[tempo] = envelope[around].max(1).mean()
        right += max(strength, key=lambda name: strength[name]) == own
    assert right / len(pieces) > 0.9


def test_instruments_have_their_own_sound() -> None:
    """An organ holds, a string dies away; a bell's partials are not whole multiples; a hat has no low end."""
    score = Score((Note(0.0, 2.0, 0, 0.9),), bpm=120.0)
    sound = {name: render(score, name, tonic=64, duration=1.0, sample_rate=RATE)[0] for name in PITCHED}
    fall = {name: (wav[8000:12000] ** 2).sum() / (wav[1000:5000] ** 2).sum() for name, wav in sound.items()}
    assert fall["organ"] > 0.8
    assert fall["plucked string"] < 0.3
    assert fall["bell"] < 0.5
    f = frequency_of(64)
    assert pitch_of(sound["bell"], 2.2 * f, 2.8 * f) == pytest.approx(2.5 * f, rel=0.01)
    hat = INSTRUMENTS["drums"](HAT, 64, 0.5, 1.0, RATE)
    power = np.abs(np.fft.rfft(hat, 4096)) ** 2
    assert power[: 4096 * 500 // RATE].sum() < 0.05 * power.sum()


# --- captions and files ------------------------------------------------------------


def test_captions_name_the_classes(pieces: list[Piece]) -> None:
    for piece in pieces:
        texts = captions(piece.attributes)
        assert len(set(texts)) == 4
        assert piece.attributes["description"] in texts == piece.attributes["descriptions"]
        for text in texts:
            assert all(piece.attributes[name] in text for name in CLASSES), text
            others = [c for name in CLASSES for c in CLASSES[name] if c != piece.attributes[name]]
            assert not any(other in text.split() for other in others), text


def test_same_seed_same_piece() -> None:
    def make(seed: int) -> Piece:
        return make_piece(5, split="test", duration=4.0, sample_rate=RATE, seed=seed)

    assert (make(0).wav == make(0).wav).all()
    assert make(0).attributes == make(0).attributes
    assert (make(0).wav != make(1).wav).any()


def test_other_rates_and_durations() -> None:
    piece = next(make_corpus(num_pieces=3, duration=5.5, sample_rate=32000, seed=0))
    assert piece.wav.shape == (1, 176000)


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_written_corpus(tmp_path: Path) -> None:
    counts = write_corpus(tmp_path / "a", make_corpus(num_pieces=12, seed=1))
    write_corpus(tmp_path / "b", make_corpus(num_pieces=12, seed=1))
    assert counts == {"train": 9, "valid": 1, "test": 2}
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert len(digest(tmp_path / "a")) == 24
    piece = next(make_corpus(num_pieces=12, seed=1))
    wav, rate = soundfile.read(tmp_path / "a" / "train" / f"{piece.key}.flac", dtype="float32")
    assert rate == RATE
    assert np.abs(wav - piece.wav[0].numpy()).max() < 1e-4
    sidecar = json.loads((tmp_path / "a" / "train" / f"{piece.key}.json").read_text())
    assert sidecar == piece.attributes


def test_interrupted_writing_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> Iterator[Piece]:
        yield make_piece(0, split="train", duration=4.0, sample_rate=RATE, seed=0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_corpus(tmp_path / "corpus", interrupted())
    assert list(tmp_path.iterdir()) == []


def test_bad_requests_are_named(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(ValueError, match="not an empty folder"):
        write_corpus(tmp_path, make_corpus(num_pieces=3))
    assert (tmp_path / "mine.txt").exists()
    with pytest.raises(ValueError, match=r"1.0 s at .* bpm .* at least"):
        next(make_corpus(duration=1.0))
    with pytest.raises(ValueError, match="corpus of 2 pieces"):
        next(make_corpus(num_pieces=2))
    with pytest.raises(ValueError, match=r"no instrument 'kazoo'.*organ"):
        render(Score((), 120.0), "kazoo", tonic=60, duration=1.0, sample_rate=RATE)
