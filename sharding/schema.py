"""What a dataset folder says of itself: `dataset.json` of a split, and the index beside each of its tars.

<dataset>/<split>/dataset.json       DatasetInfo: shards with counts, hashes, durations; rates; whose codes
<dataset>/<split>/durations.bin      how long each sample is, so that training need not read every index to begin
<dataset>/<split>/000000.tar         key.flac, key.json, ...; or key.codes.npy, key.json
<dataset>/<split>/000000.index.json  ShardIndex: where each part of each sample lies in the tar
<dataset>/<split>/skipped.jsonl      what was left out, and why (absent when nothing was)
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

SCHEMA_VERSION = 1
DATASET_FILE = "dataset.json"
DURATIONS_FILE = "durations.bin"
SKIPPED_FILE = "skipped.jsonl"
SPLITS = ("train", "valid", "test")
AUDIO_PARTS = ("flac", "wav", "ogg", "opus", "mp3", "aiff", "aif")
CODES_PART = "codes.npy"
CROPS_ATTRIBUTE = "codes_offsets"
MAX_ATTRIBUTES_BYTES = 1 << 22
ATTRIBUTES_PART = "json"

# Bounds on what a file may claim before anything is made of it, far above what is useful.
MAX_SHARD_SAMPLES = 1 << 22
_MAX_RATE = 1 << 30
# A shard's name becomes a path, so it may hold nothing that leaves the folder.
_SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.tar")
MAX_JSON_BYTES = 1 << 29
_MAX_INDEX_BYTES = 1 << 27
# What numpy writes for [S, D]: version 1.0 of the format, the header padded to 64 or 128 bytes in all.
_ARRAY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00[\x36\x76]\x00\{'descr': '(<u2|<f2|<f4)', 'fortran_order': False, "
    rb"'shape': \((\d{1,9}), (\d{1,9})\), \} {0,64}\n"
)
_DTYPES = {"<u2": "uint16", "<f2": "float16", "<f4": "float32"}


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """One tar: its file name, samples, size, hashes of it and of its index, and seconds of audio."""

    name: str
    num_samples: int
    num_bytes: int
    sha256: str
    index_sha256: str
    duration: float

    def __post_init__(self) -> None:
        if not _SHARD_NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no name for a shard (letters, digits, '-', '_', then .tar)")
        _within(self.num_samples, f"{self.name}: num_samples", int, MAX_SHARD_SAMPLES)
        _within(self.num_bytes, f"{self.name}: num_bytes", int, 1 << 60)
        _within(self.duration, f"{self.name}: duration", float, 1e15)
        _texts(self, "sha256", "index_sha256")


@dataclass(frozen=True, kw_only=True)
class CodesInfo:
    """Which codec made the codes, and what they are: frame_rate (Hz), codebooks kept, codes per codebook.

    crops: codes of each clip: `codes.npy` of all of it, `codes.1.npy`, ... of what is left after a part of a frame,
        whose samples the clip's attribute `CROPS_ATTRIBUTE` says.
    """

    codec_hash: str
    frame_rate: float
    num_codebooks: int
    cardinality: int
    crops: int = 1

    def __post_init__(self) -> None:
        _within(self.frame_rate, "frame_rate (Hz)", float, _MAX_RATE, 1e-6)
        _within(self.num_codebooks, "num_codebooks", int, 1 << 16, 1)
        _within(self.cardinality, "cardinality", int, 1 << 16, 1)
        _within(self.crops, "crops", int, 1 << 16, 1)
        _texts(self, "codec_hash")


@dataclass(frozen=True, kw_only=True)
class FeatureInfo:
    """What a frozen encoder made of each clip ahead of training: `<name>.npy`, [S, D], all of whose steps are valid.

    A clip without the part has nothing there for the encoder to read or hear.

    attribute: whose condition it is ("description", "melody").
    encoder, encoder_hash: which, by name, and the hash of its weights or settings.
    dim: D.   dtype: of the array, "<f2" or "<f4".
    frame_rate: steps per second, where they go along with the clip and are cut with it; None: they are of all of it.
    window: s, what one step has heard from its place on; a segment's steps are those that heard nothing else.
    per_text: one for each of several texts: `<name>.npy`, `<name>.1.npy`, ...
    """

    attribute: str
    encoder: str
    encoder_hash: str
    dim: int
    dtype: str
    frame_rate: float | None = None
    window: float = 0.0
    per_text: bool = False

    def __post_init__(self) -> None:
        _texts(self, "attribute", "encoder", "encoder_hash")
        if self.dtype not in ("<f2", "<f4"):
            raise ValueError(f"features are <f2 or <f4, got {self.dtype!r}")
        _within(self.dim, "dim", int, 1 << 30, 1)
        _within(self.window, "window (s)", float, 1e9)
        if self.frame_rate is not None:
            _within(self.frame_rate, "frame_rate (Hz)", float, _MAX_RATE, 1e-6)

    def steps(self, start: float, duration: float | None) -> slice:
        """The steps of the segment from `start` on for `duration` (s; None: to the end); one at the least."""
        if self.frame_rate is None:
            return slice(None)
        first = round(start * self.frame_rate)
        if duration is None:
            return slice(first, None)
        # A thousandth of a step of grace: a product of whole numbers of samples may be short of a whole one.
        return slice(first, first + 1 + max(0, int((duration - self.window) * self.frame_rate + 1e-3)))


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """One split of a dataset: `dataset.json`.

    sample_rates: Hz -> number of samples; of codes, the rate of the audio that they stand for.
    channels: channel count -> number of samples.
    codes: None where the shards hold audio only.   features: by the name of the part.
    """

    split: str
    shards: tuple[ShardInfo, ...]
    sample_rates: dict[int, int]
    channels: dict[int, int]
    codes: CodesInfo | None = None
    num_skipped: int = 0
    features: dict[str, FeatureInfo] = field(default_factory=dict)
    schema_version: int = field(default=SCHEMA_VERSION)

    def __post_init__(self) -> None:
        _texts(self, "split")
        _within(self.num_skipped, "num_skipped", int, 1 << 60)
        for count in (*self.sample_rates.values(), *self.channels.values()):
            _within(count, "a number of samples", int, 1 << 60)
        for rate in self.sample_rates:
            _within(rate, "a sample rate (Hz)", int, _MAX_RATE, 1)
        for channels in self.channels:
            _within(channels, "a number of channels", int, _MAX_RATE, 1)
        if self.shards and not (self.sample_rates and self.channels):
            raise ValueError(f"{len(self.shards)} shards, and no sample rate or number of channels")

    @property
    def num_samples(self) -> int:
        return sum(shard.num_samples for shard in self.shards)

    @property
    def duration(self) -> float:
        """Seconds."""
        return sum(shard.duration for shard in self.shards)

    def save(self, folder: Path) -> None:
        """Writes `dataset.json`; and `durations.bin`, where the shards' indexes lie in the folder already."""
        indexes = [index_path(folder / shard.name) for shard in self.shards]
        if all(path.is_file() for path in indexes):
            (folder / DURATIONS_FILE).write_bytes(pack_durations(self, map(ShardIndex.load, indexes)))
        (folder / DATASET_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> DatasetInfo:
        """The `dataset.json` of a split's folder; ValueError where it is not one that this version reads."""
        path = Path(folder) / DATASET_FILE
        return cls.parse(read_small(path), str(path))

    @classmethod
    def parse(cls, data: bytes, path: str) -> DatasetInfo:
        """The same from the file's bytes; path: for messages."""
        values = _parse_json(data, path)
        version = values.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ValueError(f"{path} has schema version {version!r}, this program reads {SCHEMA_VERSION}")
        try:
            values["shards"] = tuple(ShardInfo(**shard) for shard in values["shards"])
            values["sample_rates"] = {int(rate): n for rate, n in values["sample_rates"].items()}
            values["channels"] = {int(channels): n for channels, n in values["channels"].items()}
            values["codes"] = CodesInfo(**values["codes"]) if values.get("codes") else None
            features = values.get("features", {})
            values["features"] = {name: FeatureInfo(**about) for name, about in features.items()}
            return cls(**values)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} is no dataset description: {error}") from error


