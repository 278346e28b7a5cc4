"""SEANet: the convolutional encoder and decoder of EnCodec (Défossez et al. 2022, section 3.1).

The encoder is a convolution, then one stage per ratio (residual blocks, then a strided convolution that doubles
the channels), then an LSTM and a last convolution. The decoder is its mirror image. Both are plain lists of
layers, in the order in which the published checkpoints number them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_audio.layers.conv import Conv1d, ConvTranspose1d


class ResidualBlock(nn.Module):
    """x + conv1(elu(conv3(elu(x)))) with a narrower middle: [B, C, L] -> [B, C, L].

    true_skip: the shortcut is x itself, else a convolution of width 1.
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int,
        dilation: int,
        compress: int,
        true_skip: bool,
        conv: partial[Conv1d],
    ) -> None:
        super().__init__()
        hidden = channels // compress
        self.block = nn.Sequential(
            nn.ELU(),  # not in place: the shortcut needs x
            conv(channels, hidden, kernel_size, dilation=dilation),
            nn.ELU(inplace=True),
            conv(hidden, channels, 1),
        )
        self.shortcut = nn.Identity() if true_skip else conv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.block(x)


class SkipLSTM(nn.Module):
    """x + lstm(x) along time: [B, C, T] -> [B, C, T]."""

    def __init__(self, channels: int, num_layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, num_layers)

    def forward(self, x: Tensor) -> Tensor:
        steps = x.permute(2, 0, 1)  # [B, C, T] -> [T, B, C]
        return (self.lstm(steps)[0] + steps).permute(1, 2, 0)


class SEANet(nn.Module):
    """What encoder and decoder share: a list of layers, and a faster form of them while they do not change.

    fast: gives what the layers give, to rounding. Set by `EnCodec.prepare_for_inference`; it is no part of the state,
        serves only where no gradient is asked for, and goes when the weights may change: in training, on another
        device or in another precision, and when weights are loaded.
    """

    layers: nn.Sequential
    fast: Callable[[Tensor], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) if self.fast is None or self._may_need_gradients(x) else self.fast(x)

    def _may_need_gradients(self, x: Tensor) -> bool:
        asked = x.requires_grad or next(self.parameters()).requires_grad
        return (torch.is_grad_enabled() and asked) or torch.is_autocast_enabled(x.device.type)

    def train(self, mode: bool = True) -> SEANet:
        if mode:
            self.fast = None
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> SEANet:
        self.fast = None
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.fast = None
        super()._load_from_state_dict(*args, **kwargs)


