"""Where clips come from: one small file per layout, each a function that gives `Clip`s.

A source is any list of `Clip`. `find_clips` picks the layout by name, or by what lies at the path; a new layout is
one file with one function, and its line in `LAYOUTS`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sharding.sources.audiocaps import audiocaps
from sharding.sources.audiocraft import audiocraft_manifest, is_manifest
from sharding.sources.audioset import audioset
from sharding.sources.bbc_sound_effects import bbc_sound_effects
from sharding.sources.captions import captions_table
from sharding.sources.clip import Clip
from sharding.sources.clotho import clotho
from sharding.sources.esc50 import esc50
from sharding.sources.fma import fma
from sharding.sources.folder import folder
from sharding.sources.free_to_use_sounds import free_to_use_sounds
from sharding.sources.fsd50k import fsd50k
from sharding.sources.mtg_jamendo import mtg_jamendo
from sharding.sources.musiccaps import musiccaps
from sharding.sources.paramount_motion import paramount_motion
from sharding.sources.sonniss_gdc import sonniss_gdc
from sharding.sources.vggsound import vggsound
from sharding.sources.webdataset import is_webdataset, webdataset
from sharding.sources.wesoundeffects import wesoundeffects

__all__ = ["LAYOUTS", "Clip", "audiocraft_manifest", "captions_table", "find_clips", "folder", "webdataset"]

LAYOUTS: dict[str, Callable[..., list[Clip]]] = {
    "audiocaps": audiocaps,
    "audiocraft": audiocraft_manifest,
    "audioset": audioset,
    "bbc_sound_effects": bbc_sound_effects,
    "captions": captions_table,
    "clotho": clotho,
    "esc50": esc50,
    "fma": fma,
    "folder": folder,
    "free_to_use_sounds": free_to_use_sounds,
    "fsd50k": fsd50k,
    "mtg_jamendo": mtg_jamendo,
    "musiccaps": musiccaps,
    "paramount_motion": paramount_motion,
    "sonniss_gdc": sonniss_gdc,
    "vggsound": vggsound,
    "webdataset": webdataset,
    "wesoundeffects": wesoundeffects,
}
"""Name of a layout, which is that of its file -> the function that reads it."""


def find_clips(
    path: str | Path,
    *,
    captions: str | Path | None = None,
    caption_from: str | None = None,
    sidecars: str | Path | None = None,
    layout: str | None = None,
) -> list[Clip]:
    """The clips at `path`: a folder of audio, a captions table (.csv, .tsv, .jsonl), tars or AudioCraft's manifest.

    captions: a table that names files under `path`.  caption_from: "folder" or "file", see `folder`.
    sidecars: a folder that holds the sidecars of a folder of audio or of a manifest.
    layout: one of `LAYOUTS`, where `path` is a published collection; its captions are its own.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}")
    if layout is not None:
        return _layout(layout, captions, caption_from, sidecars)(path)
    if captions is not None:
        return captions_table(captions, root=path)
    if is_manifest(path):
        return audiocraft_manifest(path, sidecars=sidecars)
    if is_webdataset(path):
        return webdataset(path)
    if path.is_file():
        return captions_table(path)
    return folder(path, caption_from=caption_from, sidecars=sidecars)


def _layout(name: str, *other_choices: object) -> Callable[..., list[Clip]]:
    if name not in LAYOUTS:
        raise ValueError(f"there is no layout {name!r}; known are {', '.join(LAYOUTS)}")
    if any(choice is not None for choice in other_choices):
        raise ValueError(
            f"the layout {name} says where captions are: no captions, caption_from or sidecars beside it"
        )
    return LAYOUTS[name]