@dataclass(frozen=True)
class ShardIndex:
    """Where the parts of a shard's N samples lie.

    parts: name ("flac", "json", "codes.npy", ...) -> int64 [N, 2], (offset, size) in bytes; size -1: absent.
    num_samples, sample_rates, channels: int64 [N], of each sample's audio, or of what its codes stand for.
    """

    keys: list[str]
    parts: dict[str, np.ndarray]
    num_samples: np.ndarray
    sample_rates: np.ndarray
    channels: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def durations(self) -> np.ndarray:
        """float64 [N], seconds."""
        return self.num_samples / self.sample_rates

    @property
    def milliseconds(self) -> np.ndarray:
        """uint32 [N]: the durations, rounded."""
        return np.rint(np.minimum(self.durations * 1000, np.iinfo(np.uint32).max)).astype(np.uint32)

    def audio_part(self, sample: int, condition: str | None = None) -> str | None:
        """The name of the part that holds the audio itself, or that of a condition ("melody": "melody.flac")."""
        for suffix in AUDIO_PARTS:
            part = suffix if condition is None else f"{condition}.{suffix}"
            if part in self.parts and self.parts[part][sample, 1] >= 0:
                return part
        return None

    def save(self, path: Path) -> None:
        columns = {name: getattr(self, name).tolist() for name in ("num_samples", "sample_rates", "channels")}
        parts = {name: self.parts[name].tolist() for name in sorted(self.parts)}
        values = {"schema_version": SCHEMA_VERSION, "keys": self.keys, "parts": parts, **columns}
        path.write_text(json.dumps(values, separators=(",", ":")) + "\n")

    @classmethod
    def load(cls, path: Path) -> ShardIndex:
        values = _parse_json(read_small(path, _MAX_INDEX_BYTES), str(path))
        try:
            keys = [str(key) for key in values["keys"]]
            parts = {
                str(name): np.asarray(spans, np.int64).reshape(len(keys), 2)
                for name, spans in values["parts"].items()
            }
            columns = [
                np.asarray(values[name], np.int64).reshape(len(keys))
                for name in ("num_samples", "sample_rates", "channels")
            ]
        except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
            raise ValueError(f"{path} is no shard index: {error}") from error
        if (columns[0] < 0).any() or (columns[1] <= 0).any():
            raise ValueError(f"{path} is no shard index: lengths and sample rates must be positive")
        return cls(keys, parts, *columns)


