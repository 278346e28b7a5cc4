"""The whole road on real components at the smallest size, killed once on its way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import lightning_audio
from eval.card import Card
from experiments.cli import main
from lightning_audio.audio import read

SMALL = [
    "corpus.num_pieces=36",
    "num_generations=6",
    "batch_size=6",
    'codec_overrides=["trainer.max_steps=30","trainer.val_check_interval=15",'
    '"callbacks.last.every_n_train_steps=2","data.batch_size=4"]',
    'lm_overrides=["trainer.max_steps=6","trainer.val_check_interval=3",'
    '"callbacks.last.every_n_train_steps=2","task.schedule.warmup_steps=2"]',
]


def kill_while_the_codec_trains(out: Path) -> None:
    """A first life of the quickstart, ended by SIGKILL as soon as there is a checkpoint."""
    # A W&B service of its own, which dies with it: that of this process would hold its run for ever.
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    command = [sys.executable, "-m", "experiments.cli", "quickstart", "--out", out, *SMALL]
    process = subprocess.Popen(command, env=environment)
    deadline = time.monotonic() + 120
    while not (out / "codec" / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None, "it ended before its first checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()


@pytest.mark.slow
def test_the_whole_road(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "quick"
    kill_while_the_codec_trains(out)
    assert main(["quickstart", "--out", str(out), *SMALL]) == 0
    printed = capsys.readouterr().out
    assert "shards: done already" in printed
    assert "going on from" in printed
    assert "report.html" in printed
    card = Card.load(out / "evaluation" / "card.json")
    names = [measurement.name for measurement in card.measurements]
    assert {"SI-SDR", "Cross-entropy, codebook 4", "Text steering, tempo"} <= set(names)
    page = (out / "evaluation" / "report.html").read_text()
    assert page.count("<audio") >= 12
    wav, sample_rate = read(out / "evaluation" / "generated" / "0000.flac")
    assert (sample_rate, wav.shape) == (16000, (1, 64000))

    # Two trainings in one process, each in a W&B run of its own; the first had two lives.
    lives = {run: len(list((out / run / "wandb").glob("offline-run-*"))) for run in ("codec", "musicgen")}
    assert lives == {"codec": 2, "musicgen": 1}

    # Again: every stage is skipped.
    assert main(["quickstart", "--out", str(out), *SMALL]) == 0
    assert capsys.readouterr().out.count("done already") == 7

    # A lost last stage is done again, and only that one.
    log = json.loads((out / "stages.json").read_text())
    log["done"] = [record for record in log["done"] if record["name"] != "evaluation"]
    (out / "stages.json").write_text(json.dumps(log))
    assert main(["quickstart", "--out", str(out), *SMALL]) == 0
    assert capsys.readouterr().out.count("done already") == 6

    # The model opens from its run and from its package, and says the same with the same seed.
    settings = {"duration": 1.0, "seed": 3}
    first = lightning_audio.load(out / "musicgen", device="cpu").generate(["a slow low organ"], **settings)
    second = lightning_audio.load(out / "model", device="cpu").generate(["a slow low organ"], **settings)
    assert first.shape == (1, 1, 16000)
    assert torch.equal(first, second)
