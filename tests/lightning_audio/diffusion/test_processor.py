"""The band processor: the original's numbers, statistics of all ranks, precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from lightning_audio.diffusion.processor import BandProcessor

RANKS = 2


def test_equals_the_original(mbd_reference: Callable[[str], dict[str, Any]]) -> None:
    """Ten clips make the statistics, so that the fourth batch of four changes nothing."""
    case = mbd_reference("processor")
    outputs = case["outputs"]
    processor = BandProcessor(sample_rate=24000, num_bands=8, num_samples=10, power=0.75)
    generator = torch.Generator().manual_seed(case["inputs"]["seed"])
    for wav, wanted in zip(case["inputs"]["xs"], outputs["projected"], strict=True):
        processor.update(wav, generator=generator)
        torch.testing.assert_close(processor.project(wav), wanted, rtol=1e-5, atol=1e-6)
    for name in ("counts", "sum_x", "sum_x2", "sum_target_x2"):
        torch.testing.assert_close(
            processor.get_buffer(name), outputs["final_state"][name], rtol=1e-5, atol=0
        )
    torch.testing.assert_close(processor.mean, outputs["mean"], rtol=1e-5, atol=0)
    torch.testing.assert_close(processor.std, outputs["std"], rtol=1e-5, atol=0)
    torch.testing.assert_close(processor.target_level, outputs["target_std"], rtol=1e-5, atol=0)
    torch.testing.assert_close(processor.splitter.kernels, case["state_dict"]["split_bands.lowpass.filters"])
    restored = processor.restore(outputs["projected"][3])
    torch.testing.assert_close(restored, outputs["returned"], rtol=1e-5, atol=1e-6)


def clips() -> Tensor:
    return 0.2 * torch.randn(8, 1, 3200, generator=torch.Generator().manual_seed(0))


def learn(wav: Tensor, seed: int) -> dict[str, Tensor]:
    processor = BandProcessor(sample_rate=16000, num_bands=4, num_samples=8)
    for batch in wav.chunk(2):
        processor.update(batch, generator=torch.Generator().manual_seed(seed))
    return processor.state_dict()


def rank_main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    torch.save(learn(clips().chunk(RANKS)[rank], seed=rank), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_all_ranks_have_the_statistics_of_the_joined_batch(tmp_path: Path) -> None:
    mp.start_processes(rank_main, args=(str(tmp_path),), nprocs=RANKS, start_method="spawn")
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(RANKS))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    joined = learn(clips(), seed=0)
    del first["sum_target_x2"], joined["sum_target_x2"]  # of noise, which each rank draws for itself
    torch.testing.assert_close(first, joined, rtol=1e-5, atol=1e-7)


def test_powers_of_each_band() -> None:
    torch.manual_seed(0)
    wav = clips()
    one, each = (
        BandProcessor(sample_rate=16000, num_bands=2, num_samples=8, power=p) for p in (0.5, [0.5, 0.5])
    )
    other = BandProcessor(sample_rate=16000, num_bands=2, num_samples=8, power=[0.5, 0.0])
    for processor in (one, each, other):
        processor.update(wav, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(one.project(wav), each.project(wav))
    assert not torch.allclose(one.project(wav), other.project(wav))
    high, wanted = other.splitter(other.project(wav))[1], other.splitter(wav)[1]
    torch.testing.assert_close(high[..., 300:-300], wanted[..., 300:-300], rtol=0.05, atol=0.02)


def test_statistics_stay_float32_in_a_half_precision_model() -> None:
    processor = BandProcessor(sample_rate=16000, num_bands=2, num_samples=10_000)
    processor.sum_x += 4097.25  # no number of half precision
    processor.half()
    assert processor.sum_x.dtype == torch.float32
    assert processor.sum_x[0] == 4097.25


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="3 powers for 2 bands"):
        BandProcessor(sample_rate=16000, num_bands=2, power=[1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="num_samples is 0"):
        BandProcessor(sample_rate=16000, num_samples=0)
    for use in (BandProcessor.project, BandProcessor.restore):
        with pytest.raises(ValueError, match="has seen no audio"):
            use(BandProcessor(sample_rate=16000), torch.zeros(1, 1, 1000))