def index_path(shard: Path) -> Path:
    """Where the index of a tar lies: `000000.tar` -> `000000.index.json`."""
    return shard.with_suffix(".index.json")


def split_folders(dataset: str | Path) -> dict[str, Path]:
    """The splits of a dataset folder (or the one whose folder it is), by name."""
    dataset = Path(dataset)
    if (dataset / DATASET_FILE).is_file():
        return {dataset.name: dataset}
    found = sorted(file.parent for file in dataset.glob(f"*/{DATASET_FILE}"))
    if not found:
        raise FileNotFoundError(f"no dataset in {dataset} (it should hold <split>/{DATASET_FILE})")
    order = {name: place for place, name in enumerate(SPLITS)}
    return {
        folder.name: folder for folder in sorted(found, key=lambda f: (order.get(f.name, len(order)), f.name))
    }


def numbered_part(name: str, number: int = 0) -> str:
    """The part of an array of which a sample may have several: `codes.npy`, `codes.1.npy`, `codes.2.npy`, ..."""
    return f"{name}.{number}.npy" if number else f"{name}.npy"


def is_numbered(part: str, name: str) -> bool:
    """Whether it is one of the parts that `numbered_part` makes of this name."""
    return re.fullmatch(rf"{re.escape(name)}(\.[1-9]\d{{0,8}})?\.npy", part) is not None


