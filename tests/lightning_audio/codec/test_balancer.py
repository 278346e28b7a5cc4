"""The balancer against the reference vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_audio.codec.balancer import Balancer

WEIGHTS = {"a": 4.0, "b": 1.0, "c": 0.5}
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "per_batch_false": {"per_item": False},
    "no_balance": {"enabled": False},
    "ema.9_norm2": {"decay": 0.9, "total_norm": 2.0},
}


def losses(decoded: Tensor, target: Tensor) -> dict[str, Tensor]:
    return {
        "a": F.mse_loss(decoded, target),
        "b": 10 * (decoded - target).abs().sum(),
        "c": (decoded * target).sum(),
    }


@pytest.mark.parametrize("name", OPTIONS)
def test_equals_the_reference(reference_path: Callable[..., Path], name: str) -> None:
    steps = torch.load(reference_path("balancer.pt"), weights_only=True)["outputs"][name]["steps"]
    balancer = Balancer(weights=WEIGHTS, **OPTIONS[name])
    for step in steps:
        decoded = step["input"].clone().requires_grad_()
        values = losses(decoded, step["target"])
        balanced = balancer({k: torch.autograd.grad(v, decoded)[0] for k, v in values.items()})
        torch.testing.assert_close(balanced.gradient, step["grad"], rtol=1e-5, atol=1e-6)
        effective = torch.stack([balanced.scales[k] * v.detach() for k, v in values.items()]).sum()
        torch.testing.assert_close(effective, step["effective"], rtol=1e-5, atol=0)
        for ratio, wanted in step["metrics"].items():
            assert float(balanced.shares[ratio.removeprefix("ratio_")]) == pytest.approx(wanted, rel=1e-5)


def test_a_loss_may_come_later() -> None:
    torch.manual_seed(0)
    balancer = Balancer(weights=WEIGHTS, decay=0.5)
    g = torch.randn(3, 1, 20)
    alone = balancer({"a": g}).gradient
    torch.testing.assert_close(alone.flatten(1).norm(dim=1).mean(), torch.tensor(1.0))
    both = balancer({"a": g, "b": 1000 * torch.randn(3, 1, 20)})
    assert set(both.scales) == {"a", "b"}
    torch.testing.assert_close(both.scales["a"] * g.flatten(1).norm(dim=1).mean(), torch.tensor(0.8))


def test_it_resumes() -> None:
    torch.manual_seed(0)
    gradients = [{"a": torch.randn(2, 1, 9), "b": torch.randn(2, 1, 9)} for _ in range(4)]
    whole, first, second = (Balancer(weights=WEIGHTS) for _ in range(3))
    outputs = [whole(g).gradient for g in gradients]
    for g in gradients[:2]:
        first(g)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(gradients[2]).gradient, outputs[2])


def test_a_loss_without_weight_is_named() -> None:
    with pytest.raises(ValueError, match="mel"):
        Balancer(weights=WEIGHTS)({"mel": torch.zeros(1, 1, 2)})
