"""Training a band: the original's three steps again; a resumed run forgets nothing; what the checkpoint holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_audio.batch import AudioBatch
from lightning_audio.checkpoints.audiocraft.codec import convert_state
from lightning_audio.checkpoints.audiocraft.mbd import RULES
from lightning_audio.checkpoints.keymap import load_strict, rename_keys
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.codec.quantizer import ResidualVectorQuantizer
from lightning_audio.codec.seanet import SEANetDecoder, SEANetEncoder
from lightning_audio.diffusion.band import BandDiffusion
from lightning_audio.diffusion.processor import BandProcessor
from lightning_audio.diffusion.schedule import NoiseSchedule
from lightning_audio.diffusion.task import DiffusionTask
from lightning_audio.hashing import weights_hash

ADAM = partial(torch.optim.Adam, lr=2e-4, betas=(0.9, 0.999))
MakeBand = Callable[..., BandDiffusion]


class Record(L.Callback):
    """What each step logged by itself."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self.steps.append({name: value.item() for name, value in trainer.callback_metrics.items()})


class Stream(IterableDataset[AudioBatch]):
    """Batches without a known end, as the datamodules give them."""

    def __init__(self, batches: list[AudioBatch]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[AudioBatch]:
        return iter(self.batches)


def fit(task: DiffusionTask, batches: list[AudioBatch], folder: Path, **options: Any) -> Record:
    record = Record()
    ckpt_path, valid = options.pop("ckpt_path", None), options.pop("valid", None)
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[record],
        default_root_dir=folder,
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


def batch_of(wav: Tensor, sample_rate: int = 16000, codes: Tensor | None = None) -> AudioBatch:
    names = [str(item) for item in range(len(wav))]
    return AudioBatch(
        keys=names, sample_rate=sample_rate, attributes=[{} for _ in names], wav=wav, codes=codes
    )


def some_batch(seed: int) -> AudioBatch:
    return batch_of(0.1 * torch.randn(4, 1, 3200, generator=torch.Generator().manual_seed(seed)))


BATCHES = [some_batch(seed) for seed in range(6)]


@pytest.fixture
def make_task(codec: EnCodec, make_band: MakeBand) -> Callable[..., DiffusionTask]:
    def make(**options: Any) -> DiffusionTask:
        band = make_band(1, processor=True)
        assert band.processor is not None
        for value in band.processor.state_dict().values():
            value.zero_()  # it learns from the batches
        band.processor.num_samples = 10
        band.processor.load_state_dict(band.processor.state_dict())
        return DiffusionTask(**{"model": band, "codec": codec, "optimizer": ADAM, **options})

    return make


def test_three_steps_equal_the_original(
    mbd_reference: Callable[[str], dict[str, Any]], read_network: Callable[..., Any], tmp_path: Path
) -> None:
    case = mbd_reference("train_steps")
    shape: dict[str, Any] = {"dim": 16, "num_filters": 2, "ratios": (8, 5, 4, 2), "causal": True}
    codec = EnCodec(
        encoder=SEANetEncoder(**shape),
        decoder=SEANetDecoder(**shape),
        quantizer=ResidualVectorQuantizer(dim=16, num_codebooks=8, cardinality=64),
        sample_rate=24000,
    )
    load_strict(codec, convert_state(case["inputs"]["codec_state"]))
    band = BandDiffusion(
        network=read_network(case["state_dict"]),
        schedule=NoiseSchedule(),
        sample_rate=24000,
        band=1,
        processor=BandProcessor(sample_rate=24000, num_bands=4, num_samples=10),
    )
    seed = case["inputs"]["seed"]
    task = DiffusionTask(model=band, codec=codec, optimizer=ADAM, num_codebooks=4, seed=seed)
    batch = batch_of(case["inputs"]["x"], 24000)
    record = fit(task, [batch], tmp_path, max_steps=3)
    assert len(record.steps) == 3
    for ours, theirs in zip(record.steps, case["outputs"]["metrics"], strict=True):
        for name, value in theirs.items():
            assert ours[f"train/{name}"] == pytest.approx(value, rel=1e-4), name
    final = case["outputs"]["final"]
    weights = band.network.state_dict()
    for name, value in rename_keys(final["tensors"], RULES).items():
        torch.testing.assert_close(
            weights[name], value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
    sums = rename_keys({name: torch.tensor(pair) for name, pair in final["sums"].items()}, RULES)
    for name, pair in sums.items():  # sum and sum of magnitudes of every weight
        value = weights[name].double()
        assert value.sum().item() == pytest.approx(pair[0].item(), abs=1e-4 * pair[1].item()), name
        assert value.abs().sum().item() == pytest.approx(pair[1].item(), rel=1e-4), name
    assert band.processor is not None
    for name in ("counts", "sum_x", "sum_x2", "sum_target_x2"):
        wanted = case["outputs"]["processor"][name]
        torch.testing.assert_close(band.processor.get_buffer(name), wanted, rtol=1e-4, atol=1e-6)


def test_a_resumed_run_goes_on_as_if_nothing_had_happened(
    make_task: Callable[..., DiffusionTask], tmp_path: Path
) -> None:
    whole, first, second = make_task(), make_task(), make_task(seed=99)
    record = fit(whole, BATCHES, tmp_path, max_steps=6)
    fit(first, BATCHES[:2], tmp_path, max_steps=2)  # in the middle of the statistics
    first.trainer.save_checkpoint(tmp_path / "third.ckpt")
    rest = fit(second, BATCHES[2:], tmp_path, max_steps=6, ckpt_path=tmp_path / "third.ckpt")
    assert [s["train/loss"] for s in rest.steps] == [s["train/loss"] for s in record.steps[2:]]
    for (name, ours), theirs in zip(
        second.model.state_dict().items(), whole.model.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    assert whole.ema is not None
    assert second.ema is not None
    torch.testing.assert_close(second.ema.average, whole.ema.average, rtol=0, atol=0)


def test_what_the_checkpoint_holds(
    make_task: Callable[..., DiffusionTask], codec: EnCodec, tmp_path: Path
) -> None:
    task = make_task()
    fit(task, BATCHES[:3], tmp_path, max_steps=3)
    task.trainer.save_checkpoint(tmp_path / "three.ckpt")
    checkpoint = torch.load(tmp_path / "three.ckpt", weights_only=True)
    names = set(checkpoint["state_dict"])
    assert {"model.processor.counts", "model.processor.sum_x2", "model.network.condition_proj.bias"} <= names
    assert all(name.startswith("model.") for name in names)  # no codec
    assert checkpoint["state_dict"]["model.processor.counts"].item() == 12
    assert checkpoint["codec_hash"] == weights_hash(codec)
    # The averages are of the network's weights, under the names that they have in the model; not of statistics.
    averages = checkpoint["ema"]["average"]
    assert {f"model.{name}" for name in averages} == {n for n in names if n.startswith("model.network.")}
    with torch.no_grad():
        next(codec.parameters()).add_(1)
    with pytest.raises(ValueError, match="trained with codec"):
        make_task(codec=codec).on_load_checkpoint(checkpoint)


def test_validation_has_the_same_noise_every_time_and_learns_no_statistics(
    make_task: Callable[..., DiffusionTask], tmp_path: Path
) -> None:
    task = make_task(optimizer=partial(ADAM, lr=0.0))
    seen: list[float] = []

    class Scores(L.Callback):
        def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            seen.append(trainer.callback_metrics["valid/loss"].item())

    record = Scores()
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[record],
        default_root_dir=tmp_path,
        max_epochs=-1,
        max_steps=5,
        val_check_interval=1,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
    )
    loaders = [DataLoader(Stream(items), batch_size=None) for items in (BATCHES[:5], BATCHES[5:])]
    trainer.fit(task, *loaders)
    assert len(seen) == 5
    assert seen[3] == seen[4]  # the statistics are complete after three batches
    assert task.model.processor is not None
    assert task.model.processor.num_seen() == 12


def test_codes_beside_the_audio_are_used_instead_of_the_encoder(
    make_task: Callable[..., DiffusionTask], codec: EnCodec, tmp_path: Path
) -> None:
    wav = BATCHES[0].wav
    assert wav is not None
    codes = codec.encode(wav).codes
    losses = [
        fit(make_task(), [batch], tmp_path, max_steps=1).steps[0]["train/loss"]
        for batch in (BATCHES[0], batch_of(wav, codes=codes), batch_of(wav, codes=(codes + 1) % 32))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert abs(losses[0] - losses[2]) > 1e-6


def test_it_learns(make_task: Callable[..., DiffusionTask], tmp_path: Path) -> None:
    """The error of an estimate that is always 0 is 1."""
    task = make_task(optimizer=partial(ADAM, lr=1e-2))
    steps = fit(task, [BATCHES[0]] * 100, tmp_path, max_steps=100).steps
    assert sum(step["train/loss"] for step in steps[-20:]) / 20 < 0.8


def test_mixed_precision_trains(make_task: Callable[..., DiffusionTask], tmp_path: Path) -> None:
    exact = fit(make_task(), BATCHES[:2], tmp_path, max_steps=2).steps
    mixed = fit(make_task(), BATCHES[:2], tmp_path, max_steps=2, precision="bf16-mixed").steps
    for one, other in zip(exact, mixed, strict=True):
        assert one["train/loss"] == pytest.approx(other["train/loss"], rel=0.02)


def test_bad_settings_and_batches_are_refused(
    make_task: Callable[..., DiffusionTask],
    make_band: MakeBand,
    make_codec: Callable[..., EnCodec],
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match="the band has sample_rate 16000, the codec 24000"):
        make_task(codec=make_codec(sample_rate=24000))
    with pytest.raises(ValueError, match="8000 Hz, the band wants 16000 Hz"):
        fit(make_task(), [batch_of(torch.zeros(1, 1, 3200), 8000)], tmp_path, max_steps=1)
    few = torch.zeros(4, 2, 10, dtype=torch.long)
    with pytest.raises(ValueError, match="codes have 2 codebooks, the band learns from 4"):
        fit(make_task(), [batch_of(torch.zeros(4, 1, 3200), codes=few)], tmp_path, max_steps=1)
    task = make_task()
    with torch.no_grad():
        task.model.network.step_embedding.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="nan at step 0"):
        fit(task, BATCHES[:1], tmp_path, max_steps=1)
