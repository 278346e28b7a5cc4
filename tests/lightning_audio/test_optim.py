"""Schedules, D-Adaptation Adam and the weights' average, against the original's numbers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from lightning_audio.optim import (
    EMA,
    DAdaptAdam,
    cosine_warmup,
    inverse_sqrt,
    linear_warmup,
    parameter_groups,
    polynomial,
)


@pytest.fixture(scope="module")
def reference(reference_path: Callable[..., Path]) -> dict[str, Any]:
    return torch.load(reference_path("optim.pt"), weights_only=True)


SCHEDULES = {
    "cosine": (cosine_warmup, {"warmup_steps": 5, "total_steps": 40, "lr_min_ratio": 0.1}),
    "inverse_sqrt": (inverse_sqrt, {"warmup_steps": 5}),
    "linear_warmup": (linear_warmup, {"warmup_steps": 5, "warmup_init_lr": 1e-5}),
    "polynomial": (
        polynomial,
        {"warmup_steps": 5, "total_steps": 40, "end_lr": 1e-5, "zero_lr_warmup_steps": 2, "power": 2.0},
    ),
}


def rates(schedule: Any, options: dict[str, Any], steps: int, lr: float = 1e-2) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = schedule(optimizer, **options)
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_equals_reference(name: str, reference: dict[str, Any]) -> None:
    expected = reference["outputs"]["lrs"][name]
    assert rates(*SCHEDULES[name], steps=len(expected)) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_schedule_resumes_where_it_was() -> None:
    schedule, options = SCHEDULES["cosine"]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-2)
    scheduler = schedule(optimizer, **options)
    for _ in range(7):
        optimizer.step()
        scheduler.step()
    state = (optimizer.state_dict(), scheduler.state_dict())
    resumed = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-2)
    again = schedule(resumed, **options)
    resumed.load_state_dict(state[0])
    again.load_state_dict(state[1])
    resumed.step()
    again.step()
    assert resumed.param_groups[0]["lr"] == rates(schedule, options, 9)[8]


def test_schedule_shorter_than_its_warmup_is_refused() -> None:
    with pytest.raises(ValueError, match=r"4000 steps.*100"):
        rates(cosine_warmup, {"warmup_steps": 4000, "total_steps": 100}, steps=1)


def least_squares(reference: dict[str, Any], optimizer: Any, weight: torch.Tensor) -> list[list[float]]:
    inputs = reference["inputs"]
    history = []
    for _ in range(30):
        loss = ((inputs["x"] @ weight - inputs["t"]) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append([loss.item(), optimizer.param_groups[0]["d"]])
    return history


def test_dadapt_adam_equals_reference(reference: dict[str, Any]) -> None:
    weight = nn.Parameter(reference["inputs"]["w"].clone())
    history = least_squares(reference, DAdaptAdam([weight], betas=(0.9, 0.95), weight_decay=0.1), weight)
    torch.testing.assert_close(
        torch.tensor(history), torch.tensor(reference["outputs"]["dadapt"]), rtol=2e-5, atol=1e-7
    )
    torch.testing.assert_close(weight.detach(), reference["outputs"]["dadapt_w"], rtol=1e-5, atol=1e-5)


def test_dadapt_adam_does_not_see_how_parameters_are_cut() -> None:
    torch.manual_seed(0)
    whole = nn.Parameter(torch.randn(6, 4))
    halves = [nn.Parameter(half.clone()) for half in whole.detach().split(3)]
    groups = [{"params": [halves[0]]}, {"params": [halves[1]]}]
    optimizers = [DAdaptAdam([whole], weight_decay=0.1), DAdaptAdam(groups, weight_decay=0.1)]
    for step in range(20):
        gradient = torch.randn(6, 4, generator=torch.Generator().manual_seed(step))
        whole.grad = gradient
        halves[0].grad, halves[1].grad = gradient.split(3)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(torch.cat([half.detach() for half in halves]), whole.detach())
    assert optimizers[0].param_groups[0]["d"] == pytest.approx(optimizers[1].param_groups[1]["d"], rel=1e-4)


def test_dadapt_adam_waits_for_a_first_gradient_and_resumes() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = DAdaptAdam([weight], lr=0.0)
    weight.grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(weight.detach(), torch.ones(3))
    optimizer.param_groups[0]["lr"] = 1.0
    optimizer.step()
    twin = nn.Parameter(weight.detach().clone())
    resumed = DAdaptAdam([twin], lr=1.0)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for optimizer_, parameter in ((optimizer, weight), (resumed, twin)):
        parameter.grad = torch.tensor([1.0, -2.0, 0.5])
        optimizer_.step()
    assert torch.equal(weight.detach(), twin.detach())


def test_dadapt_adam_refuses_unlike_rates() -> None:
    weights = [nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizer = DAdaptAdam([{"params": [weights[0]], "lr": 1.0}, {"params": [weights[1]], "lr": 0.5}])
    with pytest.raises(ValueError, match=r"1\.0, 0\.5"):
        optimizer.step()


def test_parameter_groups() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    model[0].weight.requires_grad_(False)
    assert [len(g["params"]) for g in parameter_groups(model, weight_decay=0.1)] == [3]
    model[0].weight.requires_grad_(True)
    groups = parameter_groups(model, weight_decay=0.1, decay_vectors=False)
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(1, 0.1), (3, 0.0)]


def test_ema_equals_reference(reference: dict[str, Any]) -> None:
    module = nn.BatchNorm1d(3)
    ema = EMA(module, decay=0.9)
    for step, expected in enumerate(reference["outputs"]["ema"]):
        with torch.no_grad():
            module.weight.fill_(float(step))
            module.running_mean.fill_(10.0 * step)
        ema.update()
        assert ema.average.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(ema.average[name], value)


def test_ema_swaps_and_restores_even_after_an_error() -> None:
    module = nn.Linear(2, 2, bias=False)
    ema = EMA(module, decay=0.5)
    own = module.weight.detach().clone()
    with ema.average_weights():  # nothing averaged yet
        assert torch.equal(module.weight, own)
    ema.update()
    with torch.no_grad():
        module.weight.add_(1)

    def fail_inside() -> None:
        with ema.average_weights():
            assert torch.equal(module.weight, own)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert torch.equal(module.weight, own + 1)
    twin = nn.Linear(2, 2, bias=False)
    ema.copy_to(twin)
    assert torch.equal(twin.weight, own)


def test_ema_every_and_its_state() -> None:
    module = nn.Linear(1, 1, bias=False)
    ema = EMA(module, decay=0.9, every=3)
    for value in range(1, 8):
        with torch.no_grad():
            module.weight.fill_(float(value))
        ema.update()
    again = EMA(module, decay=0.9, every=3)
    again.load_state_dict(ema.state_dict())
    with torch.no_grad():
        module.weight.fill_(9.0)
    for each in (ema, again):
        each.update()
        each.update()
    assert torch.equal(again.average["weight"], ema.average["weight"])
    weights = [0.81, 0.9, 1.0]
    expected = sum(w * v for w, v in zip(weights, [3, 6, 9], strict=True)) / sum(weights)
    assert ema.average["weight"].item() == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"\['bias'\]"):
        EMA(nn.Linear(1, 1), decay=0.9).load_state_dict(ema.state_dict())


def test_ema_of_half_precision_weights_does_not_stall() -> None:
    module = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    ema = EMA(module, decay=0.99)
    for value in [1.0] + [1.0 + 1 / 64] * 1000:
        with torch.no_grad():
            module.weight.fill_(value)
        ema.update()
    assert ema.average["weight"].item() == pytest.approx(1 + 1 / 64, abs=1e-4)


def _train(model: nn.Module) -> tuple[EMA, DAdaptAdam]:
    optimizer = DAdaptAdam(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    ema = EMA(model, decay=0.9)
    for step in range(12):
        x = torch.randn(8, 5, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        ema.update()
    return ema, optimizer


def _tiny_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 1))  # its last layer leaves a shard empty


def _sharded(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model = _tiny_model()
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    ema, optimizer = _train(model)
    averages = {name: value.full_tensor() for name, value in ema.average.items()}
    weights = {name: value.full_tensor().detach() for name, value in model.state_dict().items()}
    with ema.average_weights():
        swapped = {name: value.full_tensor().detach() for name, value in model.state_dict().items()}
    if rank == 0:
        torch.save((averages, weights, swapped, optimizer.param_groups[0]["d"]), f"{folder}/sharded.pt")
    dist.destroy_process_group()


def test_sharded_over_two_ranks_equals_one(tmp_path: Path) -> None:
    mp.start_processes(_sharded, args=(str(tmp_path),), nprocs=2, start_method="fork")
    averages, weights, swapped, d = torch.load(tmp_path / "sharded.pt", weights_only=True)
    model = _tiny_model()
    ema, optimizer = _train(model)
    assert math.isclose(d, optimizer.param_groups[0]["d"], rel_tol=1e-4)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(averages[name], ema.average[name], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(swapped[name], ema.average[name], rtol=1e-4, atol=1e-6)
