"""The table of clips: comes back equal, and does not lead out of its folder."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from eval.clip_table import CLIPS_FILE, ClipRow, load_clips, save_clips


def test_comes_back_equal(tmp_path: Path) -> None:
    rows = [
        ClipRow("a", "rain – früh", "generated/a.flac", {"SI-SDR": 3.25, "CLAP score": -0.1}),
        ClipRow("b"),
    ]
    save_clips(tmp_path, rows)
    assert load_clips(tmp_path) == rows


def test_a_score_that_is_none_stays_so(tmp_path: Path) -> None:
    save_clips(tmp_path, [ClipRow("a", scores={"SI-SDR": math.nan})])
    assert "NaN" not in (tmp_path / CLIPS_FILE).read_text()
    assert math.isnan(load_clips(tmp_path)[0].scores["SI-SDR"])


def test_absent_is_empty(tmp_path: Path) -> None:
    assert load_clips(tmp_path) == []


def test_two_clips_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 clips have 1 names; 'a'"):
        save_clips(tmp_path, [ClipRow("a"), ClipRow("a")])


@pytest.mark.parametrize("audio", ["../secret.wav", "/etc/passwd", "x/../../y.wav"])
def test_audio_outside_of_the_folder_is_refused(tmp_path: Path, audio: str) -> None:
    save_clips(tmp_path, [ClipRow("a", audio=audio)])
    with pytest.raises(ValueError, match="outside"):
        load_clips(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no table"),
        ("[]", "version None"),
        ('{"schema_version": 99}', "version 99, this program reads version 1"),
        (json.dumps({"schema_version": 1, "clips": [{"key": "a"}]}), "no whole table"),
        (
            json.dumps(
                {
                    "schema_version": 1,
                    "clips": [{"key": "a", "prompt": "", "audio": None, "scores": {"x": "y"}}],
                }
            ),
            "no whole table",
        ),
    ],
)
def test_what_is_no_table(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / CLIPS_FILE).write_text(text)
    with pytest.raises(ValueError, match=message):
        load_clips(tmp_path)
