"""The reordered product equals the plain one, and never outlives the weight that it was made of."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor

from lightning_audio.layers.linear import (
    MANY_ROWS,
    Linear,
    many_rows,
    pack_linears,
    reordered,
    unpack_linears,
)


def pair(dtype: torch.dtype = torch.float32, *, bias: bool = True) -> tuple[Linear, torch.nn.Linear]:
    """A packed layer, and a stock one with the same weights."""
    torch.manual_seed(0)
    layer, stock = Linear(24, 40, bias=bias).to(dtype), torch.nn.Linear(24, 40, bias=bias).to(dtype)
    stock.load_state_dict(layer.state_dict())
    layer.eval()
    if not layer.pack():
        pytest.skip(f"this build or processor has no reordered product in {dtype}")
    return layer, stock


def is_fast(layer: Linear, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a call takes the reordered product."""
    calls = []
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr("lightning_audio.layers.linear.packed_linear", lambda *_: calls.append(1))
        layer(torch.zeros(1, 24, dtype=layer.weight.dtype))
    return bool(calls)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("shape", [(1,), (2,), (3,), (4,), (7,), (64,), (2, 1), (2, 3, 5), (0,)])
def test_equals_the_plain_product(
    shape: tuple[int, ...], dtype: torch.dtype, tolerance: float, bias: bool
) -> None:
    layer, stock = pair(dtype, bias=bias)
    x = torch.randn(*shape, 24).to(dtype)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), stock(x), rtol=tolerance, atol=tolerance)


def test_rows_do_not_depend_on_how_many_there_are() -> None:
    layer, _ = pair()
    x = torch.randn(4, 24)
    with torch.inference_mode():
        assert all(torch.allclose(layer(x[:n]), layer(x)[:n], atol=1e-6) for n in (1, 2, 3))


def test_a_weight_that_changes_is_never_used_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, stock = pair()
    assert is_fast(layer, monkeypatch)
    with torch.no_grad():
        layer.weight.mul_(2)
        stock.weight.mul_(2)
    x = torch.randn(2, 24)
    assert not is_fast(layer, monkeypatch)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), stock(x))
    assert layer.pack()
    assert is_fast(layer, monkeypatch)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), stock(x))
    layer.weight = torch.nn.Parameter(torch.zeros(40, 24))
    assert not is_fast(layer, monkeypatch)


def test_gradients_take_the_plain_path() -> None:
    layer, stock = pair()
    x = torch.randn(2, 24)
    layer(x).sum().backward()
    stock(x).sum().backward()
    assert isinstance(layer.weight.grad, Tensor)
    torch.testing.assert_close(layer.weight.grad, stock.weight.grad)


def test_training_moving_and_copying_leave_the_copy_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, _ = pair()
    assert not is_fast(copy.deepcopy(layer), monkeypatch)
    assert not is_fast(pickle.loads(pickle.dumps(layer)), monkeypatch)
    assert set(layer.state_dict()) == {"weight", "bias"}
    assert not is_fast(layer.train(), monkeypatch)
    layer.eval()
    pack_linears(torch.nn.Sequential(layer))
    assert is_fast(layer, monkeypatch)
    layer.to(torch.float32)
    assert not is_fast(layer, monkeypatch)
    layer.pack()
    unpack_linears(torch.nn.Sequential(layer))
    assert not is_fast(layer, monkeypatch)


def test_without_such_kernels_the_plain_product_remains(monkeypatch: pytest.MonkeyPatch) -> None:
    _, stock = pair()
    layer = Linear(24, 40)
    layer.load_state_dict(stock.state_dict())

    def missing(*_: object) -> None:
        raise AttributeError("no such operator")

    monkeypatch.setattr("lightning_audio.layers.linear.packed_linear", missing)
    assert not layer.pack()
    x = torch.randn(2, 24)
    with torch.no_grad():
        assert torch.equal(layer(x), stock(x))


def test_precisions_without_a_kernel_are_left_alone() -> None:
    assert reordered(torch.zeros(3, 4, dtype=torch.float64)) is None
    assert reordered(torch.zeros(3, 4, device="meta")) is None


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(MANY_ROWS,), (3, 100), (2, 5, 40)])
def test_many_rows_and_their_gradients_equal_the_plain_product(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer, stock = Linear(24, 40, bias=bias), torch.nn.Linear(24, 40, bias=bias)
    stock.load_state_dict(layer.state_dict())
    x = torch.randn(*shape, 24)
    upstream = torch.randn(*shape, 40)
    assert many_rows(x, layer.weight)
    found, wanted = (
        torch.autograd.grad(module(own), [own, *module.parameters()], upstream)
        for module in (layer, stock)
        for own in [x.clone().requires_grad_()]
    )
    torch.testing.assert_close(layer(x), stock(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)


def test_only_gradients_that_are_wanted_are_made() -> None:
    layer = Linear(24, 40).requires_grad_(False)
    x = torch.randn(MANY_ROWS, 24, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is None
    assert layer.bias.grad is None


def test_few_rows_other_precisions_and_mixed_precision_take_the_plain_product() -> None:
    layer, x = Linear(24, 40), torch.randn(MANY_ROWS, 24)
    assert not many_rows(x[:-1], layer.weight)
    assert not many_rows(x.bfloat16(), layer.weight)
    assert not many_rows(x, layer.weight.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not many_rows(x, layer.weight)
        assert layer(x).dtype == torch.bfloat16
