"""Where the files of a dataset lie: in a folder, or elsewhere, from where they are fetched as they are needed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from sharding.schema import DATASET_FILE, MAX_JSON_BYTES, SPLITS, DatasetInfo, read_small, split_folders
from sharding.storage.cache import ShardCache
from sharding.storage.download import PipeTransport, Transport, is_remote, transport

T = TypeVar("T")
# Between fetching a remote file and opening it, other processes may fill the cache and push it out again.
_OPEN_TRIES = 8


class Folder(Protocol):
    """The files of one split."""

    def read(self, name: str) -> bytes:
        """A small file, as it is now; FileNotFoundError where it is absent."""

    def fetch(self, name: str, *, sha256: str, num_bytes: int | None = None) -> Path:
        """The path of a local copy, to be opened at once; OSError or ValueError where it cannot be had."""


@dataclass(frozen=True)
class LocalFolder:
    """A folder on this machine. Its files are what they are: `check` compares hashes, reading does not."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def read(self, name: str) -> bytes:
        return read_small(self.path / name)

    def fetch(self, name: str, *, sha256: str, num_bytes: int | None = None) -> Path:
        return self.path / name


@dataclass(frozen=True)
class RemoteFolder:
    """A folder elsewhere, seen through a cache.  location: for messages.  prefix: "train/", or none."""

    location: str
    prefix: str
    transport: Transport
    cache: ShardCache

    def __str__(self) -> str:
        return f"{self.location}/{self.prefix}".rstrip("/")

    def read(self, name: str) -> bytes:
        return self.cache.read(self.transport, self.prefix + name, max_bytes=MAX_JSON_BYTES)

    def fetch(self, name: str, *, sha256: str, num_bytes: int | None = None) -> Path:
        return self.cache.fetch(self.transport, self.prefix + name, sha256=sha256, num_bytes=num_bytes)


def open_splits(location: str | Path, cache: ShardCache | None = None) -> dict[str, Folder]:
    """The splits of a dataset, by name.

    location: a path; a URL that fsspec knows (http, https, s3, gs, ...); or `pipe:` and a shell command with
        {name} in it, which writes the file of that name: "pipe:curl -sf https://host/data/{name}".
        There they are train, valid and test, those that are there: most servers list nothing.
    cache: for remote ones (None: `ShardCache()`).
    """
    if not is_remote(location):
        return {name: LocalFolder(folder) for name, folder in split_folders(location).items()}
    location = str(location).rstrip("/")
    cache = cache or ShardCache()
    bring = transport(location, cache.options)
    folders = {name: RemoteFolder(location, f"{name}/", bring, cache) for name in SPLITS}
    found: dict[str, Folder] = {
        name: folder for name, folder in folders.items() if _dataset_file(folder) is not None
    }
    if found:
        return found
    own = RemoteFolder(location, "", bring, cache)
    data = _dataset_file(own)
    if data is None:
        raise FileNotFoundError(f"no dataset in {location} (it should hold <split>/{DATASET_FILE})")
    return {DatasetInfo.parse(data, f"{own}/{DATASET_FILE}").split: own}


def load_info(folder: Folder) -> DatasetInfo:
    """What a split says of itself."""
    return DatasetInfo.parse(folder.read(DATASET_FILE), f"{folder}/{DATASET_FILE}")


def as_folder(folder: Folder | Path) -> Folder:
    """A path as the folder that it is."""
    return LocalFolder(folder) if isinstance(folder, Path) else folder


def open_fetched(
    folder: Folder, name: str, open_path: Callable[[Path], T], *, sha256: str, num_bytes: int | None = None
) -> T:
    """What `open_path` makes of the local copy of a file."""
    for _ in range(_OPEN_TRIES):
        path = folder.fetch(name, sha256=sha256, num_bytes=num_bytes)
        with suppress(FileNotFoundError):
            return open_path(path)
    raise FileNotFoundError(f"there is no {path}: absent, or pushed out at once of a cache that is too small")


def _dataset_file(folder: RemoteFolder) -> bytes | None:
    try:
        return folder.read(DATASET_FILE)
    except FileNotFoundError:
        return None
    except OSError as error:
        # A command has no word for "absent" that is unlike its other failures, so that one is said aloud.
        if not isinstance(folder.transport, PipeTransport) or isinstance(error, TimeoutError):
            raise
        if folder.prefix:  # for the place itself an error follows
            warnings.warn(f"{folder} is taken as absent: {error}", stacklevel=3)
        return None
