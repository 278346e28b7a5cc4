"""The stream under a real Trainer: stopped, killed, resumed, on other workers and other world sizes."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from datamodules.tokens import TokenDataModule
from lightning_audio.batch import AudioBatch

BATCH = 4
STEPS = 20  # 80 samples of 23: more than three epochs


class Recorder(L.LightningModule):
    """Learns next to nothing, and remembers the keys and the first codes of every training batch."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.fail_at = fail_at
        self.seen: list[tuple[str, ...]] = []
        self.firsts: list[list[int]] = []

    def training_step(self, batch: AudioBatch, batch_idx: int) -> torch.Tensor:
        assert batch.codes is not None
        if self.fail_at == len(self.seen):
            raise RuntimeError("killed in the middle of a step")
        self.seen.append(tuple(batch.keys))
        self.firsts.append(batch.codes[:, :, 0].flatten().tolist())
        return self.layer(batch.codes.float().mean().reshape(1, 1)).sum()

    def validation_step(self, batch: AudioBatch, batch_idx: int) -> None:
        self.log("valid", batch.codes.float().mean(), batch_size=len(batch))  # type: ignore[union-attr]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-9)


def data(path: Path, **settings: Any) -> TokenDataModule:
    return TokenDataModule(path, **{"batch_size": BATCH, "num_frames": 20, "seed": 5, **settings})


def trainer(folder: Path, steps: int, **settings: Any) -> L.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return L.Trainer(accelerator="cpu", max_steps=steps, default_root_dir=folder, **quiet, **settings)


@pytest.fixture(scope="module")
def whole(code_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    task = Recorder()
    trainer(tmp_path_factory.mktemp("run"), STEPS).fit(task, datamodule=data(code_shards))
    return task


def test_epochs_follow_each_other_without_a_gap(whole: Recorder) -> None:
    keys = [key for batch in whole.seen for key in batch]
    assert len(keys) == STEPS * BATCH
    for epoch in range(3):
        assert set(Counter(keys[epoch * 23 : (epoch + 1) * 23]).values()) == {1}
    assert len({tuple(keys[epoch * 23 : (epoch + 1) * 23]) for epoch in range(3)}) == 3


@pytest.mark.parametrize("stop", [1, 3, 5, 7, 13])
@pytest.mark.parametrize("workers", [(0, 0), (0, 2), (2, 0)])
def test_a_run_resumes_on_the_next_sample(
    whole: Recorder, code_shards: Path, stop: int, workers: tuple[int, int], tmp_path: Path
) -> None:
    first, second = Recorder(), Recorder()
    run = trainer(tmp_path, stop)
    run.fit(first, datamodule=data(code_shards, num_workers=workers[0]))
    run.save_checkpoint(tmp_path / "last.ckpt")
    trainer(tmp_path, STEPS).fit(
        second, datamodule=data(code_shards, num_workers=workers[1]), ckpt_path=tmp_path / "last.ckpt"
    )
    assert first.seen + second.seen == whole.seen
    assert first.firsts + second.firsts == whole.firsts  # the random crops too


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_killed_in_a_step_repeats_just_that_step(
    whole: Recorder, code_shards: Path, workers: int, tmp_path: Path
) -> None:
    first, second = Recorder(fail_at=7), Recorder()
    run = trainer(tmp_path, STEPS)
    with pytest.raises(RuntimeError, match="killed"):
        run.fit(first, datamodule=data(code_shards, num_workers=workers))
    run.save_checkpoint(tmp_path / "last.ckpt")
    trainer(tmp_path, STEPS).fit(second, datamodule=data(code_shards), ckpt_path=tmp_path / "last.ckpt")
    assert first.seen + second.seen == whole.seen


def test_checkpoints_saved_by_callback_amid_and_after_an_epoch(
    whole: Recorder, code_shards: Path, tmp_path: Path
) -> None:
    saver = L.pytorch.callbacks.ModelCheckpoint(
        tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}"
    )
    trainer(tmp_path, 12, callbacks=[saver]).fit(Recorder(), datamodule=data(code_shards))
    for step in (4, 5, 6, 10, 11):
        task = Recorder()
        trainer(tmp_path, STEPS).fit(
            task, datamodule=data(code_shards), ckpt_path=tmp_path / f"step={step}.ckpt"
        )
        assert task.seen == whole.seen[step:]


