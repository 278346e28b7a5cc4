"""The reader of tars: as tarfile reads them where they are plain, and refusing by name what is not."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from sharding.read import members, open_part, read_part, spans
from sharding.schema import MAX_ATTRIBUTES_BYTES, ShardIndex, parse_attributes

LONG = "folder/" + "n" * 140


def header(name: str = "a.wav", size: int = 0, kind: bytes = tarfile.REGTYPE, **fields: object) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    for field, value in fields.items():
        setattr(member, field, value)
    return member.tobuf(tarfile.GNU_FORMAT)


def checked(block: bytes) -> bytes:
    """The block with its checksum set right, as somebody who forges one would."""
    plain = block[:148] + b" " * 8 + block[156:]
    return plain[:148] + b"%06o\0 " % sum(plain) + plain[156:]


def pax(records: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    return header("pax", len(records), kind) + records + bytes(-len(records) % 512)


def record(keyword: bytes, value: bytes) -> bytes:
    length = len(keyword) + len(value) + 3
    length += len(str(length + len(str(length))))
    return b"%d %s=%s\n" % (length, keyword, value)


END = bytes(1024)


def write(path: Path, *blocks: bytes) -> Path:
    path.write_bytes(b"".join(blocks))
    return path


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_plain_tars_are_read_as_tarfile_reads_them(form: int, tmp_path: Path) -> None:
    names = ["a.wav", "a.json", "deep/b.c.flac", "./d.codes.npy", "élan.json", LONG + "/x.flac"]
    if form != tarfile.USTAR_FORMAT:
        names.append("m" * 180 + ".json")
    with tarfile.open(tmp_path / "x.tar", "w", format=form) as tar:
        folder = tarfile.TarInfo("deep")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for place, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.size, member.mtime = 400 * place, 1.5  # pax keeps the fraction in a header of its own
            tar.addfile(member, io.BytesIO(bytes([place]) * member.size))
    with tarfile.open(tmp_path / "x.tar") as tar:
        expected = [(m.name.removeprefix("./"), m.offset_data, m.size) for m in tar if m.isreg()]
    assert [(f"{key}.{part}", *span) for key, part, *span in members(tmp_path / "x.tar")] == expected
    assert len(expected) == len(names)


@pytest.mark.parametrize(
    ("blocks", "says"),
    [
        ([header("a.wav", kind=tarfile.SYMTYPE, linkname="/etc/passwd")], "'a.wav' is no plain file"),
        ([header("a.wav", kind=tarfile.LNKTYPE, linkname="b.wav")], "'a.wav' is no plain file"),
        ([header("a.wav", kind=tarfile.CHRTYPE)], "'a.wav' is no plain file"),
        ([header("a.wav", kind=tarfile.BLKTYPE)], "'a.wav' is no plain file"),
        ([header("a.wav", kind=tarfile.FIFOTYPE)], "'a.wav' is no plain file"),
        ([header("a.wav", kind=tarfile.CONTTYPE)], "'a.wav' is no plain file"),
        ([header("a.wav", kind=tarfile.GNUTYPE_SPARSE)], "'a.wav' is no plain file"),
        ([header("a.wav", kind=b"?")], "'a.wav' is no plain file"),
        ([header("a.wav", kind=tarfile.GNUTYPE_LONGLINK)], "'a.wav' is no plain file"),
        ([header("a", 512, tarfile.DIRTYPE), bytes(512)], "'a/' is no plain file"),
        ([header("../up.wav")], r"'\.\./up\.wav' points outside"),
        ([header("a/../../up.wav")], "points outside"),
        ([header("/abs.wav")], "'/abs.wav' points outside"),
        ([header("plain")], "'plain' is no key.part"),
        ([header(".wav")], "'.wav' is no key.part"),
        ([header("red\x1b[31m.wav")], "not for names"),
        ([header("new\nline.wav")], "not for names"),
        ([header("a.wav", 10_000)], "'a.wav' is cut: 10000 bytes, 1024 are there"),
        ([header("a.wav", 7 << 30)], "'a.wav' is cut"),
        ([header("a.wav", 1 << 40)], "no plain number"),
        ([checked(header("a.wav")[:124] + b"-0000000010\0" + header("a.wav")[136:])], "no plain number"),
        ([checked(header("a.wav")[:124] + b"\xff" * 12 + header("a.wav")[136:])], "no plain number"),
        ([header("a.wav")[:10] + b"!" + header("a.wav")[11:]], "no header at byte 0"),
        ([checked(header("a.wav")[:257] + bytes(8) + header("a.wav")[265:])], "no header at byte 0"),
        ([checked(b"\xff" + header("a.wav")[1:])], "no UTF-8"),
        ([pax(record(b"size", b"99999999")), header("a.wav")], "sets size"),
        ([pax(record(b"linkpath", b"/etc/passwd")), header("a.wav")], "sets linkpath"),
        ([pax(record(b"GNU.sparse.major", b"1")), header("a.wav")], r"sets GNU\.sparse\.major"),
        ([pax(record(b"path", b"../../up.wav")), header("a.wav")], "points outside"),
        ([pax(record(b"path", b"x.wav"), tarfile.XGLTYPE), header("a.wav")], "sets path"),
        ([pax(b"99 path=a.wav\n"), header("a.wav")], "cannot be read"),
        ([pax(b"9999999999999999 path=a"), header("a.wav")], "cannot be read"),
        ([pax(b"0 \n"), header("a.wav")], "cannot be read"),
        ([pax(b"x" * 70_000), header("a.wav")], "header of 70000 bytes, more than 65536"),
        ([header("a.wav"), header("a.wav")], r"a\.wav is there twice"),
        ([header("a.wav"), header("b.wav"), header("a.json")], "key twice, or its parts apart"),
    ],
)
def test_hostile_members_are_refused_by_name(blocks: list[bytes], says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says) as error:
        spans(write(tmp_path / "x.tar", *blocks, END))
    assert "x.tar" in str(error.value)


def test_a_tar_without_its_end_is_cut(tmp_path: Path) -> None:
    assert spans(write(tmp_path / "x.tar", header("a.wav"), END))[0] == ["a"]
    for blocks in ([header("a.wav")], [header("a.wav"), bytes(100)], []):
        with pytest.raises(ValueError, match=r"x\.tar is cut: it ends at byte"):
            spans(write(tmp_path / "x.tar", *blocks))


def test_a_pipe_or_a_folder_is_no_tar(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tar")
    for path in (tmp_path / "pipe.tar", tmp_path, tmp_path / "none.tar"):
        with pytest.raises(FileNotFoundError, match=path.name):
            spans(path)


def index_with(offset: int, size: int) -> ShardIndex:
    one = np.ones(1, np.int64)
    return ShardIndex(["a"], {"wav": np.array([[offset, size]], np.int64)}, one, one, one)


def test_parts_are_read_within_the_tar(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tar", bytes(range(200)))
    with path.open("rb") as file:
        assert read_part(file, index_with(10, 5), 0, "wav") == bytes(range(10, 15))
        with open_part(file, index_with(10, 5), 0, "wav") as part:
            assert part.read() == bytes(range(10, 15))
        for offset, size in ((-1, 5), (196, 5), (1 << 62, 5), ((1 << 63) - 1, 1), (-(1 << 63), 1)):
            for read in (read_part, open_part):
                with pytest.raises(ValueError, match=r"a\.wav is cut"):
                    read(file, index_with(offset, size), 0, "wav")
        with pytest.raises(ValueError, match=f"a.wav has {1 << 62} bytes, more than"):
            read_part(file, index_with(0, 1 << 62), 0, "wav")
        for part in ("flac", "wav"):
            with pytest.raises(ValueError, match=f"a has no .{part}"):
                read_part(file, index_with(0, -1), 0, part)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"[]", "are a list"),
        (b"{", "no JSON"),
        (b"\xff\xfe\x00", "no JSON"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"a": -Infinity}', "-Infinity is no number"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "no JSON"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"a": "' + b"x" * MAX_ATTRIBUTES_BYTES + b'"}', "more than"),
    ],
)
def test_attributes_are_a_plain_object(data: bytes, says: str) -> None:
    assert parse_attributes(b'{"a": [1, null, "x"]}') == {"a": [1, None, "x"]}
    with pytest.raises(ValueError, match=says):
        parse_attributes(data)
