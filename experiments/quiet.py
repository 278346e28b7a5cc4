"""What libraries say on every run and no user can act on is left unsaid; other warnings are one line each."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any

_KNOWN = (
    ".*does not have many workers.*",
    ".*treespec.*",
    ".*Using ModelCheckpoint with manual optimization.*",  # our task steps before its checkpoint, and means to
    ".*exists and is not empty.*",  # a run folder that goes on
    ".*smaller than the logging interval.*",
)


def quieten() -> None:
    """For the rest of the process."""
    for message in _KNOWN:
        warnings.filterwarnings("ignore", message=message)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.showwarning = _one_line
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)


def _one_line(message: Warning | str, *where: Any, **more: Any) -> None:
    print(f"  note: {' '.join(str(message).split())}", file=sys.stderr, flush=True)
