"""`nn.Linear` whose products on CPU are those of oneDNN, and that can be made ready for few rows at a time.

A product of 2 to 16 rows, which is all that generation step by step has, is limited by how fast its weight is read.
On CPU the stock path (a general matrix product in the plain layout) reads it at a quarter to a fifth of the memory's
rate; with the weight reordered once into the blocks of oneDNN's kernels nearly the whole rate is reached, in float32
and in bfloat16 (benchmarks/RESULTS.md has the figures).

Products of many rows, as in training, are limited by arithmetic. There oneDNN's kernels do a seventh more of it than
the stock path for a layer's output, a tenth more for the gradient of its input, and less for that of its weight.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

ROWS = 4
"""One or two rows go through as this many: oneDNN's kernel for them reads the weight a third slower."""
MANY_ROWS = 128
"""From here on a product is limited by arithmetic, and worth the reordering of a weight for it alone."""


class Linear(nn.Linear):
    """x [..., D] -> [..., D']: `nn.Linear` until `pack` was called, and the same product to rounding after.

    The reordered copy takes the weight's memory once more. It is no part of the state, is made for one value of
    the weight (changed, moved or replaced, the plain path is taken until the next `pack`), serves only where no
    gradient is asked for, and goes when training starts.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self._packed: Tensor | None = None
        self._packed_from: tuple[int, int] | None = None

    def pack(self) -> bool:
        """Reorders the weight for products on CPU; False where there is nothing to gain or no such kernel."""
        if self._packed is not None and self._packed_from == self._weight_version():
            return True
        self._packed = reordered(self.weight.detach())
        self._packed_from = self._weight_version()
        return self._packed is not None

    def unpack(self) -> None:
        self._packed = self._packed_from = None

    def forward(self, x: Tensor) -> Tensor:
        if (
            self._packed is None
            or torch.is_grad_enabled()
            or self._packed_from != self._weight_version()
            or torch.is_autocast_enabled(x.device.type)
        ):
            if many_rows(x, self.weight):
                return _ManyRows.apply(x, self.weight, self.bias)
            return super().forward(x)
        return packed_linear(x, self._packed, self.bias)

    def train(self, mode: bool = True) -> Linear:
        if mode:
            self.unpack()
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> Linear:
        self.unpack()  # another device or precision
        return super()._apply(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_packed": None, "_packed_from": None}

    def _weight_version(self) -> tuple[int, int]:
        """Changes whenever the weight is written to or replaced."""
        weight = self.weight
        return weight.data_ptr(), 0 if weight.is_inference() else weight._version


def many_rows(x: Tensor, weight: Tensor) -> bool:
    """Whether `product` is the way to multiply x [..., D] by a weight [D', D]."""
    return (
        x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() >= MANY_ROWS * x.shape[-1]
        and type(weight) in (nn.Parameter, Tensor)  # no shard of one, no stand-in
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()  # which chooses kernels by itself
        and _has_kernel()
    )


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [N, D] times a weight [D', D], of any layout: [N, D'], without a gradient; where `many_rows` says so."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _ManyRows(torch.autograd.Function):
    """x [..., D] times a weight [D', D], and the gradients of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x.flatten(0, -2), weight, bias).unflatten(0, x.shape[:-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        rows = gradient.flatten(0, -2)
        return (
            product(rows, weight.t()).view_as(x) if of_x else None,
            rows.t() @ x.flatten(0, -2) if of_weight else None,
            rows.sum(dim=0) if of_bias else None,
        )


def pack_linears(module: nn.Module) -> None:
    """Makes every `Linear` below `module` ready for few rows. Once, before generation, not per step."""
    for layer in module.modules():
        if isinstance(layer, Linear):
            layer.pack()


def unpack_linears(module: nn.Module) -> None:
    """Frees what `pack_linears` took."""
    for layer in module.modules():
        if isinstance(layer, Linear):
            layer.unpack()


def reordered(weight: Tensor) -> Tensor | None:
    """The weight [D', D] in the layout of oneDNN's kernel; None where it has none for this weight.

    Where it refuses the precision on this processor, the plain product remains.
    """
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.bfloat16):
        return None
    if not _has_kernel():
        return None
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS)
        packed_linear(weight.new_zeros(1, weight.shape[1]), packed, None)
    except (AttributeError, RuntimeError):
        return None
    return packed


def packed_linear(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """x [..., D] times a weight of `reordered`: [..., D']."""
    rows = x.reshape(-1, x.shape[-1])
    count = rows.shape[0]
    if count in (1, 2):
        rows = torch.cat([rows] * (ROWS // count))
    y = torch.ops.mkldnn._linear_pointwise(rows, packed, bias, "none", [], "")
    return y[:count].view(*x.shape[:-1], y.shape[-1])


@cache
def _has_kernel() -> bool:
    """Whether this build has oneDNN's product: what `torch.compile` makes of a linear layer, no public interface."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        product(torch.zeros(2, 3), torch.zeros(4, 3))
    except (AttributeError, RuntimeError):
        return False
    return True
