"""One clip -> the parts of its samples: kept as it came, or re-encoded, whole or in chunks.

Every file is read in blocks, and nothing of it is given back before all of it was found sound.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from lightning_audio.audio import LoudnessMeter, convert_blocks, encode_blocks
from sharding.examine import Levels, Stretch, open_stretch
from sharding.schema import ATTRIBUTES_PART, AUDIO_PARTS
from sharding.sources.clip import Clip
from sharding.writing.spool import Spool

# What FLAC can say in its header.
_MAX_RATE, _MAX_CHANNELS = 655_350, 8
# -80 dBFS: dither is below it.
_SILENCE = 1e-4
# As in `lightning_audio.audio.normalize_loudness`: nearly silence would only have its noise raised.
_QUIET_RMS = 2e-3
# A few samples at full scale are a loud master; a thousandth of them is distortion that is heard.
_CLIPPED = 1e-3


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is done to the audio. Without any of it, and without chunks, files go in as they are.

    sample_rate (Hz), channels: what to re-encode to; None: the file's own.
    subtype: bits of what is re-encoded, PCM_16 or PCM_24.   flac_level: 0 (fast) to 8 (small).
    loudness: LUFS of every clip (a track's chunks share its gain); turned up no further than its largest sample
        reaching `peak` (dBFS).   None: as it came.
    chunk_duration: s, longer clips are cut into pieces of it.   min_duration: s, what is shorter is left out.
    """

    sample_rate: int | None = None
    channels: int | None = None
    subtype: str = "PCM_16"
    flac_level: int = 5
    loudness: float | None = None
    peak: float = -1.0
    chunk_duration: float | None = None
    min_duration: float = 0.0

    def __post_init__(self) -> None:
        if self.sample_rate is not None and not 1 <= self.sample_rate <= _MAX_RATE:
            raise ValueError(f"FLAC holds 1 to {_MAX_RATE} Hz, sample_rate is {self.sample_rate} Hz")
        if self.channels is not None and not 1 <= self.channels <= _MAX_CHANNELS:
            raise ValueError(f"FLAC holds 1 to {_MAX_CHANNELS} channels, channels is {self.channels}")
        if self.subtype not in ("PCM_16", "PCM_24"):
            raise ValueError(f"subtype is {self.subtype!r}; it is PCM_16 or PCM_24")
        if not 0 <= self.flac_level <= 8:
            raise ValueError(f"FLAC levels are 0 to 8, flac_level is {self.flac_level}")
        if self.loudness is not None and not -70 < self.loudness <= 0:
            raise ValueError(f"loudness is {self.loudness} LUFS; it is between -70 and 0 LUFS")
        if not -70 < self.peak <= 0:
            raise ValueError(f"peak is {self.peak} dBFS; it is between -70 and 0 dBFS")
        if self.chunk_duration is not None and not 0.01 <= self.chunk_duration < math.inf:
            raise ValueError(f"chunk_duration must be at least 0.01 s, got {self.chunk_duration} s")
        if not 0 <= self.min_duration < math.inf:
            raise ValueError(f"min_duration must be 0 or more, got {self.min_duration} s")
        if self.chunk_duration is not None and self.min_duration > self.chunk_duration:
            raise ValueError(
                f"chunks of {self.chunk_duration} s are all shorter than min_duration, {self.min_duration} s"
            )


