"""A causal codec at work on audio that is still coming: chunk by chunk, equal to the whole at once.

    state = None
    for chunk in chunks:                       # of any sizes
        codes, state = encode_chunk(codec, chunk, state)
    codes, state = encode_chunk(codec, rest, state, last=True)

A chunk gives the frames that are complete by it; the last one fills up its frame, as `EnCodec.encode` does. The
state is a value: what each layer needs of the past, in a tuple. Nothing is kept in the modules, so one codec can
serve many streams, and a state can be gone on from twice.

What a layer needs: a convolution, the samples that its next frame begins with; a transposed one, the frames that
still sound into the next; an LSTM, its two vectors. Where padding reflects, a convolution cannot begin before it has
seen what is reflected: the first codes come some samples later, and with the last chunk at the latest.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn

from lightning_audio.codec.encodec import EnCodec
from lightning_audio.codec.seanet import ResidualBlock, SkipLSTM
from lightning_audio.layers.conv import Conv1d, ConvTranspose1d, pad

State = tuple[Any, ...]
"""One entry per layer; None where a layer remembers nothing, or has seen nothing yet."""


def encode_chunk(
    codec: EnCodec,
    wav: Tensor,
    state: State | None = None,
    *,
    last: bool = False,
    num_codebooks: int | None = None,
    bandwidth: float | None = None,
) -> tuple[Tensor, State | None]:
    """Codes [B, K, T] of the frames that wav [B, C, L] completes, and the state to give to the next call.

    L may be anything, so T may be 0.
    last: the stream ends with this chunk, which may be empty; there is no state after it.
    num_codebooks, bandwidth: as in `EnCodec.encode`.
    """
    _check_streams(codec)
    if wav.dim() != 3 or wav.shape[1] != codec.channels:
        raise ValueError(f"wav is {tuple(wav.shape)}, the codec wants [batch, {codec.channels}, samples]")
    if last and state is None and wav.shape[-1] == 0:
        raise ValueError("the stream ends without a sample")
    number = codec.codebooks_asked_for(num_codebooks, bandwidth)
    latent, state = _through(codec.encoder.layers, wav, state, last)
    return codec.quantizer.encode(latent, num_codebooks=number), None if last else state


def decode_chunk(
    codec: EnCodec, codes: Tensor, state: State | None = None, *, last: bool = False
) -> tuple[Tensor, State | None]:
    """Audio [B, C, L] that codes [B, K, T] complete, and the state to give to the next call.

    Normally L = T * hop_length; at the start of a codec that reflects, sound is late, and it catches up.
    """
    _check_streams(codec)
    if last and state is None and codes.shape[-1] == 0:
        raise ValueError("the stream ends without a frame")
    wav, state = _through(codec.decoder.layers, codec.quantizer.decode(codes), state, last)
    return wav, None if last else state


def _check_streams(codec: EnCodec) -> None:
    """ValueError where the result would depend on audio that is still to come."""
    if not (codec.encoder.causal and codec.decoder.causal):
        raise ValueError(
            "this codec is not causal: its frames depend on audio that comes later, as all do that have "
            "time_group_norm; only a causal one can stream"
        )
    if codec.normalize or codec.chunk_length is not None:
        raise ValueError("this codec normalises by the volume of a whole chunk: it cannot stream")
    modes = {layer.pad_mode for layer in codec.modules() if isinstance(layer, Conv1d)}
    if unknown := sorted(modes - {"constant", "reflect", "replicate"}):
        raise ValueError(f"padding {unknown[0]!r} needs the end of the audio at its start: it cannot stream")


def _through(layers: Iterable[nn.Module], x: Tensor, state: State | None, last: bool) -> tuple[Tensor, State]:
    """What the layers make of x, one after the other, and their states."""
    layers = list(layers)
    after: list[Any] = []
    for layer, before in zip(layers, state or [None] * len(layers), strict=True):
        x, kept = stream(layer, x, before, last)
        after.append(kept)
    return x, tuple(after)


@singledispatch
def stream(layer: nn.Module, x: Tensor, state: Any, last: bool) -> tuple[Tensor, Any]:
    """One layer's share of `layer(whole)` that x [B, C, L] completes, and its next state.

    As it stands for layers that treat each position by itself; the others are registered below.
    """
    return layer(x), None


@dataclass(frozen=True)
class _ConvState:
    """x: padded input that the next frame begins with.   begun: whether the padding is on its left."""

    x: Tensor
    begun: bool


@stream.register
def _(layer: Conv1d, x: Tensor, state: _ConvState | None, last: bool) -> tuple[Tensor, _ConvState]:
    begun = state is not None and state.begun
    x = x if state is None else torch.cat([state.x, x], -1)
    if not begun and (layer.pad_mode == "constant" or x.shape[-1] > layer.pad_left):
        x, begun = pad(x, layer.pad_left, 0, layer.pad_mode), True
    if not begun:  # so short that padding has its own rules
        nothing = x.new_zeros(x.shape[0], layer.conv.out_channels, 0)
        return layer(x) if last and x.shape[-1] else nothing, _ConvState(x, begun)
    context = layer.pad_left  # padded input of n frames' strides is this much longer
    if last:
        x = pad(x, 0, -(x.shape[-1] - context) % layer.stride, layer.pad_mode)
    frames = max(0, (x.shape[-1] - context) // layer.stride)
    if frames == 0:
        return x.new_zeros(x.shape[0], layer.conv.out_channels, 0), _ConvState(x, begun)
    used = x[..., : context + frames * layer.stride]
    y = nn.functional.conv1d(used, layer.conv.weight, layer.conv.bias, layer.stride, dilation=layer.dilation)
    return y, _ConvState(x[..., frames * layer.stride :].clone(), begun)


@dataclass(frozen=True)
class _TransposedState:
    """x: the frames that still sound.   cut: samples yet to be left out at the start."""

    x: Tensor
    cut: int


@stream.register
def _(
    layer: ConvTranspose1d, x: Tensor, state: _TransposedState | None, last: bool
) -> tuple[Tensor, _TransposedState]:
    stride = layer.conv.stride[0]
    past = -(-layer.conv.kernel_size[0] // stride) - 1  # frames whose sound reaches into the next frame's
    if state is None:  # before the start there is nothing, which sounds like zeros
        state = _TransposedState(x.new_zeros(*x.shape[:2], past), layer.trim_left)
    frames = torch.cat([state.x, x], -1)
    if x.shape[-1] == 0 and not (last and layer.trim_left):
        return x.new_zeros(x.shape[0], layer.conv.out_channels, 0), state
    sound = layer.conv(frames)[..., past * stride :]
    complete = x.shape[-1] * stride + (layer.trim_left if last else 0)
    cut = min(state.cut, complete)
    return sound[..., cut:complete], _TransposedState(frames[..., x.shape[-1] :].clone(), state.cut - cut)


@stream.register
def _(layer: SkipLSTM, x: Tensor, state: Any, last: bool) -> tuple[Tensor, Any]:
    if x.shape[-1] == 0:
        return x, state
    steps = x.permute(2, 0, 1)  # [B, C, T] -> [T, B, C]
    y, state = layer.lstm(steps, state)
    return (y + steps).permute(1, 2, 0), state


@dataclass(frozen=True)
class _ResidualState:
    """block: of the block's layers.   x: input that the block has not answered yet."""

    block: State
    x: Tensor


@stream.register
def _(
    layer: ResidualBlock, x: Tensor, state: _ResidualState | None, last: bool
) -> tuple[Tensor, _ResidualState]:
    y, block = _through(layer.block, x, None if state is None else state.block, last)
    x = x if state is None else torch.cat([state.x, x], -1)
    done = y.shape[-1]
    shortcut, _ = stream(layer.shortcut, x[..., :done], None, False)  # one position wide: it needs no past
    return shortcut + y, _ResidualState(block, x[..., done:].clone())
