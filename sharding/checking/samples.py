"""One sample of a shard, looked through: do its parts decode, and are they what the dataset says?"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from lightning_audio.audio import AudioInfo
from sharding.checking.repetition import DIGEST_BYTES
from sharding.examine import examine
from sharding.read import open_part, part_span, read_part
from sharding.schema import (
    ATTRIBUTES_PART,
    AUDIO_PARTS,
    CODES_PART,
    CROPS_ATTRIBUTE,
    CodesInfo,
    DatasetInfo,
    ShardIndex,
    numbered_part,
    parse_attributes,
    parse_codes,
    parse_feature,
)

# Encoders pad to whole frames and may drop the last one; more is another clip's codes.
_FRAMES_SLACK = 2
_READ_BLOCK = 1 << 20
# One array of a sample, or one of several: `codes.npy`, `codes.1.npy`.
_ARRAY = re.compile(r"(?P<name>.+?)(\.\d+)?\.npy")
_CODES = CODES_PART.removesuffix(".npy")
# An array that the dataset does not describe is never read; still, no file of ours holds pickled objects.
_NUMBERS = re.compile(rb"\x93NUMPY[\x01-\x03]\x00.{2,4}?\{'descr': '[<>|=][biufc]\d{1,2}'", re.DOTALL)


@dataclass
class Sample:
    """What was found in it.

    audio: what really decodes of its audio; num_frames: of its codes; None where there is none or it is not sound.
    content: a digest of the audio's bytes; empty where there are only codes, which unlike audio can share.
    """

    problems: list[str] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)
    audio: AudioInfo | None = None
    num_frames: int | None = None
    content: bytes = b""


def look_through(
    file: BinaryIO, index: ShardIndex, sample: int, info: DatasetInfo, *, decode: bool
) -> Sample:
    """Every part of one sample of an open tar; the numbers of the index are not looked at, only its spans.

    decode: also decode audio and read arrays; without, attributes are read and bytes are compared.
    """
    found, codes = Sample(), info.codes
    present = [part for part, table in index.parts.items() if table[sample, 1] >= 0]
    main = index.audio_part(sample)
    if ATTRIBUTES_PART not in present:
        found.problems.append("has no attributes")
    if codes is None and index.audio_part(sample) is None:
        found.problems.append("has no audio")
    if codes is not None and CODES_PART not in present:
        found.problems.append("has no codes")
    elif codes is not None and (absent := _absent_crop(present, codes.crops)):
        found.problems.append(f"has no .{absent}, the dataset says {codes.crops} crops")
    for part in present:
        try:
            if part == main:
                found.content = _digest(file, index, sample, part)
            if part == ATTRIBUTES_PART:
                found.attributes = parse_attributes(read_part(file, index, sample, part))
                if codes is not None and codes.crops > 1:
                    _check_offsets(found.attributes.get(CROPS_ATTRIBUTE), codes.crops)
            elif not decode:
                part_span(file, index, sample, part)
            elif array := _ARRAY.fullmatch(part):
                num_frames = _array_length(read_part(file, index, sample, part), array["name"], info)
                found.num_frames = num_frames if part == CODES_PART else found.num_frames
            elif part.rpartition(".")[2] in AUDIO_PARTS:
                audio = examine(open_part(file, index, sample, part))
                found.audio = audio if part == main else found.audio
        except (ValueError, MemoryError) as error:
            found.problems.append(f".{part}: {error}")
    return found


def unlike_index(sample: Sample, index: ShardIndex, place: int, codes: CodesInfo | None) -> list[str]:
    """Where the index states another length, rate or channel count than the sample has."""
    rate, num_samples, channels = (
        int(column[place]) for column in (index.sample_rates, index.num_samples, index.channels)
    )
    # With codes the index speaks of the codec's audio, not of the copy that was kept.
    if codes is None and sample.audio is not None:
        audio = sample.audio
        if (audio.sample_rate, audio.channels, audio.num_samples) != (rate, channels, num_samples):
            return [
                f"{audio.num_samples} samples at {audio.sample_rate} Hz, {audio.channels} ch; "
                f"the index says {num_samples} at {rate} Hz, {channels} ch"
            ]
    if codes is not None and sample.num_frames is not None:
        expected = num_samples / rate * codes.frame_rate
        if abs(sample.num_frames - expected) > _FRAMES_SLACK:
            return [
                f"{sample.num_frames} frames of codes, for the index's duration there should be {expected:.1f}"
            ]
    return []


def _absent_crop(present: Sequence[str], crops: int) -> str | None:
    names = (numbered_part(_CODES, number) for number in range(crops))
    return next((name for name in names if name not in present), None)


def _check_offsets(offsets: object, crops: int) -> None:
    """ValueError unless it says at which sample of the clip each of its codes begins."""
    whole = isinstance(offsets, list) and all(type(offset) is int and offset >= 0 for offset in offsets)
    if not (isinstance(offsets, list) and whole and len(offsets) == crops):
        raise ValueError(f"{CROPS_ATTRIBUTE} are {str(offsets)[:80]}, the dataset says {crops} crops")


def _array_length(data: bytes, name: str, info: DatasetInfo) -> int | None:
    """Steps of an array part `<name>.npy`; ValueError unless it is what the dataset says, or at least plain numbers."""
    if name == _CODES and info.codes is not None:
        codes = parse_codes(data, num_codebooks=info.codes.num_codebooks, cardinality=info.codes.cardinality)
        return codes.shape[1]
    if name in info.features:
        return len(parse_feature(data, info.features[name], name))
    if not _NUMBERS.match(data):
        raise ValueError(f"is no .npy of numbers, it begins with {data[:80]!r}")
    return None


def _digest(file: BinaryIO, index: ShardIndex, sample: int, part: str) -> bytes:
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    with open_part(file, index, sample, part) as audio:
        while block := audio.read(_READ_BLOCK):
            digest.update(block)
    return digest.digest()
