"""Sound from notes: an additive organ, a plucked string (Karplus-Strong), an FM bell, a tuned drum kit.

A voice is a function (step, tonic, seconds, velocity, sample_rate) -> float32 samples. `tonic` is a MIDI
number; `step` is semitones above it, or a voice of the kit, which is then tuned to `tonic`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, fftconvolve, lfilter, sosfilt

from datamodules.synthetic.composition import HAT, HIGH_TOM, KICK, LOW_TOM, OPEN_HAT, SNARE, Score

Samples = NDArray[np.float32]
Voice = Callable[[int, float, float, float, int], Samples]

PEAK = 10 ** (-3 / 20)  # every piece peaks at -3 dBFS: a codec that overshoots does not clip
RELEASE = 0.04  # s a note sounds on after its end


def frequency_of(midi: float) -> float:
    """Hz of a MIDI number: 69 is 440 Hz."""
    return 440.0 * 2.0 ** ((midi - 69.0) / 12.0)


def sine(frequency: float, time: NDArray[np.float64]) -> Samples:
    """sin(2 pi f t), with the phase wrapped in float64 so that the fast float32 sine stays exact."""
    cycles = frequency * time
    return np.sin((2 * np.pi * (cycles - np.floor(cycles))).astype(np.float32))


def _time(seconds: float, sample_rate: int) -> NDArray[np.float64]:
    return np.arange(round(seconds * sample_rate)) / sample_rate


def _gate(length: int, attack: float, release: float, sample_rate: int) -> Samples:
    """1 in the middle, raised-cosine slopes at both ends: no click where a note starts or stops.  [length]"""
    envelope = np.ones(length, dtype=np.float32)
    for slope, seconds in ((slice(None), attack), (slice(None, None, -1), release)):
        size = min(length, max(1, int(seconds * sample_rate)))
        view = envelope[slope]
        view[:size] *= (0.5 - 0.5 * np.cos(np.pi * np.arange(size) / size)).astype(np.float32)
    return envelope


def organ(step: int, tonic: float, seconds: float, velocity: float, sample_rate: int) -> Samples:
    """Drawbars: sustained harmonics, all of them starting and stopping with the key."""
    frequency = frequency_of(tonic + step)
    # A key is let go a little before the next one, so that repeated notes are heard apart.
    time = _time(0.88 * seconds + RELEASE, sample_rate)
    sound = np.zeros(len(time), dtype=np.float32)
    for harmonic, level in ((1, 1.0), (2, 0.7), (3, 0.5), (4, 0.3), (6, 0.2), (8, 0.12)):
        if harmonic * frequency < 0.45 * sample_rate:
            sound += level * sine(harmonic * frequency, time)
    return velocity * 0.5 * sound * _gate(len(time), 0.012, 0.05, sample_rate)


def plucked_string(step: int, tonic: float, seconds: float, velocity: float, sample_rate: int) -> Samples:
    """Karplus-Strong: a pluck runs round a delay line one period long that damps its high partials.

    The loop is  g * ((1 - b) + b z^-1) * allpass(z) * z^-n : g sets how long the note rings, b how fast its
    brightness goes, and the all-pass delays by the fraction of a sample that puts the string in tune.
    """
    frequency = frequency_of(tonic + step)
    length = round((seconds + RELEASE) * sample_rate)
    ring = 1.5 * (440 / frequency) ** 0.3  # s to -60 dB: low strings ring longer
    gain = 10 ** (-3 / (frequency * ring))
    # b such that partials near 2.5 kHz ring for 0.35 s, the same at every pitch.
    loss = (1 - 10 ** (-6 / (frequency * 0.35))) / (2 * (1 - np.cos(2 * np.pi * 2500 / sample_rate)))
    damping = 0.5 - np.sqrt(max(0.0, 0.25 - loss))
    whole = int(sample_rate / frequency - damping - 0.5)
    fraction = sample_rate / frequency - damping - whole  # in [0.5, 1.5)
    allpass = (1 - fraction) / (1 + fraction)
    loop = gain * np.convolve([1 - damping, damping], [allpass, 1.0])
    feedback = np.concatenate([[1.0, allpass], np.zeros(whole + 1)])
    feedback[whole : whole + 3] -= loop
    # The velocity of a string pulled at a fifth of its length: a pulse train of one period, without mean.
    period = int(np.ceil(sample_rate / frequency))
    pluck = np.zeros(length)
    pluck[:period] = np.where(np.arange(period) < 0.2 * period, 1.0, 0.0)
    pluck[:period] -= pluck[:period].mean()
    softness = 0.6 - 0.35 * velocity  # a harder pluck is brighter
    pluck = lfilter([1 - softness], [1.0, -softness], pluck)
    sound = lfilter([1.0, allpass], feedback, pluck).astype(np.float32)
    return velocity * sound / np.abs(sound).max() * _gate(length, 0.001, RELEASE, sample_rate)


def bell(step: int, tonic: float, seconds: float, velocity: float, sample_rate: int) -> Samples:
    """Frequency modulation at 3.5 times the pitch: a bell's inharmonic partials, brightest when struck."""
    frequency = frequency_of(tonic + step)
    time = _time(seconds + RELEASE, sample_rate)
    # Sidebands that would fold back are kept weak: the index falls where 8 f nears half the sample rate.
    index = (0.5 + 1.3 * velocity) * min(1.0, sample_rate / 2 / (8.0 * frequency))
    brightness = (index * (0.25 + 0.75 * np.exp(-time / 0.12))).astype(np.float32)
    carrier = 2 * np.pi * ((frequency * time) % 1.0).astype(np.float32)
    decay = np.exp(-time / 0.35).astype(np.float32)
    sound = np.sin(carrier + brightness * sine(3.5 * frequency, time))
    return velocity * decay * sound * _gate(len(time), 0.002, RELEASE, sample_rate)


