"""Every metric over two processes equals its value in one, also where a rank saw nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from eval.fad import FrechetDistance
from eval.language_model import CodebookCrossEntropy, UnigramCrossEntropy
from eval.reconstruction import MelDistance, SiSDR

BATCHES = 5


def _batch(i: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(i)
    wav = 0.1 * torch.randn(2, 2, 1, 3000, generator=generator)
    codes = torch.randint(6, (2, 3, 8), generator=generator)
    return wav, codes, torch.randn(2, 3, 8, 6, generator=generator)


def _measure(batches: list[int]) -> dict[str, Any]:
    si_sdr, mel = SiSDR(), MelDistance(sample_rate=8000, windows=(256,))
    model, unigram = CodebookCrossEntropy(3), UnigramCrossEntropy(3, 6)
    frechet = FrechetDistance(8)
    for i in batches:
        wav, codes, logits = _batch(i)
        si_sdr.update(wav[0], wav[1])
        mel.update(wav[0], wav[1])
        model.update(logits, codes)
        for training in (True, False):
            unigram.update(codes, training=training)
        frechet.update(wav[0].reshape(-1, 8), reference=False)
        frechet.update(wav[1].reshape(-1, 8), reference=True)
    # NaN clips of one rank must show on all.
    si_sdr.update(torch.full((1, 1, 9), torch.nan), torch.ones(1, 1, 9)) if 0 in batches else None
    values = {
        name: metric.compute().tolist()
        for name, metric in (
            ("sisdr", si_sdr),
            ("mel", mel),
            ("lm", model),
            ("uni", unigram),
            ("fad", frechet),
        )
    }
    values["clips"] = si_sdr.clip_scores().tolist()
    values["intervals"] = [(i.low, i.high) for i in model.intervals(num_resamples=50)]
    return values


def _work(rank: int, shares: list[list[int]], folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(_measure(shares[rank]), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def _run(work: Callable[..., None], *args: Any) -> None:
    # fork, since a spawned process could not import this file under --import-mode=importlib
    mp.start_processes(work, args=args, nprocs=2, start_method="fork")


@pytest.mark.parametrize("shares", [[[0, 2, 4], [1, 3]], [[], [0, 1, 2, 3, 4]]], ids=["uneven", "one empty"])
@pytest.mark.filterwarnings("ignore:.*called before the ``update``.*")
def test_two_processes_equal_one(shares: list[list[int]], tmp_path: Path) -> None:
    expected = _measure(list(range(BATCHES)))
    _run(_work, shares, str(tmp_path))
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        for name, value in expected.items():
            flat = torch.tensor(found[name], dtype=torch.float64), torch.tensor(value, dtype=torch.float64)
            assert torch.allclose(*flat, rtol=1e-12, atol=1e-12), name
