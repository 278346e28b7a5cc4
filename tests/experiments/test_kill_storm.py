"""Twenty kills at random steps: what such a run reads, loses and becomes is that of a run that was left alone."""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from datamodules.journal import read_audit
from experiments.cli import main
from lightning_audio import audio
from lightning_audio.checkpoints.native import write_native
from lightning_audio.checkpoints.stored import StoredModel, build

KILLS, STEPS, BATCH = 20, 120, 4
CODEC = {
    "_target_": "lightning_audio.codec.encodec.EnCodec",
    "sample_rate": 16_000,
    "encoder": {"_target_": "lightning_audio.codec.seanet.SEANetEncoder", "num_filters": 2, "dim": 8},
    "decoder": {"_target_": "lightning_audio.codec.seanet.SEANetDecoder", "num_filters": 2, "dim": 8},
    "quantizer": {
        "_target_": "lightning_audio.codec.quantizer.ResidualVectorQuantizer",
        "dim": 8,
        "num_codebooks": 4,
        "cardinality": 256,
    },
}


def make_codes(folder: Path) -> list[str]:
    """Shards of codes of noise, and the overrides that name them and their codec."""
    generator = torch.Generator().manual_seed(0)
    for i in range(31):  # no multiple of the batch: batches cross the ends of epochs
        path = folder / "clips" / ("train" if i < 29 else "valid") / f"clip{i:02d}.wav"
        audio.write(path, 0.1 * torch.randn(1, 24_000, generator=generator), 16_000)
        path.with_suffix(".json").write_text(json.dumps({"description": f"noise {i} {i % 3}"}))
    torch.manual_seed(0)
    write_native(StoredModel({"codec": CODEC}, {"codec": build(CODEC).state_dict()}), folder / "codec")
    assert main(["shard", str(folder / "clips"), str(folder / "shards"), "--samples-per-shard", "5"]) == 0
    assert (
        main(["encode", str(folder / "shards"), str(folder / "codes"), "--codec", str(folder / "codec")]) == 0
    )
    return [f"data.path={folder / 'codes'}", f"codec_source={folder / 'codec'}"]


def command(run: Path, given: list[str]) -> list[str]:
    overrides = {
        "experiment": "quickstart_musicgen",
        "run_dir": run,
        "wandb.mode": "disabled",
        "trainer.max_steps": STEPS,
        "trainer.val_check_interval": 25,
        "trainer.log_every_n_steps": 1,
        "trainer.accelerator": "cpu",
        "trainer.devices": 1,
        "callbacks.last.every_n_train_steps": 4,
        "task.schedule.warmup_steps": 10,
        "data.batch_size": BATCH,
        "data.segment_duration": 1.0,
        "data.num_workers": 1,
        "++data.audit": True,
        "++lm.dim": 16,
        "++lm.num_heads": 2,
        "++lm.num_layers": 1,
        "++lm.conditioning.conditioners.description.dropout": 0.1,
    }
    words = [f"{name}={value}" for name, value in overrides.items()]
    return [sys.executable, "-m", "experiments.cli", "train", *words, *given]


def life(run: Path, given: list[str], *, killed_at: int | None) -> None:
    """One process, until the run ends, or until SIGKILL once so many batches were given out to training."""
    process = subprocess.Popen(command(run, given))
    deadline = time.monotonic() + 600
    while process.poll() is None:
        assert time.monotonic() < deadline
        if killed_at is not None and len(read_audit(run).keys) >= killed_at * BATCH:
            process.kill()
        time.sleep(0.01)
    assert process.returncode == (0 if killed_at is None else -9)


def losses(run: Path) -> dict[int, set[str]]:
    """Step -> what all lives of the run logged as its loss."""
    found: dict[int, set[str]] = {}
    for log in (run / "logs").glob("version_*/metrics.csv"):
        for row in csv.DictReader(log.open()):
            if row.get("train/loss"):
                found.setdefault(int(row["step"]), set()).add(row["train/loss"])
    return found


@pytest.mark.proof
def test_twenty_kills_change_nothing(tmp_path: Path) -> None:
    given = make_codes(tmp_path)
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    life(calm, given, killed_at=None)
    for step in sorted(random.Random(0).sample(range(1, STEPS), KILLS)):
        life(stormy, given, killed_at=step)
    life(stormy, given, killed_at=None)

    assert read_audit(stormy) == read_audit(calm)
    assert sorted(read_audit(calm).keys) == list(range(STEPS * BATCH))
    assert losses(stormy) == losses(calm)
    assert all(len(values) == 1 for values in losses(calm).values())
    assert len(losses(calm)) == STEPS
    last = [torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (calm, stormy)]
    torch.testing.assert_close(last[1]["state_dict"], last[0]["state_dict"], rtol=0, atol=0)