def drums(step: int, tonic: float, seconds: float, velocity: float, sample_rate: int) -> Samples:
    """One hit on a kit whose every piece is tuned by `tonic`; however long the note, it rings alike."""
    return velocity * _hit(step, tonic, sample_rate)


@lru_cache(maxsize=256)
def _hit(step: int, tonic: float, sample_rate: int) -> Samples:
    tuning = 2.0 ** ((tonic - 64) / 20)
    skin, ring, drop, noise, noise_ring, centre = KIT[step]
    time = _time(5 * max(ring, noise_ring), sample_rate)
    # The skin's pitch falls from (1 + drop) times to once its frequency.
    cycles = skin * tuning * (time + drop * 0.03 * (1 - np.exp(-time / 0.03)))
    tone = sine(1.0, cycles) * np.exp(-time / ring).astype(np.float32)
    band = np.clip(np.array([0.7, 1.4]) * centre * tuning, 40, 0.48 * sample_rate)
    filters = butter(1, band, "bandpass", fs=sample_rate, output="sos")
    # Always the same noise: a drum sounds alike each time it is hit.
    hiss = sosfilt(filters, np.random.default_rng(step).standard_normal(len(time))).astype(np.float32)
    hiss *= np.exp(-time / noise_ring).astype(np.float32) / (np.abs(hiss).max() + 1e-9)
    sound = (1 - noise) * tone + noise * hiss
    return sound * _gate(len(time), 0.001, 0.02, sample_rate)


# Voice: frequency of the skin (Hz), its ring (s), its drop in pitch, share of noise, the noise's ring (s) and
# centre (Hz); frequencies as they are on a kit tuned to MIDI 64, and all within 16 kHz audio on any tuning.
KIT = {
    KICK: (75.0, 0.09, 2.0, 0.1, 0.01, 1200.0),
    SNARE: (200.0, 0.05, 0.5, 0.6, 0.07, 2200.0),
    LOW_TOM: (120.0, 0.12, 0.6, 0.1, 0.02, 900.0),
    HIGH_TOM: (190.0, 0.10, 0.6, 0.1, 0.02, 1200.0),
    HAT: (1.0, 0.01, 0.0, 1.0, 0.02, 3600.0),
    OPEN_HAT: (1.0, 0.01, 0.0, 1.0, 0.08, 3600.0),
}

INSTRUMENTS: dict[str, Voice] = {
    "organ": organ,
    "plucked string": plucked_string,
    "bell": bell,
    "drums": drums,
}


def render(score: Score, instrument: str, *, tonic: float, duration: float, sample_rate: int) -> Samples:
    """The score as sound, in a small room, peaking at -3 dBFS.  -> [1, L] with L = duration * sample_rate"""
    if instrument not in INSTRUMENTS:
        raise ValueError(f"no instrument {instrument!r}; there are {', '.join(INSTRUMENTS)}")
    voice, beat = INSTRUMENTS[instrument], 60 / score.bpm
    length = round(duration * sample_rate)
    wav = np.zeros(length, dtype=np.float32)
    for note in score.notes:
        start = round(note.start * beat * sample_rate)
        sound = voice(note.step, tonic, note.duration * beat, note.velocity, sample_rate)
        wav[start : start + len(sound)] += sound[: length - start]
    wav = in_room(wav, sample_rate) * _gate(length, 0.0, 0.03, sample_rate)
    return (PEAK * wav / np.abs(wav).max())[None]


def in_room(wav: Samples, sample_rate: int) -> Samples:
    """The sound with the soft echo of a small room (-60 dB after 0.3 s), the same room every time.  [L]"""
    time = _time(0.3, sample_rate)
    echo = np.random.default_rng(7).standard_normal(len(time)) * 10 ** (-3 * time / 0.3)
    echo = lfilter([0.4], [1.0, -0.6], echo)  # walls swallow the highs
    echo *= 0.25 / np.sqrt((echo**2).sum())
    return wav + fftconvolve(wav, echo.astype(np.float32))[: len(wav)]
