"""Sonniss' GDC game audio bundles: parts of many publishers' libraries, given away each year.

    Sonniss.com - GDC 2017 - Game Audio Bundle Part 3of9/     (the folder of the archive; it may be absent)
        Double Trouble Audio - Tanks and Jet/                 <publisher> - <library>
            TAJ - Tank Battle Cannon Fire [XY Stereo]-001.wav
        344 Audio - Cinematic Fight Vol. 1/
            FGHTImpt_4 x Punch, Body 02_344 Audio_Cinematic Fight Vol 1.wav

What is heard is in the names alone. There are no official splits, and the publisher is the group. That the folder
of a library starts with its publisher and " - " is assumed from such names quoted from the bundles of 2016 to
2026; a library named otherwise is its own publisher.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from sharding.sources.clip import Clip
from sharding.sources.sound_library import recording, sound_library

_BUNDLE = re.compile(r"sonniss|game ?audio ?(gdc|bundle)", re.IGNORECASE)


def sonniss_gdc(path: str | Path) -> list[Clip]:
    """Every file of the bundles under `path`, which may be one bundle, one part or all years."""
    return sound_library(path, _publisher)


def _publisher(file: PurePosixPath) -> tuple[str, dict[str, Any]]:
    libraries = [folder for folder in file.parts[:-1] if not _BUNDLE.search(folder)]
    if not libraries:
        return recording(file)
    publisher, _, library = libraries[0].partition(" - ")
    return publisher.strip().lower(), {"artist": publisher.strip(), "library": library.strip() or publisher}
