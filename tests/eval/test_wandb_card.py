"""A card in W&B, offline: values, the table with audio, and the artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import wandb

from eval.bootstrap import Interval
from eval.card import Card, Durations, Measurement
from eval.clip_table import ClipRow, load_clips, save_clips
from eval.wandb_card import log_card
from lightning_audio.audio import write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a card with two clips, one of which has audio."""
    card = Card(
        protocol="quickstart",
        model="runs/größer than/that",
        measurements=[
            Measurement("SI-SDR", 3.0, True, "", "dB", Interval(2.0, 4.0)),
            Measurement("FAD", float("nan"), False, ""),
        ],
        num_clips=2,
        durations=Durations(2.0, 1.0, 1.0),
    )
    card.save(tmp_path / "card" / "card.json")
    write(tmp_path / "card" / "a.wav", torch.zeros(1, 800), 8000)
    save_clips(tmp_path / "card", [ClipRow("a", "rain", "a.wav", {"SI-SDR": 1.0}), ClipRow("b", "wind")])
    return tmp_path / "card"


def test_offline_without_a_key(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    logged: list[dict[str, Any]] = []
    artifacts: list[Any] = []
    run = wandb.init(project="test", mode="offline", dir=tmp_path, settings=wandb.Settings(silent=True))
    log, log_artifact = run.log, run.log_artifact
    monkeypatch.setattr(run, "log", lambda values: (logged.append(values), log(values)))
    monkeypatch.setattr(run, "log_artifact", lambda a: (artifacts.append(a), log_artifact(a)))
    log_card(run, Card.load(folder / "card.json"), folder, load_clips(folder))
    run.finish()
    (values,) = logged
    (artifact,) = (a for a in artifacts if a.type == "card")  # W&B makes one of the table, too
    assert values["quickstart/SI-SDR"] == 3.0
    assert values["quickstart/SI-SDR (low)"] == 2.0
    table = values["quickstart/clips"]
    assert table.columns == ["clip", "prompt", "audio", "SI-SDR"]
    assert isinstance(table.data[0][2], wandb.Audio)
    assert [row[:2] + row[3:] for row in table.data] == [["a", "rain", 1.0], ["b", "wind", None]]
    assert table.data[1][2] is None
    assert sorted(artifact.manifest.entries) == ["card.json", "clips.json"]
    assert artifact.name.startswith("card-quickstart-that-")
    assert list(tmp_path.glob("wandb/offline-run-*"))
