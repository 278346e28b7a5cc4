"""ESC-50: 2,000 sounds of 5 s in 50 classes, cut from Freesound recordings and put in five folds.

    meta/esc50.csv                   filename,fold,target,category,esc10,src_file,take
    audio/1-100032-A-0.wav           <fold>-<Freesound id>-<take>-<target>

All clips of a recording are in one fold. Which fold is for what is not official: benchmarks use each as test in
turn. Here fold 5 is test, fold 4 valid, unless told otherwise.
"""

from __future__ import annotations

from pathlib import Path

from sharding.sources.clip import Clip
from sharding.sources.labels import caption_from_labels
from sharding.sources.table import refuse_absent, table_rows
from sharding.sources.tree import list_audio

_COLUMNS = ("filename", "fold", "category", "esc10", "src_file")


def esc50(
    path: str | Path, *, test_fold: int = 5, valid_fold: int = 4, only_esc10: bool = False
) -> list[Clip]:
    """All clips, by fold.  only_esc10: the ten classes that are under CC BY."""
    folds = {"test": test_fold, "valid": valid_fold}
    if not {test_fold, valid_fold} <= set(range(1, 6)) or test_fold == valid_fold:
        raise ValueError(f"ESC-50 has the folds 1 to 5, and the two must differ: got {folds}")
    tree = list_audio(path)
    table = tree.file("esc50.csv")
    split_of_fold = {str(test_fold): "test", str(valid_fold): "valid"}
    clips: list[Clip] = []
    absent: list[tuple[int, str]] = []
    for line, row in table_rows(table, _COLUMNS):
        if only_esc10 and row["esc10"].strip().lower() != "true":
            continue
        name = tree.audio_named(row["filename"], "audio")
        if name is None:
            absent.append((line, row["filename"]))
            continue
        attributes = {
            "description": caption_from_labels([row["category"]]),
            "labels": [row["category"]],
            "fold": int(row["fold"]),
        }
        split = split_of_fold.get(row["fold"].strip(), "train")
        clips.append(Clip(name, tree.root / name, attributes, split, group=row["src_file"]))
    refuse_absent(table, absent)
    if not clips:
        raise ValueError(f"{table} names no files")
    return clips
