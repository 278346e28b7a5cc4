"""Reading a tar from front to back: its members, checked to be harmless, and the samples that they form.

Headers are parsed here and not by `tarfile`, which follows links, sparse maps and sizes that a second header
overrides, and reads a header of any length: a shard needs none of it, so none of it is there to be abused.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lightning_audio.span import FileSpan
from sharding.schema import ShardIndex

MAX_PART_BYTES = 1 << 31
"""Of one part of a sample; what is larger is refused."""

_BLOCK = 512
_MAX_EXTENSION = 1 << 16  # bytes of a header that speaks of the next member: names and times, nothing long
_NUMBER = re.compile(rb" *([0-7]{1,12})[ \0]*")
_FILE, _OLD_FILE, _FOLDER, _LONG_NAME, _PAX, _PAX_ALL = b"0", b"\0", b"5", b"L", b"x", b"g"
_READ_AHEAD = 1 << 17


def members(tar: Path) -> Iterator[tuple[str, str, int, int]]:
    """(key, part, offset, size) of each file in the tar, folders passed over.

    ValueError for what a shard must not hold: links, devices, sparse files, names that point outside or that
    no terminal should print, sizes stated twice; and where the tar is damaged or its end is missing.
    """
    if not tar.is_file():  # a pipe would wait for ever
        raise FileNotFoundError(f"there is no file {tar}")
    with tar.open("rb") as file:
        for name, offset, size in _files(file, tar.name):
            if name.startswith("/") or ".." in name.split("/"):
                raise ValueError(f"{tar.name}: {name!r} points outside")
            folder, _, base = name.removeprefix("./").rpartition("/")
            stem, dot, part = base.partition(".")
            if not (stem and dot and part):
                raise ValueError(f"{tar.name}: {name!r} is no key.part")
            yield (f"{folder}/{stem}" if folder else stem), part, offset, size


def spans(tar: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """Keys, and part -> int64 [N, 2] of (offset, size) as in `ShardIndex`, found by reading the tar."""
    keys: list[str] = []
    found: dict[str, dict[int, tuple[int, int]]] = {}
    for key, part, offset, size in members(tar):
        if not keys or keys[-1] != key:
            keys.append(key)
        places = found.setdefault(part, {})
        if len(keys) - 1 in places:
            raise ValueError(f"{tar.name}: {key}.{part} is there twice")
        places[len(keys) - 1] = (offset, size)
    if len(set(keys)) < len(keys):
        raise ValueError(f"{tar.name} has a key twice, or its parts apart")
    return keys, {part: span_table(places, len(keys)) for part, places in found.items()}


def span_table(places: dict[int, tuple[int, int]], num_samples: int) -> np.ndarray:
    """{sample: (offset, size)} -> int64 [N, 2], with (0, -1) where a sample lacks the part."""
    table = np.tile(np.array([0, -1], np.int64), (num_samples, 1))
    for sample, span in places.items():
        table[sample] = span
    return table


def read_part(file: BinaryIO, index: ShardIndex, sample: int, part: str) -> bytes:
    """The bytes of one part of one sample of an open tar; ValueError where it is absent, too large or cut."""
    offset, size = part_span(file, index, sample, part)
    file.seek(offset)
    data = file.read(size)
    if len(data) < size:
        raise ValueError(f"{index.keys[sample]}.{part} is cut: {len(data)} of {size} bytes")
    return data


def open_part(file: BinaryIO, index: ShardIndex, sample: int, part: str) -> BinaryIO:
    """The same as a file to read from, so that a long one is never whole in memory."""
    return io.BufferedReader(FileSpan(file.fileno(), *part_span(file, index, sample, part)), _READ_AHEAD)


def part_span(file: BinaryIO, index: ShardIndex, sample: int, part: str) -> tuple[int, int]:
    """(offset, size) of a part, checked against the open tar: an index can be wrong or hostile."""
    offset, size = index.parts[part][sample].tolist() if part in index.parts else (0, -1)
    name = f"{index.keys[sample]}.{part}"
    if size < 0:
        raise ValueError(f"{index.keys[sample]} has no .{part}")
    if size > MAX_PART_BYTES:
        raise ValueError(f"{name} has {size} bytes, more than {MAX_PART_BYTES}")
    length = file.seek(0, io.SEEK_END)
    if offset < 0 or offset + size > length:
        raise ValueError(f"{name} is cut: it lies at {offset} to {offset + size}, the tar has {length} bytes")
    return offset, size


def _files(file: BinaryIO, tar: str) -> Iterator[tuple[str, int, int]]:
    """(name, offset, size) of the plain files in an open tar: ustar, and the long names of GNU and pax."""
    length = file.seek(0, io.SEEK_END)
    place = 0
    long_name: bytes | None = None
    while (header := _read(file, place, _BLOCK)) != bytes(_BLOCK):
        if len(header) < _BLOCK:
            raise ValueError(f"{tar} is cut: it ends at byte {length} without the mark of its end")
        stated = _NUMBER.fullmatch(header[148:156])
        if header[257:262] != b"ustar" or stated is None or int(stated[1], 8) != _checksum(header):
            raise ValueError(f"{tar} is no tar that can be read: no header at byte {place}")
        kind, raw_name = header[156:157], long_name or _header_name(header)
        name = _text(raw_name, tar)
        size_field = _NUMBER.fullmatch(header[124:136])
        if size_field is None:
            raise ValueError(f"{tar}: {name!r} has a size that is no plain number: {header[124:136]!r}")
        size = int(size_field[1], 8)
        if place + _BLOCK + size > length:
            raise ValueError(f"{tar}: {name!r} is cut: {size} bytes, {length - place - _BLOCK} are there")
        if kind in (_LONG_NAME, _PAX, _PAX_ALL):
            if size > _MAX_EXTENSION:
                raise ValueError(f"{tar}: {name!r} has a header of {size} bytes, more than {_MAX_EXTENSION}")
            extension = _read(file, place + _BLOCK, size)
            if kind == _LONG_NAME:
                long_name = extension.rstrip(b"\0")
            else:
                long_name = _pax_name(extension, kind, tar, name) or long_name
        elif kind in (_FILE, _OLD_FILE):
            yield name, place + _BLOCK, size
            long_name = None
        elif kind == _FOLDER and size == 0:
            long_name = None
        else:
            raise ValueError(f"{tar}: {name!r} is no plain file")
        place += _BLOCK + -(-size // _BLOCK) * _BLOCK


def _read(file: BinaryIO, place: int, size: int) -> bytes:
    file.seek(place)  # each time: whoever takes the members may read from the file between them
    return file.read(size)


def _checksum(header: bytes) -> int:
    """The sum of a header's bytes, its own eight counted as spaces."""
    return sum(header) - sum(header[148:156]) + 8 * 0x20