def test_global_batches_are_the_same_under_accumulation(
    whole: Recorder, code_shards: Path, tmp_path: Path
) -> None:
    task = Recorder()
    trainer(tmp_path, 6, accumulate_grad_batches=2).fit(task, datamodule=data(code_shards))
    assert [a + b for a, b in zip(task.seen[::2], task.seen[1::2], strict=True)] == whole.seen[:6]


class Rank:
    """What a data module asks of a trainer, for one rank of several."""

    def __init__(self, rank: int, world_size: int, folder: Path) -> None:
        self.distributed_sampler_kwargs = {"rank": rank, "num_replicas": world_size}
        self.accumulate_grad_batches = 1
        self.default_root_dir = str(folder)
        self.fit_loop = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False).fit_loop

    def finish_step(self) -> None:
        self.fit_loop.epoch_loop.batch_progress.total.processed += 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("worlds", [(1, 2), (2, 1), (4, 2), (2, 4)])
def test_another_world_size_takes_over(
    whole: Recorder, code_shards: Path, worlds: tuple[int, int], tmp_path: Path
) -> None:
    stop, state = 7, None
    steps: list[tuple[str, ...]] = []
    for world_size, count in zip(worlds, (stop, STEPS - stop), strict=True):
        shares: list[list[list[str]]] = []
        states = []
        for rank in range(world_size):
            module = data(code_shards)
            module.trainer = Rank(rank, world_size, tmp_path)  # type: ignore[assignment]
            module.setup("fit")
            loader = module.train_dataloader()
            if state is not None:
                loader.load_state_dict(state)
            stream = (batch for _ in range(9) for batch in loader)  # Lightning's epochs, one after the other
            shares.append([])
            for batch in islice(stream, count):
                shares[-1].append(batch.keys)
                module.trainer.finish_step()  # type: ignore[union-attr]
            states.append(loader.state_dict())
        assert all(saved == states[0] for saved in states)
        state = states[0]
        steps += [tuple(key for share in step for key in share) for step in zip(*shares, strict=True)]
    assert steps == whole.seen


def test_validation_sees_each_clip_once_and_the_same_on_every_run(code_shards: Path, tmp_path: Path) -> None:
    batches = list(data(code_shards, eval_batch_size=2, seed=1).val_dataloader())
    again = list(data(code_shards, eval_batch_size=2, seed=2, num_workers=1).val_dataloader())
    assert sorted(key for batch in batches for key in batch.keys) == [f"valid_clip{i}" for i in range(23, 28)]
    for one, other in zip(batches, again, strict=True):
        assert one.keys == other.keys
        assert torch.equal(one.codes, other.codes)  # type: ignore[arg-type]


def test_ranks_validate_in_equal_numbers_of_steps(code_shards: Path, tmp_path: Path) -> None:
    shares = []
    for rank in range(2):
        module = data(code_shards, eval_batch_size=2)
        module.trainer = Rank(rank, 2, tmp_path)  # type: ignore[assignment]
        shares.append([key for batch in module.val_dataloader() for key in batch.keys])
    assert len(shares[0]) == len(shares[1]) == 3
    assert set(shares[0]) | set(shares[1]) == {f"valid_clip{i}" for i in range(23, 28)}


def test_a_split_that_is_absent_is_not_validated_on(code_shards: Path) -> None:
    assert data(code_shards).test_dataloader() == []


def test_what_does_not_fit_is_refused_before_any_work(code_shards: Path, tmp_path: Path) -> None:
    module = data(code_shards, batch_size=5)
    with pytest.raises(ValueError, match=r"global batch of 5 cannot be divided evenly by 1 ranks x 2"):
        trainer(tmp_path, 1, accumulate_grad_batches=2).fit(Recorder(), datamodule=module)
    state = {"position": 3, "seed": 6, "epoch_samples": 23}
    with pytest.raises(ValueError, match="seed was 6, now it is 5"):
        data(code_shards).train_dataloader().load_state_dict(state)