class SEANetEncoder(SEANet):
    """Audio to latents: [B, C, L] -> [B, D, ceil(L / hop_length)].

    channels: of the audio.   dim: D.   num_filters: channels of the first layer; doubled by each stage.
    ratios: the strides, in the decoder's order (the encoder goes through them backwards).
    num_lstm_layers: 0 leaves the LSTM out.
    num_outer_blocks_without_norm: how many blocks (a stage counts as one), from the audio inwards, have no norm.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        dim: int = 128,
        num_filters: int = 32,
        ratios: Sequence[int] = (8, 5, 4, 2),
        num_residual_layers: int = 1,
        kernel_size: int = 7,
        last_kernel_size: int = 7,
        residual_kernel_size: int = 3,
        dilation_base: int = 2,
        compress: int = 2,
        num_lstm_layers: int = 2,
        causal: bool = False,
        pad_mode: str = "constant",
        true_skip: bool = True,
        weight_norm: bool = True,
        time_group_norm: bool = False,
        num_outer_blocks_without_norm: int = 0,
    ) -> None:
        super().__init__()
        num_blocks = len(ratios) + 2

        def conv_of(block: int) -> partial[Conv1d]:
            """The convolution of block 0 (first layer), 1 ... (stages), num_blocks - 1 (last layer)."""
            normed = block >= num_outer_blocks_without_norm
            return partial(
                Conv1d,
                causal=causal,
                pad_mode=pad_mode,
                weight_norm=weight_norm and normed,
                time_group_norm=time_group_norm and normed,
            )

        width = num_filters
        layers: list[nn.Module] = [conv_of(0)(channels, width, kernel_size)]
        for stage, ratio in enumerate(reversed(ratios), start=1):
            conv = conv_of(stage)
            layers += [
                ResidualBlock(
                    width,
                    kernel_size=residual_kernel_size,
                    dilation=dilation_base**layer,
                    compress=compress,
                    true_skip=true_skip,
                    conv=conv,
                )
                for layer in range(num_residual_layers)
            ]
            layers += [nn.ELU(inplace=True), conv(width, 2 * width, 2 * ratio, stride=ratio)]
            width *= 2
        if num_lstm_layers:
            layers.append(SkipLSTM(width, num_lstm_layers))
        layers += [nn.ELU(inplace=True), conv_of(num_blocks - 1)(width, dim, last_kernel_size)]
        self.layers = nn.Sequential(*layers)
        self.channels = channels
        self.dim = dim
        self.causal = causal
        self.hop_length = math.prod(ratios)


class SEANetDecoder(SEANet):
    """Latents to audio: [B, D, T] -> [B, C, T * hop_length]. The options are the encoder's, and

    trim_right_ratio: of the transposed convolutions when causal, see `ConvTranspose1d`.
    final_activation: after the last convolution, such as `nn.Tanh()`.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        dim: int = 128,
        num_filters: int = 32,
        ratios: Sequence[int] = (8, 5, 4, 2),
        num_residual_layers: int = 1,
        kernel_size: int = 7,
        last_kernel_size: int = 7,
        residual_kernel_size: int = 3,
        dilation_base: int = 2,
        compress: int = 2,
        num_lstm_layers: int = 2,
        causal: bool = False,
        pad_mode: str = "constant",
        true_skip: bool = True,
        weight_norm: bool = True,
        time_group_norm: bool = False,
        num_outer_blocks_without_norm: int = 0,
        trim_right_ratio: float = 1.0,
        final_activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        num_blocks = len(ratios) + 2

        def norm_of(block: int) -> dict[str, bool]:
            """Norms of block 0 (first layer) ... num_blocks - 1 (last layer, the outermost one)."""
            normed = num_blocks - 1 - block >= num_outer_blocks_without_norm
            return {"weight_norm": weight_norm and normed, "time_group_norm": time_group_norm and normed}

        def conv_of(block: int) -> partial[Conv1d]:
            return partial(Conv1d, causal=causal, pad_mode=pad_mode, **norm_of(block))

        width = num_filters * 2 ** len(ratios)
        layers: list[nn.Module] = [conv_of(0)(dim, width, kernel_size)]
        if num_lstm_layers:
            layers.append(SkipLSTM(width, num_lstm_layers))
        for stage, ratio in enumerate(ratios, start=1):
            layers += [
                nn.ELU(inplace=True),
                ConvTranspose1d(
                    width,
                    width // 2,
                    2 * ratio,
                    stride=ratio,
                    causal=causal,
                    trim_right_ratio=trim_right_ratio,
                    **norm_of(stage),
                ),
            ]
            width //= 2
            layers += [
                ResidualBlock(
                    width,
                    kernel_size=residual_kernel_size,
                    dilation=dilation_base**layer,
                    compress=compress,
                    true_skip=true_skip,
                    conv=conv_of(stage),
                )
                for layer in range(num_residual_layers)
            ]
        layers += [nn.ELU(inplace=True), conv_of(num_blocks - 1)(width, channels, last_kernel_size)]
        if final_activation is not None:
            layers.append(final_activation)
        self.layers = nn.Sequential(*layers)
        self.channels = channels
        self.dim = dim
        self.causal = causal
        self.hop_length = math.prod(ratios)
