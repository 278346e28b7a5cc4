"""Training: the original's six steps again; a resumed run forgets nothing; padding and averages."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from lightning_audio.batch import AudioBatch
from lightning_audio.checkpoints.audiocraft.lm import convert_state
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.conditioning.conditioning import Conditioning
from lightning_audio.conditioning.text import SubwordTextConditioner
from lightning_audio.hashing import weights_hash
from lightning_audio.lm.loss import CodebookLoss
from lightning_audio.lm.patterns import DelayPattern
from lightning_audio.lm.tasks import OnItsWay, TokenLMTask
from lightning_audio.lm.token_lm import TokenLM
from lightning_audio.optim import cosine_warmup

ADAMW = partial(torch.optim.AdamW, lr=1e-3, betas=(0.9, 0.95), eps=1e-8)


class Record(L.Callback):
    """What each step logged, with the rate it was taken at and the norm of its gradient."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.norm = self.lr = float("nan")  # of a batch that only adds to the gradient

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any
    ) -> None:
        norms = [p.grad.norm() for p in pl_module.parameters() if p.grad is not None]
        self.norm = torch.stack(norms).norm().item()
        self.lr = optimizer.param_groups[0]["lr"]

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        self.steps.append({**metrics, "lr": self.lr, "norm": self.norm})


class Stream(IterableDataset[AudioBatch]):
    """Batches without a known end, as the datamodules give them."""

    def __init__(self, batches: list[AudioBatch]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[AudioBatch]:
        return iter(self.batches)


def fit(task: L.LightningModule, batches: list[AudioBatch], folder: Path, **options: Any) -> Record:
    record = Record()
    ckpt_path = options.pop("ckpt_path", None)
    valid = options.pop("valid", None)
    extra = options.pop("extra", [])
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[record, *extra],
        default_root_dir=folder,
        gradient_clip_val=1.0,
        max_epochs=-1,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        **options,
    )
    loaders = [
        None if items is None else DataLoader(Stream(items), batch_size=None) for items in (batches, valid)
    ]
    trainer.fit(task, *loaders, ckpt_path=ckpt_path, weights_only=True)
    return record


def test_six_steps_equal_the_original(
    reference_path: Callable[..., Path],
    read_text_lm: Callable[..., TokenLM],
    read_codec: Callable[..., EnCodec],
    tmp_path: Path,
) -> None:
    case = torch.load(reference_path("lm_train.pt"), weights_only=True)
    inputs, outputs = case["inputs"], case["outputs"]
    task = TokenLMTask(
        model=read_text_lm(case),
        codec=read_codec(inputs["codec_state"]),
        optimizer=ADAMW,
        schedule=partial(cosine_warmup, warmup_steps=4, total_steps=10),
    )
    task.rng = random.Random(inputs["seed"])
    batch = AudioBatch(
        keys=list("abcd"),
        sample_rate=32000,
        attributes=[{"description": text} for text in inputs["texts"]],
        wav=inputs["audio"],
        num_samples=torch.tensor(inputs["n_frames"]),
    )
    record = fit(task, [batch], tmp_path, max_steps=6)
    assert len(record.steps) == 6
    for ours, theirs in zip(record.steps, outputs["metrics"], strict=True):
        assert ours["train/loss"] == pytest.approx(theirs["ce"], rel=1e-3)
        assert ours["train/perplexity"] == pytest.approx(theirs["ppl"], rel=3e-3)
        assert ours["lr"] == pytest.approx(theirs["lr"])
        assert ours["norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)
        for k in range(1, 5):
            assert ours[f"train/cross_entropy_q{k}"] == pytest.approx(theirs[f"ce_q{k}"], rel=1e-3)
            assert ours[f"train/perplexity_q{k}"] == pytest.approx(theirs[f"ppl_q{k}"], rel=5e-3)
    final = {name: value for name, value in outputs["final"]["tensors"].items() if name != "linears.0.weight"}
    weights = task.model.state_dict()
    for name, value in convert_state(final).items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        weights["heads.weight"][:64], outputs["final"]["tensors"]["linears.0.weight"], rtol=1e-3, atol=1e-4
    )


