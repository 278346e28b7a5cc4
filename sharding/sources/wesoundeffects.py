"""We Sound Effects' bundle of 2020: some 500 long files.

    <library>/<what is heard> 01.wav

What is heard is in the names. Assumed, since the bundle is sold and has no description in print: one folder for
each library, at any depth. There are no official splits; takes of a recording are one group.
"""

from __future__ import annotations

from pathlib import Path

from sharding.sources.clip import Clip
from sharding.sources.sound_library import recording, sound_library


def wesoundeffects(path: str | Path) -> list[Clip]:
    """Every file of the bundle."""
    return sound_library(path, recording)
