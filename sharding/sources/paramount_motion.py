"""Paramount Motion's Odeon Cinematic Sound Effects: 4,400 effects, designed rather than recorded.

    <category>/<what is heard> 01.wav

What is heard is in the names. Assumed, since the pack is sold and has no description in print: one folder for
each category, at any depth. There are no official splits; variations of an effect are one group.
"""

from __future__ import annotations

from pathlib import Path

from sharding.sources.clip import Clip
from sharding.sources.sound_library import recording, sound_library


def paramount_motion(path: str | Path) -> list[Clip]:
    """Every file of the pack."""
    return sound_library(path, recording)
