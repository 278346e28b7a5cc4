"""A mixture trained by real processes, killed at any moment, on changing numbers of them: every clip once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from datamodules.journal import read_audit
from datamodules.mixture import MixtureDataModule
from datamodules.tokens import TokenDataModule
from sharding.schema import ShardIndex

ROOT = Path(__file__).resolve().parents[2]
STEPS, BATCH = 120, 4
SIZES = {"music": [9, 2, 14], "sounds": [3, 8]}

PROGRAM = """
import sys, time, warnings
from pathlib import Path
import lightning as L, torch
from lightning.pytorch.callbacks import ModelCheckpoint
from datamodules.mixture import MixtureDataModule
from datamodules.tokens import TokenDataModule
from experiments.training.checkpointing import AtomicCheckpointIO, newest_checkpoint

class Task(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
    def training_step(self, batch, batch_idx):
        time.sleep(0.03)  # so that there is a middle to be killed in
        return self.layer(batch.codes.float().mean().reshape(1, 1)).sum()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-9)

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    folder, run, devices, workers, steps, batch = Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:])
    data = MixtureDataModule(
        {name: {"path": folder / name} for name in ("music", "sounds")}, each=TokenDataModule,
        num_frames=8, batch_size=batch, seed=3, block=16, weights={"music": 2, "sounds": 1.5},
        num_workers=workers, audit=True, max_bad_ratio=0.9, log_folder=run, epoch_batches=11,
    )
    trainer = L.Trainer(
        accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_steps=steps,
        max_epochs=-1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=run, use_distributed_sampler=False, plugins=[AtomicCheckpointIO()],
        callbacks=[ModelCheckpoint(run / "checkpoints", every_n_train_steps=5, save_top_k=1, monitor=None)],
        limit_val_batches=0,
    )
    trainer.fit(Task(), datamodule=data, ckpt_path=newest_checkpoint(run / "checkpoints"))
    print("finished at", trainer.global_step)
"""


def mixture(folder: Path, **settings: object) -> MixtureDataModule:
    """The same as the program's."""
    own = {name: {"path": folder / name} for name in SIZES}
    return MixtureDataModule(
        own,
        each=TokenDataModule,
        num_frames=8,
        batch_size=BATCH,
        seed=3,
        block=16,
        weights={"music": 2, "sounds": 1.5},
        max_bad_ratio=0.9,
        **settings,
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:left out")
def test_no_clip_twice_and_none_lost_over_sigkill_and_other_worlds(
    make_codes: Callable[..., Path], tmp_path: Path
) -> None:
    for name, sizes in SIZES.items():
        make_codes(tmp_path / name, sizes)
    tar = tmp_path / "music/train/000002.tar"
    index, raw = ShardIndex.load(tar.with_suffix(".index.json")), bytearray(tar.read_bytes())
    start = int(index.parts["codes.npy"][5, 0])
    raw[start : start + 10] = b"?" * 10
    tar.write_bytes(raw)
    (tmp_path / "program.py").write_text(PROGRAM)
    run = tmp_path / "run"
    audits = [run / f"audit-rank{rank}.jsonl" for rank in range(2)]

    def steps_given() -> int:
        return sum(file.read_bytes().count(b"\n") for file in audits if file.is_file())

    said = ""
    for devices, workers, lines in ((1, 2, 23), (2, 2, 41), (1, 0, 10**9)):
        before = steps_given()
        arguments = [str(value) for value in (tmp_path, run, devices, workers, STEPS, BATCH)]
        life = subprocess.Popen(
            [sys.executable, str(tmp_path / "program.py"), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        try:
            deadline = time.monotonic() + 120
            while life.poll() is None and steps_given() < before + lines and time.monotonic() < deadline:
                time.sleep(0.01)
        finally:
            alive = life.poll() is None
            if alive:
                os.killpg(life.pid, signal.SIGKILL)
            said, _ = life.communicate()
        assert alive == (lines < 10**9), said
    assert f"finished at {STEPS}" in said

    audit = read_audit(run)
    positions = range(STEPS * BATCH)
    assert audit.keys.keys() >= set(positions)
    # The stream of a run that nobody ever killed, key for key.
    whole = mixture(tmp_path, log_folder=tmp_path / "whole")
    batches = islice((batch for _ in iter(int, 1) for batch in whole.train_dataloader()), STEPS)
    assert [audit.keys[position] for position in positions] == [
        key for batch in batches for key in batch.keys
    ]
    for name, sizes in SIZES.items():
        own = [position for position in positions if audit.keys[position].startswith(f"{name}/")]
        total = sum(sizes)
        assert len(own) > 5 * total
        for first in range(0, len(own) - total + 1, total):
            seen = Counter(audit.keys[p] for p in own[first : first + total] if p not in audit.replaced)
            assert set(seen.values()) == {1}
            assert len(seen) == total - (name == "music")  # one clip of music cannot be read
    named = {line for file in run.glob("quarantine-*") for line in file.read_text().splitlines()}
    assert {line.split('"key": ')[1].split(",")[0] for line in named} == {'"music/c016"'}
