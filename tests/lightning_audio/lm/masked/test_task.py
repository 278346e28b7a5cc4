"""Teaching MAGNeT: it learns; padding does not teach; a resumed run forgets nothing; ranks share the codebook."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from lightning_audio.batch import AudioBatch
from lightning_audio.lm.masked import MaskedLM
from lightning_audio.lm.masked.masking import mask_rates, span_mask
from lightning_audio.lm.masked.task import MaskedLMTask

ADAMW = partial(torch.optim.AdamW, lr=1e-3, betas=(0.9, 0.95))


class Stream(IterableDataset[AudioBatch]):
    """Batches without a known end, as the datamodules give them."""

    def __init__(self, batches: list[AudioBatch]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[AudioBatch]:
        return iter(self.batches)


class Record(L.Callback):
    """What each step logged."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.steps.append({"loss": outputs["loss"].item()})


def fit(task: L.LightningModule, batches: list[AudioBatch], folder: Path, **options: Any) -> Record:
    record, valid = Record(), options.pop("valid", None)
    ckpt_path = options.pop("ckpt_path", None)
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[record],
        default_root_dir=folder,
        max_epochs=-1,
        num_sanity_val_steps=0,
        **options,
    )
    loaders = [
        None if items is None else DataLoader(Stream(items), batch_size=None) for items in (batches, valid)
    ]
    trainer.fit(task, *loaders, ckpt_path=ckpt_path, weights_only=True)
    return record


def batch_of_codes(seed: int, num_frames: list[int] | None = None) -> AudioBatch:
    torch.manual_seed(seed)
    return AudioBatch(
        keys=list("abc"),
        sample_rate=32000,
        attributes=[{"description": text} for text in ("a slow piano", "fast drums", "a bell")],
        codes=torch.randint(16, (3, 3, 24)),
        num_frames=torch.tensor(num_frames or [24, 24, 24]),
    )


BATCHES = [batch_of_codes(seed) for seed in range(8)]


@pytest.fixture
def make_task(tiny_magnet: Callable[..., MaskedLM]) -> Callable[..., MaskedLMTask]:
    def make(**options: Any) -> MaskedLMTask:
        settings: dict[str, Any] = {"optimizer": ADAMW, "cfg_dropout": 0.5, "ema_every": 1, **options}
        return MaskedLMTask(model=tiny_magnet(), **settings)

    return make


def test_a_step_is_one_codebook_behind_random_spans(
    make_task: Callable[..., MaskedLMTask], tmp_path: Path
) -> None:
    """The loss of the first step, computed from the same draws by hand."""
    task, twin = make_task(cfg_dropout=0.0), make_task()
    batch = BATCHES[0]
    assert batch.codes is not None
    loss = fit(task, [batch], tmp_path, max_steps=1).steps[0]["loss"]
    stage = twin.stages.randrange(3)
    masked = span_mask(mask_rates(3, twin.masks), num_frames=24, span_length=3, generator=twin.masks)
    conditions = twin.model.conditioning(batch.attributes)
    expected = twin.model.stage_loss(batch.codes, conditions, stage=stage, masked=masked).loss
    assert loss == pytest.approx(expected.item(), rel=1e-6)


def test_a_resumed_run_goes_on_as_if_nothing_had_happened(
    make_task: Callable[..., MaskedLMTask], tmp_path: Path
) -> None:
    whole = make_task()
    losses = [step["loss"] for step in fit(whole, BATCHES, tmp_path, max_steps=8).steps]
    first = make_task()
    fit(first, BATCHES[:4], tmp_path, max_steps=4)
    first.trainer.save_checkpoint(tmp_path / "half.ckpt")
    second = make_task(seed=99)  # what it begins with does not matter
    rest = fit(second, BATCHES[4:], tmp_path, max_steps=8, ckpt_path=tmp_path / "half.ckpt")
    assert [step["loss"] for step in rest.steps] == losses[4:]
    for ours, theirs in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_new_rank_shares_the_codebook_and_has_masks_of_its_own(
    make_task: Callable[..., MaskedLMTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = make_task(), make_task(seed=99)
    old.stages.seed(7)
    monkeypatch.setattr(MaskedLMTask, "global_rank", 1)
    new.start_random_state(old.random_state(), global_step=100)
    assert new.stages.getstate() == old.stages.getstate()
    assert not torch.equal(torch.rand(4, generator=new.masks), torch.rand(4, generator=old.masks))


def test_what_is_past_the_end_does_not_teach(make_task: Callable[..., MaskedLMTask], tmp_path: Path) -> None:
    batches = [batch_of_codes(0, [24, 12, 15]) for _ in range(2)]
    assert batches[1].codes is not None
    batches[1].codes[1, :, 12:] = 3
    batches[1].codes[2, :, 15:] = 0
    losses = [fit(make_task(), [batch] * 3, tmp_path, max_steps=3).steps for batch in batches]
    assert losses[0] == losses[1]


def test_validation_is_the_same_every_time_and_takes_the_codebooks_in_turn(
    make_task: Callable[..., MaskedLMTask], tmp_path: Path
) -> None:
    task = make_task(optimizer=partial(torch.optim.SGD, lr=0.0))
    seen: list[dict[str, float]] = []

    class Watch(L.Callback):
        def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            metrics = trainer.callback_metrics.items()
            seen.append({name: value.item() for name, value in metrics if name.startswith("valid")})

    trainer_options: dict[str, Any] = {
        "max_steps": 6,
        "val_check_interval": 3,
        "check_val_every_n_epoch": None,
    }
    task_callbacks = [Watch()]
    task.configure_callbacks = lambda: task_callbacks  # type: ignore[method-assign]
    fit(task, BATCHES, tmp_path, valid=BATCHES[:6], **trainer_options)
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert {"valid/loss", *(f"valid/cross_entropy_q{k}" for k in (1, 2, 3))} <= seen[0].keys()


def test_it_learns(make_task: Callable[..., MaskedLMTask], tmp_path: Path) -> None:
    """Codes that the text decides: behind the masks they can be told."""
    batch = batch_of_codes(0)
    assert batch.codes is not None
    batch.codes[:] = torch.tensor([3, 14, 15])[:, None, None]
    task = make_task(optimizer=partial(ADAMW, lr=1e-2), cfg_dropout=0.0)
    losses = [step["loss"] for step in fit(task, [batch] * 80, tmp_path, max_steps=80).steps]
    assert sum(losses[:3]) / 3 > 2
    assert sum(losses[-6:]) / 6 < 0.2


def test_a_clip_longer_than_the_masks_is_refused(
    make_task: Callable[..., MaskedLMTask], tmp_path: Path
) -> None:
    batch = AudioBatch(
        keys=["a"], sample_rate=32000, attributes=[{}], codes=torch.zeros(1, 3, 30, dtype=torch.long)
    )
    with pytest.raises(ValueError, match="30 frames are more than the 24"):
        fit(make_task(), [batch], tmp_path, max_steps=1)
