"""Convolutions over time that pad by themselves, and the folding of their weight norm for inference."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
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