def _header_name(header: bytes) -> bytes:
    name, prefix = header[:100].split(b"\0")[0], header[345:500].split(b"\0")[0]
    # GNU's magic has a space here, and times where ustar has the beginning of a long name.
    return prefix + b"/" + name if prefix and header[262:263] == b"\0" else name


def _text(name: bytes, tar: str) -> str:
    try:
        text = name.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{tar}: the name {name[:80]!r} is no UTF-8") from error
    if not text.isprintable():  # would command the terminal that it is shown in
        raise ValueError(f"{tar}: the name {text[:80]!r} has characters that are not for names")
    return text


def _pax_name(records: bytes, kind: bytes, tar: str, member: str) -> bytes | None:
    """The name that a pax header gives the next member; ValueError where it changes anything else of it."""
    name: bytes | None = None
    while records:
        digits = records.partition(b" ")[0]
        length = int(digits) if digits.isdigit() and len(digits) < 7 else 0
        record, records = records[len(digits) + 1 : length], records[length:]
        keyword, equals, value = record.partition(b"=")
        if not (equals and value.endswith(b"\n") and len(digits) + 1 + len(record) == length):
            raise ValueError(f"{tar}: {member!r} has a pax header that cannot be read")
        if keyword == b"path" and kind == _PAX:
            name = value[:-1]
        elif keyword in (b"path", b"size", b"linkpath") or keyword.startswith(b"GNU.sparse"):
            raise ValueError(f"{tar}: {member!r} has a pax header that sets {keyword.decode()}")
    return name
