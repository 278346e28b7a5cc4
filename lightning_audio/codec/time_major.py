"""A finished SEANet on CPU, its tensors time by channels [B, L, C]: the same numbers to rounding, in less time.

Over [B, C, L] the convolutions of a codec lose much of their time around the product itself: oneDNN reorders what
comes in and goes out, padding and trimming copy whole signals, and a convolution from or to one channel (the audio)
has no fast kernel. With the channels innermost a frame is one row of memory. Then an activation writes its result
between the padding, so that neither takes a pass of its own; neighbouring rows are a longer row, so that a strided or
transposed convolution is one of few long steps; and the ends are small products. Weight norms are folded in.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_audio.codec.seanet import ResidualBlock, SEANet, SkipLSTM
from lightning_audio.layers.conv import Conv1d, ConvTranspose1d, fold_weight_norm, pad
from lightning_audio.layers.linear import packed_linear, reordered

Step = Callable[[Tensor], Tensor]
"""[B, L, C] -> [B, L', C']; what comes in is not written to."""


def fast_form(seanet: SEANet) -> Step:
    """What gives the layers' numbers, [B, C, L] -> [B, C', L'], in the least time: the form below, or where that does
    not suit a copy of the layers with their weight norms folded.
    """
    if TimeMajor.suits(seanet):
        return TimeMajor(seanet)
    return fold_weight_norm(copy.deepcopy(seanet.layers)).forward


class TimeMajor:
    """The layers of an encoder or decoder as steps."""

    def __init__(self, seanet: SEANet) -> None:
        self.steps = [
            step_of(layer, activated=isinstance(before, nn.ELU))
            for before, layer in pairwise([None, *seanet.layers])
            if not isinstance(layer, nn.ELU)
        ]

    @staticmethod
    def suits(seanet: SEANet) -> bool:
        """Whether all its layers have such a form: not those that normalise over time (48 kHz), nor on a GPU."""
        weights = list(seanet.parameters())
        return all(w.device.type == "cpu" and w.dtype == torch.float32 for w in weights) and not any(
            isinstance(layer, nn.GroupNorm) for layer in seanet.modules()
        )

    def __call__(self, x: Tensor) -> Tensor:
        """[B, C, L] -> [B, C', L']"""
        x = x.transpose(1, 2)
        for step in self.steps:
            x = step(x)
        return x.transpose(1, 2).contiguous()


def step_of(layer: nn.Module, *, activated: bool = False) -> Step:
    """The layer as a step.   activated: of ELU(x), which only the convolutions know to do."""
    match layer:
        case Conv1d():
            return Convolution(layer, activated=activated)
        case ConvTranspose1d():
            return TransposedConvolution(layer, activated=activated)
    assert not activated, layer
    match layer:
        case ResidualBlock():
            return Residual(layer)
        case SkipLSTM():
            return SkipLSTMStep(layer)
        case nn.Identity():
            return lambda x: x
    return lambda x: layer(x.transpose(1, 2)).transpose(1, 2)  # a final activation


class Product:
    """x [..., D] -> [..., D'] with a weight [D', D] that is reordered once, where there is a kernel for it."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight.contiguous(), bias
        self.packed = reordered(self.weight)

    def __call__(self, x: Tensor) -> Tensor:
        if self.packed is None:
            return F.linear(x, self.weight, self.bias)
        return packed_linear(x, self.packed, self.bias)

    def __reduce__(self) -> tuple[Any, ...]:
        return Product, (self.weight, self.bias)  # a reordered weight cannot be copied: it is made again


