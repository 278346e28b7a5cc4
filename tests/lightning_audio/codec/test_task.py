"""The codec's training under Lightning."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.multiprocessing as mp
from torch.utils.data import DataLoader

from lightning_audio.batch import AudioBatch
from lightning_audio.codec.balancer import Balancer
from lightning_audio.codec.discriminators import MultiScaleSTFTDiscriminator
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.codec.losses import L1Loss, MultiScaleMelLoss
from lightning_audio.codec.quantizer import ResidualVectorQuantizer
from lightning_audio.codec.seanet import SEANetDecoder, SEANetEncoder
from lightning_audio.codec.task import CodecTask
from lightning_audio.optim import linear_warmup

RATE = 8000


def make_task(**options: Any) -> CodecTask:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"dim": 8, "num_filters": 4, "ratios": (5, 4), "num_lstm_layers": 1}
    settings: dict[str, Any] = {
        "model": EnCodec(
            encoder=SEANetEncoder(**shape),
            decoder=SEANetDecoder(**shape),
            quantizer=ResidualVectorQuantizer(dim=8, num_codebooks=2, cardinality=16),
            sample_rate=RATE,
        ),
        "discriminators": {
            "msstft": MultiScaleSTFTDiscriminator(
                filters=2, n_ffts=(128, 64), hop_lengths=(32, 16), win_lengths=(128, 64)
            )
        },
        "reconstruction": {
            "l1": L1Loss(),
            "msspec": MultiScaleMelLoss(sample_rate=RATE, window_exponents=(6, 7, 8)),
        },
        "balancer": Balancer(weights={"l1": 0.1, "msspec": 2.0, "adv": 4.0, "feat": 4.0}),
        "optimizer": partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.9)),
        "ema_decay": 0.9,
    }
    return CodecTask(**{**settings, **options})


def make_batches(number: int, sample_rate: int = RATE) -> list[AudioBatch]:
    """Notes of a few harmonics, with some noise."""
    generator = torch.Generator().manual_seed(3)
    pitch = 200 + 600 * torch.rand(number, 4, 1, 1, generator=generator)
    phase = 2 * torch.pi * pitch * torch.arange(1600) / RATE
    wav = sum(0.2 / k * torch.sin(k * phase) for k in range(1, 6))
    wav = wav + 0.01 * torch.randn(phase.shape, generator=generator)
    return [AudioBatch(keys=list("abcd"), sample_rate=sample_rate, attributes=[{}] * 4, wav=w) for w in wav]


def fit(
    task: CodecTask, batches: list[AudioBatch], folder: Path, *, resume: Path | None = None, **options: Any
) -> L.Trainer:
    def loader() -> DataLoader[AudioBatch]:
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]

    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        num_sanity_val_steps=0,
        **{"max_steps": len(batches), **options},
    )
    trainer.fit(task, loader(), loader(), ckpt_path=resume)
    return trainer


def test_it_learns(tmp_path: Path) -> None:
    task = make_task(
        optimizer=partial(torch.optim.Adam, lr=3e-3, betas=(0.5, 0.9)),
        adversarial_after=45,
        schedule=partial(linear_warmup, warmup_steps=5),
    )
    batches = make_batches(50)
    loss = task.reconstruction["msspec"]
    with torch.no_grad():
        before = [float(loss(task.model.eval()(b.wav).wav, b.wav)) for b in batches[:5]]
    task.train()
    trainer = fit(task, batches, tmp_path, limit_val_batches=5)
    assert trainer.global_step == 50  # the discriminators' steps are not counted
    assert trainer.callback_metrics["valid/msspec"] < 0.6 * sum(before) / len(before)
    logged = trainer.callback_metrics
    for name in (
        "loss",
        "l1",
        "adv",
        "feat",
        "discriminator_msstft",
        "scale_feat",
        "penalty",
        "gradient_norm",
    ):
        assert logged[f"train/{name}"].isfinite()
    assert float(sum(logged[f"share/{name}"] for name in ("l1", "msspec", "adv", "feat"))) == pytest.approx(1)
    assert 1 <= logged["codebooks/perplexity_2"] <= 16


def test_accumulation_equals_the_large_batch(tmp_path: Path) -> None:
    options: dict[str, Any] = {"optimizer": partial(torch.optim.SGD, lr=1e-2), "gradient_clip": 0.5}
    whole, parted = make_task(**options), make_task(**options, accumulate=2)
    for task in (whole, parted):
        fit(task, make_batches(3), tmp_path, limit_val_batches=0)
    other = parted.state_dict()
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(
            other[name], value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_a_resumed_run_is_the_run_that_was_not_interrupted(tmp_path: Path) -> None:
    options: dict[str, Any] = {"discriminator_probability": 0.5}
    batches = make_batches(6)
    whole, first, second = (make_task(**options) for _ in range(3))
    fit(whole, batches, tmp_path, limit_val_batches=0)
    trainer = fit(first, batches[:3], tmp_path, limit_val_batches=0)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    checkpoint = torch.load(tmp_path / "half.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 3
    # The loader of this test cannot skip what was seen: it begins where the first run ended.
    fit(second, batches[3:] * 2, tmp_path, resume=tmp_path / "half.ckpt", limit_val_batches=0, max_steps=6)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, msg=lambda m, n=name: f"{n}: {m}")
    assert whole.ema is not None
    assert second.ema is not None
    for name, value in whole.ema.average.items():
        torch.testing.assert_close(second.ema.average[name], value)


def test_validation_uses_the_averages_and_gives_the_weights_back(tmp_path: Path) -> None:
    task = make_task()
    fit(task, make_batches(2), tmp_path, limit_val_batches=0)
    weight = task.model.decoder.layers[0].conv.bias
    own = weight.detach().clone()
    assert task.ema is not None
    average = task.ema.average["decoder.layers.0.conv.bias"]
    task.on_validation_epoch_start()
    assert torch.equal(weight, average)
    assert not torch.equal(weight, own)
    task.on_validation_epoch_end()
    assert torch.equal(weight, own)


def test_what_is_not_finite_stops_before_it_reaches_a_weight(tmp_path: Path) -> None:
    task = make_task()
    good, bad = make_batches(2)
    assert bad.wav is not None
    bad.wav[1, 0, 100] = float("nan")
    with pytest.raises(FloatingPointError, match=r"step 1: .*discriminator_msstft is nan"):
        fit(task, [good, bad], tmp_path, limit_val_batches=0)
    assert all(parameter.isfinite().all() for parameter in task.parameters())


def test_settings_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"weights for \['stft'\]"):
        make_task(balancer=Balancer(weights={"l1": 1, "stft": 1, "adv": 1, "feat": 1}))
    with pytest.raises(ValueError, match="adv"):
        make_task(balancer=Balancer(weights={"l1": 1}))
    with pytest.raises(ValueError, match="16000 Hz, the codec wants 8000 Hz"):
        fit(make_task(), make_batches(1, sample_rate=16000), tmp_path, limit_val_batches=0)


def train_on(rank: int, ranks: int, port: int, folder: str) -> None:
    """Three steps on this rank's share of each batch, as a cluster would start them."""
    torch.set_num_threads(1)
    strategy: dict[str, Any] = {}
    if ranks > 1:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        place = {"RANK": rank, "LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": ranks}
        os.environ.update(address | {name: str(value) for name, value in place.items()})
        strategy = {"devices": ranks, "strategy": "ddp_find_unused_parameters_true"}
    task = make_task(optimizer=partial(torch.optim.SGD, lr=1e-2))
    share = []
    for batch in make_batches(3):
        assert batch.wav is not None
        wav = batch.wav.chunk(ranks)[rank]
        share.append(
            replace(batch, wav=wav, keys=batch.keys[: len(wav)], attributes=batch.attributes[: len(wav)])
        )
    fit(task, share, Path(folder), limit_val_batches=0, use_distributed_sampler=False, **strategy)
    torch.save(task.state_dict(), Path(folder) / f"{ranks}_{rank}.pt")


@pytest.mark.slow
def test_two_ranks_make_the_step_of_one(tmp_path: Path) -> None:
    """Parameters, codebooks, balancer: three whole GAN steps under DDP equal those on the joined batches."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    train_on(0, 1, port, str(tmp_path))
    mp.start_processes(train_on, args=(2, port, str(tmp_path)), nprocs=2, start_method="spawn")
    joined = torch.load(tmp_path / "1_0.pt", weights_only=True)
    for rank in (0, 1):
        state = torch.load(tmp_path / f"2_{rank}.pt", weights_only=True)
        for name, value in joined.items():
            torch.testing.assert_close(
                state[name], value, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
            )