def tiny_model() -> TokenLM:
    torch.manual_seed(0)
    text = SubwordTextConditioner(dim=8, num_layers=1, num_buckets=64, word_dropout=0.3)
    return TokenLM(
        num_codebooks=4,
        cardinality=64,
        dim=16,
        num_heads=2,
        num_layers=1,
        pattern=DelayPattern([0, 1, 2, 3]),
        conditioning=Conditioning(
            conditioners={"description": text}, dim=16, fuse={"cross": ["description"]}
        ),
    )


def tiny_task(**options: Any) -> TokenLMTask:
    settings: dict[str, Any] = {
        "model": tiny_model(),
        "optimizer": ADAMW,
        "schedule": partial(cosine_warmup, warmup_steps=2, total_steps=8),
        "ema_every": 1,
        "cfg_dropout": 0.5,
        "per_item_dropout": True,
        "merge_fields": ["genre"],
    }
    return TokenLMTask(**{**settings, **options})


def batch_of_codes(seed: int, num_frames: list[int] | None = None) -> AudioBatch:
    torch.manual_seed(seed)
    texts = ["a slow low piano", "fast bright drums", "a bell"]
    return AudioBatch(
        keys=list("abc"),
        sample_rate=32000,
        attributes=[{"description": text, "genre": "rock"} for text in texts],
        codes=torch.randint(64, (3, 4, 9)),
        num_frames=torch.tensor(num_frames or [9, 9, 9]),
    )


BATCHES = [batch_of_codes(seed) for seed in range(8)]


