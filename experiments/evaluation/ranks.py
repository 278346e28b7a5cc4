"""One process or many: those of torchrun or SLURM where one of them started us, else as many as are asked for."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

Result = TypeVar("Result")

# A rank may generate for hours while another waits; one that died is noticed at once all the same.
_PATIENCE = timedelta(days=2)
_MEETING = timedelta(minutes=10)


@dataclass(frozen=True)
class Rank:
    """This process among all.   local: its number on this machine, which is that of its GPU."""

    rank: int = 0
    world_size: int = 1
    local: int = 0

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def device(self, asked: str | None) -> torch.device:
        """What is asked for, else a GPU where there is one; each process has a GPU of its own."""
        kind = asked or ("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(f"cuda:{self.local % torch.cuda.device_count()}" if kind == "cuda" else kind)

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()

    def first_only(self, work: Callable[[], Result]) -> Result | None:
        """Done by the first process while the others wait; an error of it is one of all."""
        result, error = None, None
        if self.is_first:
            try:
                result = work()
            except Exception as caught:
                error = caught
        if self.world_size > 1:
            told = [None if error is None else str(error)]
            dist.broadcast_object_list(told)
            if told[0] is not None and not self.is_first:
                raise ValueError(told[0])
        if error is not None:
            raise error
        return result


def on_all_ranks(work: Callable[..., Result], *arguments: Any, devices: int = 1) -> Result:
    """`work(rank, *arguments)` in every process; gives this one's result.

    devices: processes on this machine, where no launcher started several. What `work` and its arguments are must be
        found again by a new process.
    """
    found = _launched()
    if found is not None:
        rank, address, port = found
        return _in_group(rank, address, port, work, arguments)
    if devices < 1:
        raise ValueError(f"devices is {devices}, want at least 1")
    if devices == 1:
        return work(Rank(), *arguments)
    port = _free_port()
    others = mp.start_processes(
        _other, args=(devices, port, work, arguments), nprocs=devices - 1, join=False, start_method="spawn"
    )
    try:
        result = _in_group(Rank(0, devices, 0), "127.0.0.1", port, work, arguments)
        while not others.join():
            pass
        return result
    finally:
        for process in others.processes:
            if process.is_alive():
                process.terminate()


def _launched() -> tuple[Rank, str, int] | None:
    """This process's place, and where the processes meet, where a launcher started several."""
    if TorchElasticEnvironment.detect():
        torchrun = TorchElasticEnvironment()
        rank = Rank(torchrun.global_rank(), torchrun.world_size(), torchrun.local_rank())
        return rank, torchrun.main_address, torchrun.main_port
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if tasks < 2:  # of srun; the batch script around it knows the job's number of tasks and is one process
        return None
    rank = Rank(int(os.environ["SLURM_PROCID"]), tasks, int(os.environ["SLURM_LOCALID"]))
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ["SLURM_NODELIST"]
    address = os.environ.get("MASTER_ADDR") or SLURMEnvironment.resolve_root_node_address(nodes)
    # Jobs on one machine must not meet each other.
    port = os.environ.get("MASTER_PORT") or 15_000 + int(os.environ["SLURM_JOB_ID"]) % 10_000
    return rank, address, int(port)


def _in_group(
    rank: Rank, address: str, port: int, work: Callable[..., Result], arguments: tuple[Any, ...]
) -> Result:
    # Over gloo, also between GPUs: what is exchanged is small, and lies in main memory.
    if torch.cuda.is_available():
        torch.cuda.set_device(rank.local % torch.cuda.device_count())
    store = dist.TCPStore(address, port, rank.world_size, rank.is_first, timeout=_MEETING)
    dist.init_process_group(
        "gloo", store=store, rank=rank.rank, world_size=rank.world_size, timeout=_PATIENCE
    )
    try:
        return work(rank, *arguments)
    finally:
        dist.destroy_process_group()


def _other(
    number: int, world_size: int, port: int, work: Callable[..., object], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(max(1, torch.get_num_threads() // world_size))
    _in_group(Rank(number + 1, world_size, number + 1), "127.0.0.1", port, work, arguments)


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