def parse_attributes(data: bytes) -> dict[str, Any]:
    """The attributes of a sample; ValueError where they are no JSON object, too large, or hold NaN."""
    if len(data) > MAX_ATTRIBUTES_BYTES:
        raise ValueError(f"attributes have {len(data)} bytes, more than {MAX_ATTRIBUTES_BYTES}")
    try:
        values = json.loads(data.decode(), parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("attributes are nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"attributes are no JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"attributes are a {type(values).__name__}, not an object")
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number that JSON knows")


def parse_codes(
    data: bytes, *, num_codebooks: int | None = None, cardinality: int | None = None
) -> np.ndarray:
    """uint16 [K, T] from a `.codes.npy`, trusting nothing in it: ValueError unless it is just that, in range."""
    codes = parse_array(data, dtype="<u2", what="codes")
    k = codes.shape[0]
    if num_codebooks is not None and k != num_codebooks:
        raise ValueError(f"codes have {k} codebooks, the dataset says {num_codebooks}")
    if cardinality is not None and int(codes.max()) >= cardinality:
        raise ValueError(f"a code is {int(codes.max())}, the codec has {cardinality}")
    return codes


def parse_feature(data: bytes, about: FeatureInfo, name: str) -> np.ndarray:
    """Floats [S, D] from a part `<name>.npy`, trusting nothing in it: ValueError unless it is as `about` says."""
    vectors = parse_array(data, dtype=about.dtype, what=name)
    if vectors.shape[1] != about.dim:
        raise ValueError(f"{name} is {vectors.shape[1]} wide, the dataset says {about.dim}")
    if not np.isfinite(vectors).all():
        raise ValueError(f"{name} has NaN or infinite values")
    return vectors


def parse_array(data: bytes, *, dtype: str, what: str) -> np.ndarray:
    """[S, D] from the bytes of a .npy, read only; ValueError unless it is just that, neither axis empty.

    dtype: "<u2", "<f2" or "<f4".   what: it is called in messages.
    One form of header is known, so that neither a parser of literals nor pickle ever sees the file.
    """
    header = _ARRAY_HEADER.match(data)
    if header is None or header[1].decode() != dtype:
        raise ValueError(
            f"{what} are no .npy of {_DTYPES.get(dtype, dtype)} [., .] in C order, they begin with {data[:80]!r}"
        )
    rows, columns = int(header[2]), int(header[3])
    size = int(dtype[-1]) * rows * columns
    if header.end() > 128 or min(rows, columns) < 1 or len(data) - header.end() != size:
        raise ValueError(
            f"{what} [{rows}, {columns}] should have {size} bytes, they have {len(data) - header.end()}"
        )
    return np.frombuffer(data, dtype, offset=header.end()).reshape(rows, columns)


def pack_durations(info: DatasetInfo, indexes: Iterable[ShardIndex]) -> bytes:
    """`durations.bin`: which indexes it is of, 32 bytes; then uint32 [N], ms, of all samples of all shards."""
    return _indexes_hash(info) + b"".join(index.milliseconds.astype("<u4").tobytes() for index in indexes)


def parse_durations(data: bytes, info: DatasetInfo) -> np.ndarray | None:
    """uint32 [N] of all samples of all shards, ms; None where it is no `durations.bin` of just these shards."""
    if data[:32] != _indexes_hash(info) or len(data) != 32 + 4 * info.num_samples:
        return None
    return np.frombuffer(data, "<u4", offset=32)


def _indexes_hash(info: DatasetInfo) -> bytes:
    return hashlib.sha256(" ".join(shard.index_sha256 for shard in info.shards).encode()).digest()


def read_small(path: Path, max_bytes: int = MAX_JSON_BYTES) -> bytes:
    """All of a file; ValueError where it is larger than that."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}")
    if path.stat().st_size > max_bytes:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, more than {max_bytes}")
    return path.read_bytes()


def _texts(about: object, *names: str) -> None:
    """ValueError where one of these fields, read from JSON, is no text."""
    for name in names:
        if not isinstance(getattr(about, name), str):
            raise ValueError(f"{name} is {getattr(about, name)!r}, which is no text")


def _within(value: object, what: str, kind: type[int] | type[float], most: float, least: float = 0) -> None:
    """ValueError unless it is a number of that kind and in that range: JSON may hold anything in its place."""
    number = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
    if not number or not least <= value <= most:  # type: ignore[operator]
        raise ValueError(f"{what} is {value!r:.80}, not {kind.__name__} in [{least:g}, {most:g}]")


def _parse_json(data: bytes, path: str) -> dict[str, Any]:
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} should hold a JSON object, holds a {type(values).__name__}")
    return values
