"""Convolutions over time that pad by themselves, and the folding of their weight norm for inference."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm as add_weight_norm


class Conv1d(nn.Module):
    """A convolution that gives ceil(L / stride) frames: [B, C_in, L] -> [B, C_out, ceil(L / stride)].

    The input is padded by (kernel - stride) so that frame t is about the samples from t * stride on, and once
    more on the right so that the last samples fill a frame of their own. `causal` puts all of the first padding
    on the left; otherwise both sides share it and the left takes the odd sample.

    time_group_norm: normalise each item over its channels and its whole duration (the 48 kHz codec).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        causal: bool = False,
        pad_mode: str = "constant",
        weight_norm: bool = True,
        time_group_norm: bool = False,
    ) -> None:
        super().__init__()
        if causal and time_group_norm:
            raise ValueError("time_group_norm looks at the whole duration, so it cannot be causal")
        conv = nn.Conv1d(in_channels, out_channels, kernel_size, stride=stride, dilation=dilation)
        self.conv = add_weight_norm(conv) if weight_norm else conv
        self.norm = nn.GroupNorm(1, out_channels) if time_group_norm else nn.Identity()
        self.stride = stride
        self.dilation = dilation
        self.pad_mode = pad_mode
        total = (kernel_size - 1) * dilation + 1 - stride
        self.pad_right = 0 if causal else total // 2
        self.pad_left = total - self.pad_right

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.pad_left, self.pad_right + -x.shape[-1] % self.stride
        weight, bias = self.conv.weight, self.conv.bias
        if left == right and self.pad_mode == "constant":  # the kernel can pad by itself: one copy less
            y = F.conv1d(x, weight, bias, self.stride, padding=left, dilation=self.dilation)
        else:
            y = F.conv1d(
                pad(x, left, right, self.pad_mode), weight, bias, self.stride, dilation=self.dilation
            )
        return self.norm(y)