@dataclass(frozen=True)
class Skipped:
    """A clip that was left out, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Sample:
    """What goes into a shard: parts by name, without the dot; the numbers are its audio's.

    is_clipped: more than a thousandth of its source's samples are in runs at full scale.
    """

    key: str
    parts: dict[str, bytes | BinaryIO]
    num_samples: int
    sample_rate: int
    channels: int
    is_clipped: bool


@dataclass(frozen=True)
class _Piece:
    """Encoded audio and what is known of it: start and duration (s) in its source, levels before any gain."""

    file: BinaryIO
    suffix: str
    start: float
    num_samples: int
    sample_rate: int
    channels: int
    peak: float
    clipped: float

    @property
    def duration(self) -> float:
        return self.num_samples / self.sample_rate


def prepare(key: str, clip: Clip, settings: Settings, spool: Spool) -> Iterator[Sample | Skipped]:
    """The samples of a clip: one, or with `chunk_duration` as many as it takes, keyed by their place.

    A piece that is silent or too short is `Skipped`; ValueError with the reason if the whole clip is to be left
    out. The files in the parts are valid until the next sample is asked for.
    """
    with contextlib.ExitStack() as files:
        spool.clear()
        pieces, file_duration = _pieces(clip, settings, spool, files)
        reasons = [_unusable(piece, settings) for piece in pieces]
        if reasons[0] is not None and None not in reasons:
            raise ValueError(reasons[0])
        in_chunks = settings.chunk_duration is not None
        made: list[Sample | Skipped] = []
        for number, piece in enumerate(pieces):
            reason = reasons[number]
            if reason is not None:
                made.append(Skipped(f"{clip.name} from {piece.start:.3f} s on", reason))
                continue
            conditions: dict[str, BinaryIO] = {}
            for name, condition in clip.conditions.items():
                if len(pieces) > 1:
                    condition = _cut_alike(condition, clip, piece)
                sound = _condition(name, condition, settings, spool, files)
                conditions[f"{name}.{sound.suffix}"] = sound.file
            about = _about(clip, piece, file_duration, in_chunks=in_chunks)
            text = json.dumps({**clip.attributes, **about}, ensure_ascii=False, allow_nan=False).encode()
            made.append(
                Sample(
                    key=f"{key}-{number:05d}" if in_chunks else key,
                    parts={piece.suffix: piece.file, ATTRIBUTES_PART: text, **conditions},
                    num_samples=piece.num_samples,
                    sample_rate=piece.sample_rate,
                    channels=piece.channels,
                    is_clipped=piece.clipped > _CLIPPED,
                )
            )
        yield from made


def _pieces(
    clip: Clip, settings: Settings, spool: Spool, files: contextlib.ExitStack
) -> tuple[list[_Piece], float | None]:
    """The clip as it came, or re-encoded in one piece or several; and the duration (s) of its file, if known."""
    gain = 1.0 if settings.loudness is None else _gain(clip, settings, settings.loudness)
    with _opened(clip) as file, open_stretch(file, clip.start, clip.duration) as stretch:
        if _is_kept(clip, stretch, settings):
            pieces = [_as_it_came(clip, stretch, files)]
        else:
            pieces = list(_encoded(stretch, clip, settings, spool, gain))
        return pieces, stretch.file_duration


def _is_kept(clip: Clip, stretch: Stretch, settings: Settings) -> bool:
    if clip.start or clip.duration is not None or settings.loudness is not None:
        return False
    if settings.chunk_duration is not None and (
        stretch.stated_duration is None or stretch.stated_duration > settings.chunk_duration
    ):
        return False
    if settings.sample_rate is None and settings.channels is None:
        return clip.suffix[1:] in AUDIO_PARTS
    wanted = (settings.sample_rate or stretch.sample_rate, settings.channels or stretch.channels)
    return clip.suffix == ".flac" and wanted == (stretch.sample_rate, stretch.channels)


def _as_it_came(clip: Clip, stretch: Stretch, files: contextlib.ExitStack) -> _Piece:
    levels = Levels()
    for block in stretch.blocks():
        levels.add(block)
    return _Piece(
        file=files.enter_context(_opened(clip)),
        suffix=clip.suffix[1:],
        start=0.0,
        num_samples=stretch.num_samples,
        sample_rate=stretch.sample_rate,
        channels=stretch.channels,
        peak=levels.peak,
        clipped=levels.clipped,
    )


def _encoded(stretch: Stretch, clip: Clip, settings: Settings, spool: Spool, gain: float) -> Iterator[_Piece]:
    """A stretch as FLAC, piece by piece; a piece is converted as if it were a file of its own."""
    rate = settings.sample_rate or stretch.sample_rate
    channels = settings.channels or stretch.channels
    for number in itertools.count():
        offset = 0.0 if settings.chunk_duration is None else number * settings.chunk_duration
        count = None
        if settings.chunk_duration is not None:  # of the source's samples, none lost by rounding
            count = round((number + 1) * settings.chunk_duration * stretch.sample_rate) - stretch.num_samples
        blocks = stretch.blocks(count)
        first = next(blocks, None)
        if first is None:
            return
        source, made = Levels(), Levels()
        wavs = _converted(itertools.chain([first], blocks), stretch.sample_rate, rate, channels, source, made)
        file, num_samples = spool.write(
            partial(
                _encode,
                (wav * gain for wav in wavs) if gain != 1.0 else wavs,
                sample_rate=rate,
                channels=channels,
                subtype=settings.subtype,
                level=settings.flac_level / 8,
            )
        )
        yield _Piece(
            file=file,
            suffix="flac",
            start=clip.start + offset,
            num_samples=num_samples,
            sample_rate=rate,
            channels=channels,
            peak=made.peak,
            clipped=source.clipped,
        )


def _encode(blocks: Iterable[Tensor], file: BinaryIO, **settings: Any) -> int:
    return encode_blocks(blocks, file, **settings)


def _converted(
    blocks: Iterable[np.ndarray], from_rate: int, to_rate: int, channels: int, source: Levels, made: Levels
) -> Iterator[Tensor]:
    """Blocks [L, C] as they are decoded -> [C', L'], measured before and after."""

    def measured() -> Iterator[Tensor]:
        for block in blocks:
            source.add(block)
            yield torch.from_numpy(block).T

    for wav in convert_blocks(measured(), from_rate, to_rate, channels):
        made.add(wav.numpy().T)
        yield wav


def _gain(clip: Clip, settings: Settings, loudness: float) -> float:
    """What brings the clip to `loudness` (LUFS) without its largest sample passing the peak; linear."""
    levels = Levels()
    with _opened(clip) as file, open_stretch(file, clip.start, clip.duration) as stretch:
        rate = settings.sample_rate or stretch.sample_rate
        channels = settings.channels or stretch.channels
        meter = LoudnessMeter(rate, channels)
        blocks = stretch.blocks()
        for wav in _converted(blocks, stretch.sample_rate, rate, channels, Levels(), levels):
            meter.add(wav)
    measured = meter.loudness()
    if measured == -math.inf or meter.rms < _QUIET_RMS:
        return 1.0
    return min(10 ** ((loudness - measured) / 20), 10 ** (settings.peak / 20) / levels.peak)


def _cut_alike(condition: Clip, clip: Clip, piece: _Piece) -> Clip:
    """Of a condition that goes along with the whole clip, what goes along with one piece of it."""
    return replace(condition, start=condition.start + piece.start - clip.start, duration=piece.duration)


def _condition(
    name: str, condition: Clip, settings: Settings, spool: Spool, files: contextlib.ExitStack
) -> _Piece:
    """A condition, like its clip in rate and channels; its level is left as it is."""
    try:
        pieces, _ = _pieces(condition, replace(settings, chunk_duration=None, loudness=None), spool, files)
    except ValueError as error:
        raise ValueError(f"its {name}, {condition.name}: {error}") from error
    return pieces[0]


def _unusable(piece: _Piece, settings: Settings) -> str | None:
    if piece.num_samples == 0 or piece.duration < settings.min_duration:
        return f"too short: {piece.duration:.3f} s, min_duration is {settings.min_duration:g} s"
    if piece.peak < _SILENCE:
        return "silent: no sample is above -80 dBFS"
    return None


def _about(clip: Clip, piece: _Piece, file_duration: float | None, *, in_chunks: bool) -> dict[str, Any]:
    """What the audio itself says, to stand beside the clip's attributes."""
    about: dict[str, Any] = {
        "source": clip.name,
        "sample_rate": piece.sample_rate,
        "channels": piece.channels,
        "duration": round(piece.duration, 6),
    }
    if in_chunks or clip.start or clip.duration is not None:
        about["start"] = round(piece.start, 6)
        if file_duration is not None:
            about["track_duration"] = round(file_duration, 6)
    if piece.clipped > _CLIPPED:
        about["clipped"] = round(piece.clipped, 6)
    return about


@contextlib.contextmanager
def _opened(clip: Clip) -> Iterator[BinaryIO]:
    """The clip's file; one that cannot be opened is as bad as one that cannot be decoded."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(clip.open())
        except (FileNotFoundError, PermissionError) as error:
            raise ValueError(f"cannot be opened: {error.strerror}") from error
        yield file
