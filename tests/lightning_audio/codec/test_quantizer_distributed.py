"""A step of the codebooks on two ranks is the step on their joined batch."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from lightning_audio.codec.balancer import Balancer
from lightning_audio.codec.quantizer import ResidualVectorQuantizer

STEPS, RANKS = 3, 2


def batches() -> Tensor:
    """[steps, B, D, T]"""
    return torch.randn(STEPS, 4, 6, 25, generator=torch.Generator().manual_seed(0))


def train(latents: Tensor, seed: int) -> dict[str, Tensor]:
    torch.manual_seed(7)
    quantizer = ResidualVectorQuantizer(dim=6, num_codebooks=3, cardinality=32, dropout=True).train()
    generator = torch.Generator().manual_seed(seed)
    for latent in latents:
        quantizer(latent, generator=generator)
    balancer = Balancer(weights={"a": 1.0, "b": 2.0})
    gradients = {"a": latents[0] / latents.shape[1], "b": latents[1].sin() / latents.shape[1]}
    balanced = balancer(gradients).gradient
    return {**quantizer.state_dict(), "norm_sum": balancer.norm_sum, "balanced": balanced}


def rank_main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    # Seeds that differ: rank 0's choices count.
    torch.save(train(batches().chunk(RANKS, dim=1)[rank], seed=5 + rank), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_equal_the_joined_batch(tmp_path: Path) -> None:
    mp.start_processes(rank_main, args=(str(tmp_path),), nprocs=RANKS, start_method="spawn")
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]
    joined = train(batches(), seed=5)
    # DDP averages the parameters' gradients over ranks; the sum over items is what the joined batch has.
    balanced = torch.cat([rank.pop("balanced") for rank in ranks]) / RANKS
    torch.testing.assert_close(balanced, joined.pop("balanced"))
    for rank in ranks:
        for name, value in joined.items():
            torch.testing.assert_close(
                rank[name], value, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
            )