class ConvTranspose1d(nn.Module):
    """The transposed convolution that undoes `Conv1d`'s lengths: [B, C_in, T] -> [B, C_out, T * stride].

    trim_right_ratio: share of the surplus that is cut from the right when causal; 1 looks at no later frame.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int,
        causal: bool = False,
        trim_right_ratio: float = 1.0,
        weight_norm: bool = True,
        time_group_norm: bool = False,
    ) -> None:
        super().__init__()
        if not causal and trim_right_ratio != 1.0:
            raise ValueError(
                f"trim_right_ratio {trim_right_ratio} needs causal=True: without it both sides are trimmed"
            )
        conv = nn.ConvTranspose1d(in_channels, out_channels, kernel_size, stride=stride)
        self.conv = add_weight_norm(conv) if weight_norm else conv
        self.norm = nn.GroupNorm(1, out_channels) if time_group_norm else nn.Identity()
        total = kernel_size - stride
        self.trim_right = math.ceil(total * trim_right_ratio) if causal else total // 2
        self.trim_left = total - self.trim_right

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))  # the norm comes before the trimming: it sees the surplus too
        return y[..., self.trim_left : y.shape[-1] - self.trim_right]


def pad(x: Tensor, left: int, right: int, mode: str) -> Tensor:
    """`F.pad` on the last axis that can also reflect an input shorter than the padding.

    A short input is first extended by zeros on the right, reflected, and the extension is cut off again.
    """
    missing = max(left, right) - x.shape[-1] + 1 if mode == "reflect" else 0
    if missing <= 0:
        return F.pad(x, (left, right), mode)
    padded = F.pad(F.pad(x, (0, missing)), (left, right), mode)
    return padded[..., : padded.shape[-1] - missing]


def conv2d_from_few(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """conv(x) of few channels, [B, C, H, W] -> [B, C', H', W'], its gradient to x on CPU in less than half the time.

    conv: with a bias and padding by numbers; no stride, dilation or groups.
    """
    if x.device.type == "cpu" and x.requires_grad:
        return _Conv2dFromFew.apply(x, conv.weight, conv.bias, conv.padding)
    return conv(x)


class _Conv2dFromFew(torch.autograd.Function):
    """The gradient to few channels is a convolution that gives few, for which oneDNN has no fast kernel: it computes
    16 and throws them away. Here some columns of the image become channels, so that each place gives enough of them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return F.conv2d(x, weight, bias, padding=padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = (tensor.to(gradient.dtype) for tensor in ctx.saved_tensors)  # which autocast made lower
        to_x, *to_parameters = ctx.needs_input_grad[:3]
        grad_x = _gradient_of_few(gradient, weight, x.shape[-1], ctx.padding) if to_x else None
        grad_weight = grad_bias = None
        if any(to_parameters):
            _, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
                gradient,
                x,
                weight,
                [weight.shape[0]],
                [1, 1],
                ctx.padding,
                [1, 1],
                False,
                [0, 0],
                1,
                [False, *to_parameters],
            )
        return grad_x, grad_weight, grad_bias, None


def _gradient_of_few(gradient: Tensor, weight: Tensor, columns: int, padding: tuple[int, int]) -> Tensor:
    """Gradient [B, C', H', W'] of a convolution with weight [C', C, h, w] -> that of its input [B, C, H, columns].

    Blocks of `size` columns are channels. What a block of the input gets comes from two neighbouring blocks of
    `gradient`, through the flipped weight at each of `size` shifts.
    """
    wide, narrow, height, width = weight.shape
    size = max(8, width - 1)
    number = -(-columns // size)
    flipped = weight.transpose(0, 1).flip(2, 3)  # [C, C', h, w]
    shifted = torch.stack([F.pad(flipped, (n, 2 * size - width - n)) for n in range(size)])
    # [size, C, C', h, 2 * size] -> [size * C, size * C', h, 2]
    of_blocks = shifted.unflatten(-1, (2, size)).permute(0, 1, 5, 2, 3, 4).flatten(2, 3).flatten(0, 1)
    rows = gradient.permute(0, 2, 3, 1)  # [B, H', W', C']
    padded = rows.new_zeros(*rows.shape[:2], (number + 1) * size, wide)
    left = width - 1 - padding[1]
    padded[:, :, left : left + rows.shape[2]] = rows
    blocks = padded.unflatten(2, (-1, size)).flatten(3).permute(0, 3, 1, 2)  # [B, size * C', H', number + 1]
    found = F.conv2d(blocks, of_blocks, padding=(height - 1 - padding[0], 0))
    spread = found.permute(0, 2, 3, 1).unflatten(-1, (size, narrow)).flatten(2, 3)  # [B, H, number * size, C]
    return spread[:, :, :columns].permute(0, 3, 1, 2)


def fold_weight_norm(module: nn.Module) -> nn.Module:
    """The same module, its norms g * v / |v| computed once and stored as plain weights. For inference.

    Works in place on every layer below `module`; the state dict then holds `weight` where it held two factors.
    """
    for layer in module.modules():
        if isinstance(layer, Conv1d | ConvTranspose1d) and parametrize.is_parametrized(layer.conv):
            layer.conv = _plain(layer.conv)
    return module


def _plain(conv: nn.Conv1d | nn.ConvTranspose1d) -> nn.Conv1d | nn.ConvTranspose1d:
    """A new convolution with the weight that the norm gives: torch's `remove_parametrizations` also breaks all copies
    of a module, which share its class.
    """
    kind = nn.ConvTranspose1d if isinstance(conv, nn.ConvTranspose1d) else nn.Conv1d
    with torch.device("meta"):
        plain = kind(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size[0],
            conv.stride[0],
            dilation=conv.dilation[0],
        )
    plain.weight, plain.bias = nn.Parameter(conv.weight.detach().clone(), requires_grad=False), conv.bias
    return plain.train(conv.training)