class Sums:
    """A convolution without padding, of weight [C', C, kernel], by one of three ways; the sizes say which is fastest.

    To one channel: each tap's product with every frame, then the sum along the diagonal.
    From one channel, or where the weight is larger than the signal: windows of the signal times the weight.
    Otherwise oneDNN's own convolution, which takes channels innermost as they are.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, *, dilation: int = 1) -> None:
        self.bias, self.kernel, self.dilation = bias, weight.shape[2], dilation
        self.is_thin = weight.shape[1] == 1
        self.weight = weight[:, :, None]  # [C', C, 1, kernel]
        is_narrow = weight.shape[0] == 1 and dilation == 1
        self.taps = Product(weight[0].t(), None) if is_narrow else None

    @cached_property
    def windows(self) -> Product:
        """Windows of the signal times the weight [C', kernel * C]; made when sizes first ask for it."""
        return Product(self.weight[:, :, 0].transpose(1, 2).flatten(1), self.bias)

    def __call__(self, x: Tensor) -> Tensor:
        if self.kernel == 1:
            return self.windows(x)
        if self.taps is not None:
            return self._diagonal_sums(self.taps(x))
        if self.is_thin or self.weight.numel() > x.numel():
            span = (self.kernel - 1) * self.dilation + 1
            windows = x.unfold(1, span, 1)[..., :: self.dilation]  # [B, L', C, kernel], a view
            return self.windows(windows.transpose(2, 3).flatten(2))
        image = x.transpose(1, 2)[:, :, None]  # [B, C, 1, L], channels innermost in memory
        y = F.conv2d(image, self.weight, self.bias, dilation=(1, self.dilation))
        return y[:, :, 0].transpose(1, 2)

    def _diagonal_sums(self, products: Tensor) -> Tensor:
        """[B, L, kernel] -> [B, L - kernel + 1, 1]: sum over taps j of products[:, t + j, j]."""
        products = products.contiguous()
        batch, length, taps = products.shape
        diagonals = products.as_strided((batch, length - taps + 1, taps), (length * taps, taps, taps + 1))
        y = diagonals.sum(dim=-1, keepdim=True)
        return y if self.bias is None else y + self.bias


class Convolution:
    """A `Conv1d`. If it has a stride, that many rows are one, and it is a convolution of stride 1 over those.

    activated: of ELU(x) instead of x.
    """

    def __init__(self, layer: Conv1d, *, activated: bool) -> None:
        self.layer, self.stride, self.activated = layer, layer.stride, activated
        weight, bias = layer.conv.weight.detach(), layer.conv.bias
        if self.stride > 1 and (weight.shape[2] % self.stride or layer.dilation > 1):
            raise ValueError(
                f"a convolution of stride {self.stride} with a kernel of {weight.shape[2]}, dilation {layer.dilation}"
            )
        # [C', C, kernel] -> [C', stride * C, kernel / stride]
        of_rows = weight.unflatten(2, (-1, self.stride)).permute(0, 3, 1, 2).flatten(1, 2)
        self.sums = Sums(of_rows, bias, dilation=layer.dilation)

    def __call__(self, x: Tensor) -> Tensor:
        left, right = self.layer.pad_left, self.layer.pad_right + -x.shape[1] % self.stride
        x = pad_time(x, left, right, self.layer.pad_mode, activated=self.activated)
        return self.sums(x.unflatten(1, (-1, self.stride)).flatten(2))


class TransposedConvolution:
    """A `ConvTranspose1d` whose kernel is twice its stride: a convolution of two frames, which gives `stride` rows.

    Frame t reaches the outputs of t by the first half of the kernel and those of t + 1 by the second.
    activated: of ELU(x) instead of x.
    """

    def __init__(self, layer: ConvTranspose1d, *, activated: bool) -> None:
        self.layer, self.activated = layer, activated
        weight, bias = layer.conv.weight.detach(), layer.conv.bias  # [C, C', kernel]
        stride = layer.conv.stride[0]
        if weight.shape[2] != 2 * stride:
            raise ValueError(
                f"a transposed convolution of stride {stride} with a kernel of {weight.shape[2]}"
            )
        now, before = weight.split(stride, dim=2)
        of_frames = torch.stack([before, now], -1).permute(2, 1, 0, 3).flatten(0, 1)  # [stride * C', C, 2]
        self.out_channels = weight.shape[1]
        self.sums = Sums(of_frames, None if bias is None else bias.detach().repeat(stride))

    def __call__(self, x: Tensor) -> Tensor:
        y = self.sums(pad_time(x, 1, 1, "constant", activated=self.activated))
        y = y.reshape(x.shape[0], -1, self.out_channels)
        return y[:, self.layer.trim_left : y.shape[1] - self.layer.trim_right]


class Residual:
    """A `ResidualBlock`."""

    def __init__(self, layer: ResidualBlock) -> None:
        _, narrow, _, wide = layer.block
        self.narrow, self.wide = step_of(narrow, activated=True), step_of(wide)
        self.shortcut = step_of(layer.shortcut)

    def __call__(self, x: Tensor) -> Tensor:
        return self.wide(F.elu_(self.narrow(x))).add_(self.shortcut(x))


class SkipLSTMStep:
    """A `SkipLSTM`."""

    def __init__(self, layer: SkipLSTM) -> None:
        self.lstm = layer.lstm

    def __call__(self, x: Tensor) -> Tensor:
        steps = x.transpose(0, 1)  # [B, T, C] -> [T, B, C]
        return self.lstm(steps)[0].add_(steps).transpose(0, 1)


def pad_time(x: Tensor, left: int, right: int, mode: str, *, activated: bool = False) -> Tensor:
    """`layers.conv.pad` along the time of [B, L, C], of ELU(x) if `activated`: rows before and after."""
    length = x.shape[1]
    if not (left or right):
        return F.elu(x) if activated else x
    if mode not in ("constant", "reflect") or (mode == "reflect" and length <= max(left, right)):
        x = F.elu(x) if activated else x
        return pad(x.transpose(1, 2), left, right, mode).transpose(1, 2).contiguous()
    padded = x.new_empty(x.shape[0], left + length + right, x.shape[2])
    middle = padded[:, left : left + length]
    if activated:
        torch.ops.aten.elu.out(x, out=middle)
    else:
        middle.copy_(x)
    if mode == "constant":  # ELU leaves zeros what they are
        padded[:, :left] = 0
        padded[:, left + length :] = 0
    else:
        padded[:, :left] = middle[:, 1 : left + 1].flip(1)
        padded[:, left + length :] = middle[:, length - 1 - right : length - 1].flip(1)
    return padded
