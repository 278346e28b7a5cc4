"""The U-Net that predicts the noise in audio: down to a bottleneck, where the condition comes in, and up again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise, zip_longest
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_audio.layers.positions import sinusoidal_embedding
from lightning_audio.layers.transformer import Transformer

MakeBottleneck = Callable[..., "LSTMBottleneck | TransformerBottleneck"]


class UNet(nn.Module):
    """Noise in [B, C, L], given how noisy it is and a condition [B, D, T] that says what is under the noise.

    channels: C.   hidden: channels of the first level; each further one has `growth` times as many, up to
        `max_channels`.   depth: levels, each with `stride` times fewer frames.
    num_steps: noise levels that there are.   embed_at_all_levels: the noise level is told to every level, not
        to the first alone.
    condition_dim: D; None for a network without a condition.
    bottleneck: from its width (`dim`) to what stands there; None: nothing but the skips leads up.
    res_blocks, norm_groups, dropout: of each level.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        hidden: int = 48,
        depth: int = 4,
        growth: float = 4.0,
        max_channels: int = 10_000,
        kernel_size: int = 8,
        stride: int = 4,
        num_steps: int = 1000,
        embed_at_all_levels: bool = True,
        condition_dim: int | None = 128,
        res_blocks: int = 1,
        norm_groups: int = 4,
        dropout: float = 0.0,
        bottleneck: MakeBottleneck | None = None,
    ) -> None:
        super().__init__()
        widths = list(_widths(channels, hidden, depth, growth, max_channels))
        if bad := [width for width in widths[1:] if width % norm_groups]:
            raise ValueError(f"{bad[0]} channels do not divide into {norm_groups} groups")
        self.channels, self.stride, self.num_steps = channels, stride, num_steps
        self.condition_dim = condition_dim
        levels = list(pairwise(widths))
        block: dict[str, Any] = {"res_blocks": res_blocks, "norm_groups": norm_groups, "dropout": dropout}
        self.encoders = nn.ModuleList(
            EncoderLevel(narrow, wide, kernel_size, stride, **block) for narrow, wide in levels
        )
        self.decoders = nn.ModuleList(
            DecoderLevel(wide, narrow, kernel_size, stride, **block) for narrow, wide in reversed(levels)
        )
        self.step_embedding = nn.Embedding(num_steps, hidden)
        deeper = widths[2:] if embed_at_all_levels else []
        self.deeper_step_embeddings = nn.ModuleList(nn.Embedding(num_steps, width) for width in deeper)
        self.bottleneck = None if bottleneck is None else bottleneck(dim=widths[-1])
        self.condition_proj = None if condition_dim is None else nn.Conv1d(condition_dim, widths[-1], 1)

    @property
    def attends(self) -> bool:
        """Whether the condition is attended to by the bottleneck, rather than added to what comes into it."""
        return self.bottleneck is not None and self.bottleneck.attends

    def forward(self, x: Tensor, step: int | Tensor, condition: Tensor | None = None) -> Tensor:
        """x [B, C, L], step: noise level of all items, or int64 [B], condition [B, D, T] -> noise [B, C, L]"""
        return self.denoise(x, step, self.embed_condition(condition, x.shape[-1]))

    def embed_condition(self, condition: Tensor | None, num_samples: int) -> Tensor | None:
        """The condition [B, D, T] as the bottleneck takes it, for that much audio; the same at all noise levels."""
        if self.condition_proj is None or condition is None:
            if self.condition_proj is not None or condition is not None:
                raise ValueError(
                    f"the network has condition_dim {self.condition_dim}, "
                    f"and was given {'no' if condition is None else 'a'} condition"
                )
            return None
        embedded = self.condition_proj(condition)
        if self.attends:
            positions = torch.arange(embedded.shape[-1], device=embedded.device)
            sinusoids = sinusoidal_embedding(positions, embedded.shape[1])  # [T, D]
            return embedded + sinusoids.t().to(embedded.dtype)
        frames = self._bottleneck_frames(num_samples)
        if embedded.shape[-1] > 2 * frames:
            raise ValueError(
                f"a condition of {embedded.shape[-1]} frames would lose half of them: {num_samples} samples "
                f"have {frames} frames in the bottleneck"
            )
        return F.interpolate(embedded, frames)

    def denoise(self, x: Tensor, step: int | Tensor, embedded: Tensor | None) -> Tensor:
        """`forward` with a condition that `embed_condition` prepared."""
        hidden, skips = x, []
        embeddings = [self.step_embedding, *self.deeper_step_embeddings]
        for encoder, embedding in zip_longest(self.encoders, embeddings):
            hidden = encoder(hidden)
            if embedding is not None:
                # A row, or one row per item; an int is not sent to the device as a tensor.
                hidden = hidden + embedding.weight[step].unsqueeze(-1)
            skips.append(hidden)
        if embedded is not None and not self.attends:
            # The condition is part of the last skip too, since published networks add it in place to the very
            # tensor that they have put by. Without a bottleneck it has no other way: left out of the skip, the
            # network would not depend on it, and no error would say so.
            hidden = hidden + embedded
            skips[-1] = hidden
        rising = None if self.bottleneck is None else self.bottleneck(hidden, embedded)
        for decoder, skip in zip(self.decoders, reversed(skips), strict=True):
            rising = decoder(skip if rising is None else rising[..., : skip.shape[-1]] + skip)
        assert rising is not None
        return rising[..., : x.shape[-1]]

    def _bottleneck_frames(self, num_samples: int) -> int:
        frames = num_samples
        for _ in self.encoders:
            frames = -(-frames // self.stride)  # each level fills up its last frame
        return frames


class ResidualBlock(nn.Module):
    """x + two convolutions of it, each after a norm and a ReLU: [B, D, T] -> [B, D, T]."""

    def __init__(self, dim: int, *, dilation: int, norm_groups: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(norm_groups, dim), nn.GroupNorm(norm_groups, dim)
        self.conv1 = nn.Conv1d(dim, dim, 3, padding=dilation, dilation=dilation)
        self.conv2 = nn.Conv1d(dim, dim, 3, padding=dilation, dilation=dilation)
        self.dropout = nn.Dropout1d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(self.conv1(F.relu(self.norm1(x))))
        return x + self.dropout(self.conv2(F.relu(self.norm2(hidden))))


class EncoderLevel(nn.Module):
    """Fewer frames of more channels: [B, C, T] -> [B, D, ceil(T / stride)]."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        *,
        res_blocks: int,
        norm_groups: int,
        dropout: float,
    ) -> None:
        super().__init__()
        padding = (kernel_size - stride) // 2
        self.stride = stride
        self.conv = nn.Conv1d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.norm = nn.GroupNorm(norm_groups, out_channels)
        self.blocks = _residual_blocks(out_channels, res_blocks, norm_groups, dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, -x.shape[-1] % self.stride))
        return self.blocks(F.relu(self.norm(self.conv(x))))


class DecoderLevel(nn.Module):
    """More frames of fewer channels: [B, D, T] -> [B, C, T * stride]."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        *,
        res_blocks: int,
        norm_groups: int,
        dropout: float,
    ) -> None:
        super().__init__()
        padding = (kernel_size - stride) // 2
        self.blocks = _residual_blocks(in_channels, res_blocks, norm_groups, dropout)
        self.norm = nn.GroupNorm(norm_groups, in_channels)
        self.conv = nn.ConvTranspose1d(in_channels, out_channels, kernel_size, stride, padding, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.relu(self.norm(self.blocks(x))))


class LSTMBottleneck(nn.Module):
    """A bidirectional LSTM, brought back to its input's width: [B, D, T] -> [B, D, T]."""

    attends = False

    def __init__(self, *, dim: int, num_layers: int = 2) -> None:
        super().__init__()
        self.lstm = nn.LSTM(dim, dim, num_layers, bidirectional=True)
        self.linear = nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """The condition is in x already."""
        hidden, _ = self.lstm(x.permute(2, 0, 1))  # [B, D, T] -> [T, B, 2 D]
        return self.linear(hidden).permute(1, 2, 0)


class TransformerBottleneck(nn.Module):
    """A transformer over all frames; with `cross_attention` it attends to the condition [B, D, T']."""

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int = 8,
        num_layers: int = 6,
        hidden_dim: int = 2048,
        cross_attention: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.attends = cross_attention
        self.transformer = Transformer(
            dim=dim,
            num_heads=num_heads,
            num_layers=num_layers,
            hidden_dim=hidden_dim,
            causal=False,
            cross_attention=cross_attention,
            pre_norm=False,
            dropout=dropout,
            activation=F.relu,
        )

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """x [B, D, T] -> [B, D, T]"""
        cross = condition.transpose(1, 2) if self.attends and condition is not None else None
        return self.transformer(x.transpose(1, 2), cross=cross).transpose(1, 2)


def _widths(channels: int, hidden: int, depth: int, growth: float, most: int) -> Iterator[int]:
    """Channels of the audio and of each level."""
    yield channels
    for _ in range(depth):
        yield hidden
        hidden = min(int(hidden * growth), most)


def _residual_blocks(dim: int, number: int, norm_groups: int, dropout: float) -> nn.Sequential:
    """Each looks twice as far as the one before."""
    return nn.Sequential(
        *[
            ResidualBlock(dim, dilation=2**index, norm_groups=norm_groups, dropout=dropout)
            for index in range(number)
        ]
    )
