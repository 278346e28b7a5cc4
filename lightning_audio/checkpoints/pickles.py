"""Pickled files, read as data: tensors, plain values and classes that hold nothing but data. Nothing is executed."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


def read_pickle(file: Path, *, allowed: Sequence[Any] = ()) -> dict[str, Any]:
    """The dict that `torch.save` wrote; ValueError where the file is torn, or holds anything that could run.

    allowed: classes that may occur besides tensors and plain values.
    """
    try:
        with torch.serialization.safe_globals(list(allowed)):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a torn or foreign file fails in any of a dozen ways
        if (
            isinstance(error, OSError) and error.errno != errno.EINVAL
        ):  # which a seek beyond a torn file's end is
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{file} cannot be read safely: it is torn, or no file of weights ({reason})"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}, not a model")
    return content
