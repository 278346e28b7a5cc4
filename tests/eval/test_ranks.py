"""Every metric over two processes equals its value in one to the last bit, also where a rank saw nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torchmetrics import Metric

from eval.chroma import ChromaSimilarity
from eval.clap_score import ClapScore
from eval.divergence import TaggerDivergence
from eval.extrapolation import ExtrapolatedFrechetDistance
from eval.fad import ClipFrechetDistance, FrechetDistance
from eval.gaussian import gaussian_of
from eval.kad import KernelDistance
from eval.language_model import CodebookCrossEntropy, UnigramCrossEntropy
from eval.reconstruction import MelDistance, MelSNR, SiSDR, STFTDistance

BATCHES = 5


def _batch(i: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(i)
    wav = 0.1 * torch.randn(2, 2, 1, 3000, generator=generator)
    codes = torch.randint(6, (2, 3, 8), generator=generator)
    return wav, codes, torch.randn(2, 3, 8, 6, generator=generator)


def _pairs() -> dict[str, Metric]:
    """Metrics of an estimate and its target."""
    return {
        "sisdr": SiSDR(),
        "mel": MelDistance(sample_rate=8000, windows=(256,)),
        "stft": STFTDistance(),
        "melsnr": MelSNR(sample_rate=8000),
        "chroma": ChromaSimilarity(sample_rate=8000, radix2_exp=10, argmax=False),
    }


def _sets() -> dict[str, Metric]:
    """Metrics of two sets of embeddings."""
    return {
        "fad": FrechetDistance(8),
        "fad_infinity": ExtrapolatedFrechetDistance(8, num_points=5, min_count=300),
        "kad": KernelDistance(8),
    }


def _measure(batches: list[int]) -> dict[str, Any]:
    pairs, sets = _pairs(), _sets()
    model, unigram = CodebookCrossEntropy(3), UnigramCrossEntropy(3, 6)
    clap, divergence = ClapScore(), TaggerDivergence()
    by_clip = ClipFrechetDistance(gaussian_of(_batch(0)[0].reshape(-1, 8)))
    keys = [f"clip {i}" for i in range(2 * BATCHES)]
    for i in batches:
        wav, codes, logits = _batch(i)
        names = keys[2 * i : 2 * i + 2]
        for metric in pairs.values():
            metric.update(wav[0], wav[1], keys=names)
        for metric in sets.values():
            metric.update(wav[0, ..., :800].reshape(-1, 8), reference=False)
            metric.update(wav[1, ..., :800].reshape(-1, 8), reference=True)
        model.update(logits, codes)
        for training in (True, False):
            unigram.update(codes, training=training)
        clap.update(wav[0, :, 0], wav[1, :, 0], names)
        divergence.update(list(logits[0]), list(logits[1]), keys=["a", "b", "c"])
        by_clip.update(list(wav[0].reshape(2, -1, 8)), names)
    # NaN clips of one rank must show on all.
    pairs["sisdr"].update(torch.full((1, 1, 9), torch.nan), torch.ones(1, 1, 9)) if 0 in batches else None
    metrics = {
        **pairs,
        **sets,
        "lm": model,
        "uni": unigram,
        "clap": clap,
        "kl": divergence,
        "by_clip": by_clip,
    }
    values = {name: metric.compute().tolist() for name, metric in metrics.items()}
    values["clips"] = pairs["sisdr"].clip_scores().tolist()
    values["named"] = by_clip.scores_of(keys).tolist()
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
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            flat = torch.tensor(found[name], dtype=torch.float64), torch.tensor(value, dtype=torch.float64)
            assert torch.allclose(*flat, rtol=0, atol=0), name
