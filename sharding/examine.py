"""Is a file of audio whole? Decoders are forgiving, so a cut file must be looked for."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lightning_audio.audio import AudioInfo, open_audio, read_blocks

_BLOCK = 1 << 18
_UNKNOWN_LENGTH = 1 << 60
# MP3 has no exact length; encoders and decoders differ by up to two frames of 1152 samples.
_MP3_SLACK = 2304


def examine(source: Path | BinaryIO) -> AudioInfo:
    """Rate, channels and the samples that really decode; ValueError with the reason if it is not sound.

    Decodes all of it, in blocks.
    """
    if isinstance(source, Path):
        with source.open("rb") as file:
            return examine(file)
    if source.seek(0, 2) == 0:
        raise ValueError("empty file")
    _refuse_cut(source)
    source.seek(0)
    with open_audio(source) as audio:
        expected, rate, channels = audio.frames, audio.samplerate, audio.channels
        slack = _MP3_SLACK if "MP" in audio.format else 0
        decoded = 0
        try:
            for block in read_blocks(audio, _BLOCK):
                decoded += len(block)
                if not np.isfinite(block).all():
                    raise ValueError("has NaN or infinite samples")
        except RuntimeError as error:  # libsndfile's
            raise ValueError(f"broken after {decoded / rate:.2f} s: {error}") from error
    if decoded == 0:
        raise ValueError("holds no samples")
    if expected < _UNKNOWN_LENGTH and decoded < expected - slack:
        raise ValueError(f"truncated: {decoded / rate:.2f} s of {expected / rate:.2f} s are there")
    return AudioInfo(rate, channels, decoded)


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
