"""What a dataset folder says of itself: `dataset.json` of a split, and the index beside each of its tars.

<dataset>/<split>/dataset.json       DatasetInfo: shards with counts, hashes, durations; rates; whose codes
<dataset>/<split>/000000.tar         key.flac, key.json, ...; or key.codes.npy, key.json
<dataset>/<split>/000000.index.json  ShardIndex: where each part of each sample lies in the tar
<dataset>/<split>/skipped.jsonl      what was left out, and why (absent when nothing was)
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

SCHEMA_VERSION = 1
DATASET_FILE = "dataset.json"
SKIPPED_FILE = "skipped.jsonl"
SPLITS = ("train", "valid", "test")
AUDIO_PARTS = ("flac", "wav", "ogg", "opus", "mp3", "aiff", "aif")
CODES_PART = "codes.npy"
ATTRIBUTES_PART = "json"

# A shard's name becomes a path, so it may hold nothing that leaves the folder.
_SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.tar")
_MAX_JSON_BYTES = 1 << 29
# What numpy writes for uint16 [K, T]: version 1.0 of the format, the header padded to 64 or 128 bytes in all.
_CODES_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00[\x36\x76]\x00\{'descr': '<u2', 'fortran_order': False, "
    rb"'shape': \((\d{1,9}), (\d{1,9})\), \} {0,64}\n"
)


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


@dataclass(frozen=True, kw_only=True)
class CodesInfo:
    """Which codec made the codes, and what they are: frame_rate (Hz), codebooks kept, codes per codebook."""

    codec_hash: str
    frame_rate: float
    num_codebooks: int
    cardinality: int


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """One split of a dataset: `dataset.json`.

    sample_rates: Hz -> number of samples; of codes, the rate of the audio that they stand for.
    channels: channel count -> number of samples.
    codes: None where the shards hold audio only.
    """

    split: str
    shards: tuple[ShardInfo, ...]
    sample_rates: dict[int, int]
    channels: dict[int, int]
    codes: CodesInfo | None = None
    num_skipped: int = 0
    schema_version: int = field(default=SCHEMA_VERSION)

    @property
    def num_samples(self) -> int:
        return sum(shard.num_samples for shard in self.shards)

    @property
    def duration(self) -> float:
        """Seconds."""
        return sum(shard.duration for shard in self.shards)

    def save(self, folder: Path) -> None:
        (folder / DATASET_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> DatasetInfo:
        """The `dataset.json` of a split's folder; ValueError where it is not one that this version reads."""
        path = Path(folder) / DATASET_FILE
        values = _read_json(path)
        version = values.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ValueError(f"{path} has schema version {version!r}, this program reads {SCHEMA_VERSION}")
        try:
            values["shards"] = tuple(ShardInfo(**shard) for shard in values["shards"])
            values["sample_rates"] = {int(rate): n for rate, n in values["sample_rates"].items()}
            values["channels"] = {int(channels): n for channels, n in values["channels"].items()}
            values["codes"] = CodesInfo(**values["codes"]) if values.get("codes") else None
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

    def audio_part(self, sample: int) -> str | None:
        """The name of the part that holds the audio itself."""
        for part in AUDIO_PARTS:
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
        values = _read_json(path)
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


def parse_codes(
    data: bytes, *, num_codebooks: int | None = None, cardinality: int | None = None
) -> np.ndarray:
    """uint16 [K, T] from a `.codes.npy`, trusting nothing in it: ValueError unless it is just that, in range.

    One form of header is known, so that neither a parser of literals nor pickle ever sees the file.
    """
    header = _CODES_HEADER.match(data)
    if header is None:
        raise ValueError(f"codes are no .npy of uint16 [K, T] in C order, they begin with {data[:80]!r}")
    k, t = int(header[1]), int(header[2])
    if header.end() > 128 or min(k, t) < 1 or len(data) - header.end() != 2 * k * t:
        raise ValueError(
            f"codes [{k}, {t}] should have {2 * k * t} bytes, they have {len(data) - header.end()}"
        )
    if num_codebooks is not None and k != num_codebooks:
        raise ValueError(f"codes have {k} codebooks, the dataset says {num_codebooks}")
    codes = np.frombuffer(data, "<u2", offset=header.end()).reshape(k, t)
    if cardinality is not None and int(codes.max()) >= cardinality:
        raise ValueError(f"a code is {int(codes.max())}, the codec has {cardinality}")
    return codes


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}")
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, more than {_MAX_JSON_BYTES}")
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} should hold a JSON object, holds a {type(values).__name__}")
    return values
