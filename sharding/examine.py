"""Is a file of audio whole, how loud is its loudest sample, is it clipped?

Decoders are forgiving, so a cut file must be looked for.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from lightning_audio.audio import AudioInfo, open_audio

_BLOCK = 1 << 18
_UNKNOWN_LENGTH = 1 << 60
# MP3 has no exact length; encoders and decoders differ by up to two frames of 1152 samples.
_MP3_SLACK = 2304
# The largest value of 16 bits; so many of them in a row, and the wave was cut off there.
_FULL_SCALE = 32767 / 32768
_CLIPPED_RUN = 3


@dataclass(frozen=True)
class Examined(AudioInfo):
    """What the audio really is: num_samples that decode, its largest sample, the share of it that is clipped.

    peak: absolute, 1 is full scale.   clipped: of all samples, those in runs of 3 or more at full scale.
    """

    peak: float
    clipped: float


def examine(source: Path | BinaryIO) -> Examined:
    """Rate, channels and the samples that really decode; ValueError with the reason if it is not sound.

    Decodes all of it, in blocks.
    """
    if isinstance(source, Path):
        with source.open("rb") as file:
            return examine(file)
    levels = Levels()
    with open_stretch(source) as stretch:
        for block in stretch.blocks():
            levels.add(block)
    return Examined(stretch.sample_rate, stretch.channels, stretch.num_samples, levels.peak, levels.clipped)


class Levels:
    """Peak and share of clipped samples of audio that comes in blocks [L, C]."""

    def __init__(self) -> None:
        self.peak = 0.0
        self._num_clipped = self._num_values = 0
        self._last: np.ndarray | None = None  # bool [3, C], which of the last samples were at full scale

    @property
    def clipped(self) -> float:
        """The share of samples in runs of 3 or more at full scale."""
        return self._num_clipped / max(1, self._num_values)

    def add(self, block: np.ndarray) -> None:
        """The next samples; ValueError for NaN and infinity."""
        if not block.size:
            return
        peak = max(float(block.max()), -float(block.min()))  # either is NaN if a sample is
        if not np.isfinite(peak):
            raise ValueError("has NaN or infinite samples")
        self.peak = max(self.peak, peak)
        self._num_values += block.size
        if peak < _FULL_SCALE:
            self._last = None
            return
        last = np.zeros((_CLIPPED_RUN, block.shape[1]), bool) if self._last is None else self._last
        full = np.concatenate([last, np.abs(block) >= _FULL_SCALE])
        # A run of n samples ends n - 2 triples; the first of them stands for 3 samples, the others for one.
        triples = full[2:] & full[1:-1] & full[:-2]
        begins = triples[1:] & ~triples[:-1]
        self._num_clipped += int(triples[1:].sum()) + (_CLIPPED_RUN - 1) * int(begins.sum())
        self._last = full[-_CLIPPED_RUN:]


class Stretch:
    """Audio from `start` (s) of an open decoder for `duration` (s; None: to the end), read in order.

    A file that ends before its header says is a ValueError, when the reading comes to it; one that is honestly
    shorter than `duration` is not. num_samples: how many were read so far.
    """

    def __init__(
        self, decoder: soundfile.SoundFile, start: float = 0.0, duration: float | None = None
    ) -> None:
        self._decoder = decoder
        self.sample_rate, self.channels = decoder.samplerate, decoder.channels
        self.num_samples = 0
        self._start = round(start * self.sample_rate)
        self._wanted = None if duration is None else round(duration * self.sample_rate)
        self._stated = decoder.frames if decoder.frames < _UNKNOWN_LENGTH else None
        if self._start:
            if self._stated is not None and self._start >= self._stated:
                raise ValueError(
                    f"ends at {self._stated / self.sample_rate:.3f} s, wanted from {start:.3f} s on"
                )
            decoder.seek(self._start)

    @property
    def stated_duration(self) -> float | None:
        """Of the whole file in s, as its header says it; None where it does not say."""
        return None if self._stated is None else self._stated / self.sample_rate

    @property
    def file_duration(self) -> float | None:
        """Of the whole file in s, after reading: what was decoded, if that went to the end, else what it says."""
        if self._wanted is None:
            return (self._start + self.num_samples) / self.sample_rate
        return self.stated_duration

    def blocks(self, count: int | None = None) -> Iterator[np.ndarray]:
        """The next `count` samples (None: all there are) as float32 [L, C]; fewer where the stretch ends."""
        stops = (self._wanted, None if count is None else self.num_samples + count)
        stop = min((stop for stop in stops if stop is not None), default=None)
        while stop is None or self.num_samples < stop:
            size = _BLOCK if stop is None else min(_BLOCK, stop - self.num_samples)
            block = self._read(size)
            if not len(block):
                self._check_end()
                return
            self.num_samples += len(block)
            yield block
        if self.num_samples == 0:
            raise ValueError("holds no samples")

    def _read(self, size: int) -> np.ndarray:
        try:
            return self._decoder.read(size, dtype="float32", always_2d=True)
        except RuntimeError as error:  # libsndfile's
            broken = (self._start + self.num_samples) / self.sample_rate
            raise ValueError(f"broken after {broken:.2f} s: {error}") from error

    def _check_end(self) -> None:
        """The file gave all it has: is that what it promised?"""
        end = self._start + self.num_samples
        if self.num_samples == 0:
            raise ValueError("holds no samples")
        slack = _MP3_SLACK if "MP" in self._decoder.format else 0
        if self._stated is not None and end < self._stated - slack:
            raise ValueError(
                f"truncated: {end / self.sample_rate:.2f} s of {self._stated / self.sample_rate:.2f} s are there"
            )


@contextlib.contextmanager
def open_stretch(file: BinaryIO, start: float = 0.0, duration: float | None = None) -> Iterator[Stretch]:
    """`Stretch` of an encoded audio file; ValueError where it is empty, cut or no audio."""
    if file.seek(0, 2) == 0:
        raise ValueError("empty file")
    _refuse_cut(file)
    file.seek(0)
    source: BinaryIO | int = file
    if isinstance(file, io.BufferedReader) and isinstance(file.raw, io.FileIO):
        # libsndfile's own reading of a file is a quarter faster than its reading through Python.
        source = os.dup(file.fileno())
        os.lseek(source, 0, os.SEEK_SET)
    with open_audio(source) as decoder:
        yield Stretch(decoder, start, duration)


def _refuse_cut(file: BinaryIO) -> None:
    """Containers that decode without complaint though their end is missing: RIFF, AIFF and Ogg."""
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(12)
    if len(head) == 12 and head[:4] in (b"RIFF", b"FORM"):
        (stated,) = struct.unpack("<I" if head[:4] == b"RIFF" else ">I", head[4:8])
        # 0 and all ones: written to a pipe, length unknown. One byte: writers that forget the padding.
        if stated not in (0, 0xFFFFFFFF) and stated + 8 > size + 1:
            raise ValueError(f"truncated: {size} bytes of {stated + 8} are there")
    if head[:4] == b"OggS":
        file.seek(max(0, size - (1 << 17)))
        tail = file.read()
        last = tail.rfind(b"OggS")
        if last < 0 or len(tail) < last + 6 or not tail[last + 5] & 4:
            raise ValueError("truncated: the last Ogg page is missing")