def test_a_resumed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole = tiny_task()
    record = fit(whole, BATCHES, tmp_path, max_steps=8)
    first = tiny_task()
    fit(first, BATCHES[:4], tmp_path, max_steps=4)
    first.trainer.save_checkpoint(tmp_path / "half.ckpt")
    second = tiny_task(seed=99)  # what it begins with does not matter
    for value in second.model.state_dict().values():
        value.zero_()
    rest = fit(second, BATCHES[4:], tmp_path, max_steps=8, ckpt_path=tmp_path / "half.ckpt")
    losses = [step["train/loss"] for step in record.steps]
    assert [step["train/loss"] for step in rest.steps] == losses[4:]
    for (name, ours), theirs in zip(
        second.model.state_dict().items(), whole.model.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    assert whole.ema is not None
    assert second.ema is not None
    torch.testing.assert_close(second.ema.average, whole.ema.average, rtol=0, atol=0)


def test_the_codec_is_in_no_checkpoint_but_its_hash_is(
    reference_path: Callable[..., Path], read_codec: Callable[..., EnCodec], tmp_path: Path
) -> None:
    state = torch.load(reference_path("lm_train.pt"), weights_only=True)["inputs"]["codec_state"]
    codec = read_codec(state)
    task = tiny_task(codec=codec)
    assert task.codec_hash == weights_hash(codec)
    assert all(name.startswith("model.") for name in task.state_dict())
    assert not {id(p) for p in codec.parameters()} & {id(p) for p in task.parameters()}
    fit(task, BATCHES[:1], tmp_path, max_steps=1)
    task.trainer.save_checkpoint(tmp_path / "one.ckpt")
    checkpoint = torch.load(tmp_path / "one.ckpt", weights_only=True)
    assert checkpoint["codec_hash"] == task.codec_hash
    with torch.no_grad():
        next(codec.parameters()).add_(1)
    with pytest.raises(ValueError, match="trained with codec"):
        tiny_task(codec=codec).on_load_checkpoint(checkpoint)


def test_validation_sees_the_averaged_weights_and_training_gets_its_own_back(tmp_path: Path) -> None:
    seen = []

    class Task(TokenLMTask):
        def validation_step(self, batch: AudioBatch, batch_idx: int) -> None:
            seen.append({k: v.clone() for k, v in self.model.state_dict().items()})
            super().validation_step(batch, batch_idx)

    task = Task(model=tiny_model(), optimizer=ADAMW, ema_every=1)
    fit(task, BATCHES[:3], tmp_path, max_steps=3, valid=BATCHES[:2])
    assert task.ema is not None
    averaged = {name: value for name, value in seen[0].items() if name in task.ema.average}
    torch.testing.assert_close(averaged, task.ema.average)
    assert not torch.equal(averaged["heads.weight"], task.model.heads.weight)
    assert "valid/cross_entropy_q4" in task.trainer.callback_metrics


def test_what_is_past_the_end_does_not_teach(tmp_path: Path) -> None:
    batch = batch_of_codes(0, [9, 4, 6])
    assert batch.codes is not None
    changed = batch_of_codes(0, [9, 4, 6])
    assert changed.codes is not None
    changed.codes[1, :, 4:] = 63
    changed.codes[2, :, 6:] = 0
    losses = [fit(tiny_task(), [b], tmp_path, max_steps=1).steps[0]["train/loss"] for b in (batch, changed)]
    assert losses[0] == losses[1]


def test_it_learns(tmp_path: Path) -> None:
    """Codes that the text decides: with it they can be foretold, which no statistics of the codes could."""
    batch = batch_of_codes(0)
    assert batch.codes is not None
    batch.codes[:] = torch.tensor([3, 14, 15])[:, None, None]
    task = tiny_task(schedule=None, optimizer=partial(ADAMW, lr=1e-2), cfg_dropout=0.0)
    steps = fit(task, [batch] * 60, tmp_path, max_steps=60).steps
    assert steps[0]["train/loss"] > 3.5
    assert steps[-1]["train/loss"] < 0.2


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_that_is_no_number_stops_before_it_reaches_a_weight(accumulate: int, tmp_path: Path) -> None:
    class Task(TokenLMTask):
        def _loss(self, batch: AudioBatch, batch_idx: int, *, training: bool) -> CodebookLoss:
            result = super()._loss(batch, batch_idx, training=training)
            bad = torch.tensor(float("nan") if batch.keys[0] == "bad" else 1.0)
            return replace(result, loss=result.loss * bad)

    bad = replace(BATCHES[2], keys=["bad", "b", "c"])
    batches = [*BATCHES[:2], bad, *BATCHES[3:]]
    task = Task(model=tiny_model(), optimizer=ADAMW)
    done = 2 // accumulate
    with pytest.raises(FloatingPointError, match=f"nan at step {done}"):
        fit(task, batches, tmp_path, max_steps=8, accumulate_grad_batches=accumulate)
    good = Task(model=tiny_model(), optimizer=ADAMW)
    fit(good, batches, tmp_path, max_steps=done, accumulate_grad_batches=accumulate)
    for ours, expected in zip(task.parameters(), good.parameters(), strict=True):
        assert torch.equal(ours, expected)


def test_the_loss_is_read_when_the_backward_pass_is_queued(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    events: list[str] = []
    value = OnItsWay.value

    def read(self: OnItsWay) -> float:
        events.append("read")
        return value(self)

    class Watch(L.Callback):
        def on_before_backward(self, *args: Any) -> None:
            events.append("backward")

        def on_before_optimizer_step(self, *args: Any) -> None:
            events.append("step")

    monkeypatch.setattr(OnItsWay, "value", read)
    fit(tiny_task(), BATCHES[:2], tmp_path, max_steps=2, extra=[Watch()])
    assert events == ["backward", "read", "step"] * 2


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    task = tiny_task()
    fit(task, BATCHES[:1], tmp_path, max_steps=1)
    with torch.no_grad():
        task.model.heads.weight[3, 5] = float("inf")
    with pytest.raises(FloatingPointError, match="not saved: weights are not finite at step 1"):
        task.trainer.save_checkpoint(tmp_path / "bad.ckpt")
    assert not (tmp_path / "bad.ckpt").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_number_arrives_from_a_gpu_that_goes_on_working() -> None:
    number = OnItsWay(torch.tensor(3.5, device="cuda"))
    later = torch.randn(4096, 4096, device="cuda")
    for _ in range(50):
        later = (later @ later).sigmoid()
    done = torch.cuda.Event()
    done.record()
    assert number.value() == 3.5
    assert not done.query()


def test_bad_batches_are_refused(
    read_codec: Callable[..., EnCodec], reference_path: Callable[..., Path], tmp_path: Path
) -> None:
    wav = AudioBatch(keys=["a"], sample_rate=16000, attributes=[{}], wav=torch.zeros(1, 1, 6400))
    with pytest.raises(ValueError, match="no codes, and the task no codec"):
        fit(tiny_task(), [wav], tmp_path, max_steps=1)
    state = torch.load(reference_path("lm_train.pt"), weights_only=True)["inputs"]["codec_state"]
    with pytest.raises(ValueError, match=r"16000 Hz audio, the codec wants 32000 Hz"):
        fit(tiny_task(codec=read_codec(state)), [wav], tmp_path, max_steps=1)
