"""A dataset takes its place whole, or not at all."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from pathlib import Path

from sharding.schema import DATASET_FILE


def refuse_existing(out: Path, *, overwrite: bool) -> None:
    """FileExistsError where something is at `out` that is not to be, or must never be, replaced."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not overwrite:
            raise FileExistsError(f"{out} exists already; choose another folder or ask to overwrite it")
        if not any(out.glob(f"*/{DATASET_FILE}")):
            raise FileExistsError(f"{out} exists and is no dataset; it is not overwritten")


def put_in_place(folder: Path, out: Path) -> None:
    """`folder` becomes `out`, instead of what is there.

    FileNotFoundError where another process has put the same folder in place just before: its work stays.
    """
    aside = out.parent / f".{out.name}.{uuid.uuid4().hex[:12]}.replaced"
    if folder.is_dir():  # what is at `out` now may be that other process's work: looked at again below
        with contextlib.suppress(FileNotFoundError):
            out.rename(aside)
    try:
        folder.rename(out)
    except OSError:
        with contextlib.suppress(OSError):  # unless something is at `out` again: the other's
            aside.rename(out)
        raise
    finally:
        if out.exists():
            shutil.rmtree(aside, ignore_errors=True)
