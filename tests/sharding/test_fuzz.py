"""Small valid shards, changed at random in thousands of ways, and given to whatever reads shards.

Nothing may come out but ValueError and OSError; no file may be opened or written outside the dataset; no case may
take much memory or time; and what can be repaired is sound after it. FUZZ_CASES=100000 makes a long run of it, from
another seed with FUZZ_SEED.
"""

from __future__ import annotations

import codecs
import os
import random
import re
import resource
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.index import DatasetIndex
from datamodules.shards import ShardReader
from lightning_audio import audio
from sharding.checking.check import check
from sharding.checking.repair import repair
from sharding.read import spans
from sharding.schema import CodesInfo, DatasetInfo, ShardIndex, parse_codes
from sharding.sources.webdataset import webdataset

NUM_CASES = int(os.environ.get("FUZZ_CASES", "1000"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
CHECKED = 0.05  # the share of cases that are also checked and repaired, which takes longer than reading
MEASURED = (
    1 if "FUZZ_CASES" in os.environ else 4
)  # memory is measured in each so manieth case: it more than doubles the time
MOST_SECONDS = 5.0
MOST_BYTES = 160 << 20  # a decoder believes a header of up to 128 MiB, and fills no more than there is
CODES = CodesInfo(codec_hash="abc", frame_rate=100.0, num_codebooks=2, cardinality=64)

MakeDataset = Callable[..., Path]
MakeSample = Callable[..., tuple[str, dict[str, bytes]]]


@dataclass
class Watch:
    """What was done outside `root` while it watched. A hook cannot be taken away again, so it is put once."""

    root: str = ""
    active: bool = False
    outside: list[str] = field(default_factory=list)

    # Of these, the first argument is a path.
    paths = frozenset(
        {
            "open",
            "os.remove",
            "os.rename",
            "os.mkdir",
            "os.rmdir",
            "os.link",
            "os.symlink",
            "os.truncate",
            "os.chmod",
        }
    )
    never = frozenset(
        {"os.system", "os.exec", "os.fork", "subprocess.Popen", "socket.connect", "pickle.find_class", "exec"}
    )

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active or (event not in self.paths and event not in self.never):
            return
        if event in self.paths:
            path = arguments[0]
            if isinstance(path, int) or path is None or path == os.devnull:
                return
            path = os.fsdecode(path)
            by_folder = event != "open" and arguments[-1] not in (-1, None) and "/" not in path
            if by_folder or os.path.realpath(path).startswith(self.root):
                return
        self.outside.append(f"{event} {arguments}")


WATCH = Watch()
sys.addaudithook(WATCH)


@contextmanager
def watched(root: Path) -> Iterator[None]:
    WATCH.root, WATCH.outside = f"{os.path.realpath(root)}/", []
    try:
        yield
    finally:
        WATCH.active = False
        tracemalloc.stop()


NUMBERS = [
    b"-1",
    b"0",
    b"1",
    b"512",
    b"65535",
    b"2147483648",
    b"4294967296",
    b"9223372036854775807",
    b"9223372036854775808",
    b"-9223372036854775808",
    b"1e308",
    b"1e999",
    b"NaN",
    b"-Infinity",
    b"0.5",
    b"null",
    b"true",
    b'"7"',
    b"[]",
    b"{}",
    b"[" * 5000 + b"]" * 5000,
    b"9" * 5000,
]
WORDS = [
    b"\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"RIFF",
    b"fLaC",
    b"OggS",
    b"\x93NUMPY",
    b"NaN",
    b"../",
]
KINDS = b"\0001234567LKSxgVM?"


def flip_bits(data: bytearray, draw: random.Random) -> None:
    for _ in range(draw.choice((1, 1, 2, 8))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def cut(data: bytearray, draw: random.Random) -> None:
    del data[draw.randrange(len(data)) :]


def splice(data: bytearray, draw: random.Random) -> None:
    """A stretch of the file, by blocks or not, in another place of it, over what was there or between."""
    unit = draw.choice((1, 512))
    start, stop = (unit * draw.randrange(len(data) // unit + 1) for _ in range(2))
    piece = data[min(start, stop) : max(start, stop)][: 1 << 14]
    place = unit * draw.randrange(len(data) // unit + 1)
    data[place : place + draw.choice((0, len(piece)))] = piece


def put_word(data: bytearray, draw: random.Random) -> None:
    place, word = draw.randrange(len(data)), draw.choice(WORDS)
    data[place : place + len(word)] = word


def put_number(data: bytearray, draw: random.Random) -> None:
    """Another number, or none, in the place of one written in digits."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", data))
    if found:
        match = draw.choice(found)
        data[match.start() : match.end()] = draw.choice(NUMBERS)


def forge_header(data: bytearray, draw: random.Random) -> None:
    """Another kind, size or name in a tar header, and its checksum right."""
    places = [
        place for place in range(0, len(data) - 511, 512) if data[place + 257 : place + 262] == b"ustar"
    ]
    if not places:
        return
    place = draw.choice(places)
    block = bytearray(data[place : place + 512])
    change = draw.randrange(4)
    if change == 0:
        block[156] = draw.choice(KINDS)
    elif change == 1:
        size = draw.choice((0, 1, 511, 512, 1 << 16, 1 << 31, (1 << 33) - 1, draw.randrange(1 << 33)))
        block[124:136] = b"%011o\0" % size
    elif change == 2:
        name = draw.choice(
            (b"../../up.wav", b"/etc/passwd.wav", b"a", b"a.wav\x1b[2J", b"\xff.wav", b"clip0.json")
        )
        block[:100] = name + bytes(100 - len(name))
    else:
        block[draw.randrange(512)] = draw.randrange(256)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    data[place : place + 512] = block


def forge_audio(data: bytearray, draw: random.Random) -> None:
    """Random bytes in the first 64 of an audio file or array, where rates, channels and lengths are claimed."""
    found = [match.start() for match in re.finditer(rb"fLaC|RIFF|OggS|ID3|\x93NUMPY", data)]
    if found:
        start = draw.choice(found) + draw.randrange(4, 64)
        for place in range(start, min(len(data), start + draw.choice((1, 2, 4, 8)))):
            data[place] = draw.choice((0, 0x7F, 0xFF, draw.randrange(256)))


BINARY = [flip_bits, cut, splice, put_word, forge_header, forge_header, forge_audio, forge_audio]
TEXT = [flip_bits, cut, splice, put_word, put_number, put_number, put_number]


def refused(call: Callable[[], Any]) -> Any:
    """The result, or None for an error that a user may see; any other comes out."""
    with suppress(ValueError, OSError):
        return call()


def read_everything(dataset: Path) -> None:
    """Through every reader there is."""
    folder = dataset / "train"
    refused(lambda: webdataset(dataset))
    info: DatasetInfo | None = refused(lambda: DatasetInfo.load(folder))
    refused(lambda: DatasetIndex(folder, min_duration=0.05))
    if info is None:
        return
    reader = ShardReader(folder)
    for shard in info.shards:
        refused(lambda shard=shard: spans(folder / shard.name))
        index: ShardIndex | None = refused(
            lambda shard=shard: ShardIndex.load(folder / shard.name.replace(".tar", ".index.json"))
        )
        for sample in range(len(index) if index else 0):
            refused(lambda at=(shard, index, sample): reader.attributes(*at))
            for part in index.parts:  # type: ignore[union-attr]
                at = (shard, index, sample, part)
                if part.endswith(".npy"):
                    refused(
                        lambda at=at: parse_codes(reader.read(*at), num_codebooks=2, cardinality=64)  # type: ignore[misc]
                    )
                elif part != "json":
                    refused(lambda at=at: read_segment(reader.open(*at)))  # type: ignore[misc]
                    refused(lambda at=at: audio.read(reader.read(*at)))  # type: ignore[misc]
    reader.close()


def read_segment(source: Any) -> np.ndarray:
    with audio.open_audio(source) as file:
        return audio.read_samples(file, 100, 300)


def fuzz(dataset: Path, seed: int) -> dict[str, int]:
    """Counts of what came of the cases."""
    draw = random.Random(seed)
    originals = {path: path.read_bytes() for path in sorted(dataset.rglob("*")) if path.is_file()}
    read_everything(dataset)  # and import what it needs
    for encoding in ("utf-16-be", "utf-16-le", "utf-32-be", "utf-32-le"):
        codecs.lookup(encoding)  # json guesses these
    assert repair(dataset).after.ok
    counts = {"read": 0, "sound": 0, "mended": 0, "not to be mended": 0}
    with watched(dataset.parent):
        for case in range(NUM_CASES):
            path = draw.choice(list(originals))
            data = bytearray(originals[path])
            changes = [
                draw.choice(TEXT if path.suffix == ".json" else BINARY) for _ in range(draw.choice((1, 1, 3)))
            ]
            for change in changes:
                if data:
                    change(data, draw)
            path.write_bytes(data)
            what = f"seed {seed}, case {case}: {path.name}, {[change.__name__ for change in changes]}"
            start = time.process_time()
            if case % MEASURED == 0:
                tracemalloc.start()
            WATCH.active = True
            try:
                read_everything(dataset)
                outcome = check_and_repair(dataset) if draw.random() < CHECKED else "read"
            except Exception as error:
                raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
            finally:
                WATCH.active = False
            seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert not WATCH.outside, f"{what}: {WATCH.outside[:5]}"
            assert peak < MOST_BYTES, f"{what}: {peak / 2**20:.0f} MiB"
            assert seconds < MOST_SECONDS, f"{what}: {seconds:.1f} s"
            counts[outcome] += 1
            if outcome == "read":
                path.write_bytes(originals[path])
            else:
                restore(dataset, originals)
    return counts


def check_and_repair(dataset: Path) -> str:
    """What came of it; AssertionError where repair says that it is done and it is not."""
    report = refused(lambda: check(dataset))
    if report is not None and report.ok:
        return "sound"
    mended = refused(lambda: repair(dataset))
    assert mended is None or mended.after.ok, [str(problem) for problem in mended.after.problems]
    return "mended" if mended else "not to be mended"


def restore(dataset: Path, originals: dict[Path, bytes]) -> None:
    for path in dataset.rglob("*"):
        if path.is_file() and path not in originals:
            path.unlink()
    for path, data in originals.items():
        path.write_bytes(data)


def test_mutated_audio_shards(make_dataset: MakeDataset, audio_sample: MakeSample) -> None:
    samples = [
        audio_sample(seed, suffix=suffix) for seed, suffix in enumerate((".flac", ".wav", ".ogg", ".mp3"))
    ]
    samples[0][1]["melody.flac"] = samples[0][1]["flac"]
    dataset = make_dataset({"train": [samples]})
    # Encoders pad what is lossy, and the index says what decodes.
    repair(dataset)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts = fuzz(dataset, SEED)
    print(counts)
    assert counts["mended"] > counts["sound"] > 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 << 10  # KiB


def test_mutated_code_shards(make_dataset: MakeDataset, code_sample: MakeSample) -> None:
    counts = fuzz(make_dataset({"train": [[code_sample(seed) for seed in range(3)]]}, CODES), SEED + 1)
    print(counts)
    assert counts["mended"] > counts["sound"] > 0
