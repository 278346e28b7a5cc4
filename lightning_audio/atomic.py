"""Files and folders that are whole or absent: written beside their place, then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A file beside `path` to write into; it takes the place of `path` if the block ends well, else it is removed.

    torch and safetensors hide a full disk in errors of their own: here it is an OSError that names the path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's 0600 would hide a result from the rest of the lab
        temporary.replace(path)
    except (RuntimeError, SafetensorError) as error:
        raise OSError(f"cannot write {path}: {error.__context__ or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> Path:
    """Writes `text` as UTF-8 and gives back the path; an interruption leaves what was there before."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


@contextmanager
def whole_folder(path: str | Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder beside `path` to write into; it becomes `path` if the block ends well, else it is removed.

    Unless `replace`, FileExistsError before any work where `path` is there already and is no empty folder.
    """
    path = Path(path)
    if path.exists() and not replace and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} exists already and is not empty")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        if replace and path.is_dir():
            shutil.rmtree(path)  # a rename cannot take the place of a folder with files in it
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
