"""The transformer under every language model here; what it sees and remembers are arguments.

    x -> + self-attention -> (+ cross-attention to the conditions) -> + feed-forward -> ...

Causal by default. With a `KVCache` it goes on from where the previous call stopped, so that generating one
step costs one step; full, chunked and step-by-step passes give the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_audio.layers.linear import Linear
from lightning_audio.layers.positions import Rotation, sinusoidal_embedding

Activation = Callable[[Tensor], Tensor]
KeysValues = list[tuple[Tensor, Tensor]]
"""Keys and values of the conditions, [B, H, S, D] each, one pair per layer; empty before the first pass."""


class KVCache:
    """Keys and values of the steps seen so far, in memory allocated once.

    keys, values: one [B, H, capacity, D] tensor per layer, filled up to `length`.
    cross: per layer the keys and values of the conditions, computed on the first call and kept.
    dtype: the model's, but no less than float32 on CPU: attention of one query to bfloat16 keys takes three times
        as long there.
    visible: [B, capacity] bool, False where a step is padding that no later step may see; None: there is none.
    shift: [B, 1] int64, how many of an item's steps are such padding, which its positions do not count.
    """

    def __init__(
        self,
        transformer: Transformer,
        *,
        batch_size: int,
        capacity: int,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shape = (batch_size, transformer.num_kv_heads, capacity, transformer.head_dim)
        parameter = next(transformer.parameters())
        device = device or parameter.device
        if dtype is None:
            dtype = parameter.dtype
            dtype = torch.promote_types(dtype, torch.float32) if device.type == "cpu" else dtype
        self.device, self.dtype = device, dtype
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in transformer.layers]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in transformer.layers]
        self.cross: KeysValues = []
        self.visible: Tensor | None = None
        self.shift: Tensor | None = None
        self.capacity = capacity
        self.length = 0

    def steps(self, num_steps: int) -> Tensor:
        """Where the next steps stand among all.  [S] int64.  ValueError where there is no room for them."""
        end = self.length + num_steps
        if end > self.capacity:
            raise ValueError(
                f"the cache has room for {self.capacity} steps, and {self.length} + {num_steps} are needed"
            )
        return torch.arange(self.length, end, device=self.device)

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Stores the new steps of one layer [B, H, S, D]; gives all its steps so far, as views."""
        end = self.length + key.shape[2]
        self.keys[layer][:, :, self.length : end] = key
        self.values[layer][:, :, self.length : end] = value
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def hide(self, visible: Tensor) -> Tensor:
        """Hides the next steps where `visible` [B, S] is False, from these and all later steps.

        Gives the number of hidden ones up to each of them.  [B, S] int64
        """
        if self.visible is None or self.shift is None:
            self.visible = visible.new_ones(visible.shape[0], self.capacity)
            self.shift = torch.zeros(visible.shape[0], 1, dtype=torch.long, device=visible.device)
        self.visible[:, self.length : self.length + visible.shape[1]] = visible
        hidden = (~visible).cumsum(dim=1) + self.shift
        self.shift = hidden[:, -1:]
        return hidden

    def advance(self, num_steps: int) -> None:
        """The new steps are stored in all layers."""
        self.length += num_steps


class StaticKVCache(KVCache):
    """The memory of a `KVCache` that holds the first steps, gone on with by work that is the same every step.

    So that one step can be recorded once and replayed (`lm.captured`), none of its shapes depend on how many
    steps there were, and no number of the host's is part of it: the place is on the device and moves on by
    itself, and attention reads `span` keys and values, of which those not yet written are masked.

    position: [1] int64, where the next step goes.
    span: a whole number of `SPAN` steps, or all there is room for. Reading all of the room would cost: with 16
        rows, the keys and values of 1500 steps are 1.7 times the weights of a layer of MusicGen large. So half
        a SPAN is read in vain on average, and the step is recorded anew for each.
    """

    SPAN = 256

    def __init__(self, cache: KVCache) -> None:
        if cache.length == 0:
            raise ValueError("the first steps, with what is in front of them, are for a cache that grows")
        vars(self).update(vars(cache))
        self.position = torch.full((1,), cache.length, device=cache.device)
        self.span = self.reach(cache.length)

    def reach(self, position: int) -> int:
        """Makes attention read up to this position at least, and gives the span. Not part of the step's work."""
        self.span = min((position // self.SPAN + 1) * self.SPAN, self.capacity)
        return self.span

    def steps(self, num_steps: int) -> Tensor:
        if num_steps != 1:
            raise ValueError(f"a static cache goes on by 1 step at a time, got {num_steps}")
        return self.position

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.keys[layer], self.values[layer]
        keys.index_copy_(2, self.position, key.to(self.dtype))
        values.index_copy_(2, self.position, value.to(self.dtype))
        return keys[:, :, : self.span], values[:, :, : self.span]

    def hide(self, visible: Tensor) -> Tensor:
        raise ValueError("padding is in front of the codes, and is fed before a cache is made static")

    def advance(self, num_steps: int) -> None:
        self.position += num_steps


@dataclass(frozen=True)
class View:
    """What one forward pass may see and where its steps are: worked out once, used by every layer.

    mask: bool, broadcastable to [B, H, S, S'] (True = attend), or None: everything, or with `is_causal`
    everything before.   window: with a cache and no mask, how many of the last keys are seen.
    cross [B, S', D], cross_mask [B, 1, 1, S']: the conditions.   cross_cache: their keys and values per layer,
    to be filled by the first pass, or None.
    """

    mask: Tensor | None
    is_causal: bool
    window: int | None
    rotation: Rotation | None
    cross: Tensor | None
    cross_mask: Tensor | None
    cross_cache: KeysValues | None
    cache: KVCache | None


class SelfAttention(nn.Module):
    """Attention over the sequence itself; `kv_repeat` query heads share one head of keys and values."""

    def __init__(self, dim: int, num_heads: int, *, bias: bool, kv_repeat: int, norm: bool, dropout: float):
        super().__init__()
        self.head_dim = dim // num_heads
        self.shares_heads = kv_repeat > 1
        self.widths = [dim, dim // kv_repeat, dim // kv_repeat]
        self.dropout = dropout
        self.qkv = Linear(dim, sum(self.widths), bias=bias)
        self.output = Linear(dim, dim, bias=bias)
        self.query_norm = nn.LayerNorm(dim) if norm else nn.Identity()
        self.key_norm = nn.LayerNorm(dim // kv_repeat) if norm else nn.Identity()

    def forward(self, x: Tensor, view: View, layer: int) -> Tensor:
        """x [B, S, D] -> [B, S, D]"""
        query, key, value = self.qkv(x).split(self.widths, dim=-1)
        query = split_heads(self.query_norm(query), self.head_dim)
        key, value = split_heads(self.key_norm(key), self.head_dim), split_heads(value, self.head_dim)
        if view.rotation is not None:
            query, key = view.rotation.query(query), view.rotation.key(key)
        if view.cache is not None:
            key, value = view.cache.append(layer, key, value)
            if view.window is not None:
                key, value = key[:, :, -view.window :], value[:, :, -view.window :]
        attended = F.scaled_dot_product_attention(
            query.to(key.dtype),  # a cache has its own precision
            key,
            value,
            attn_mask=view.mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=view.is_causal,
            enable_gqa=self.shares_heads,
        )
        return self.output(attended.transpose(1, 2).flatten(2).to(x.dtype))


class CrossAttention(nn.Module):
    """Attention from the sequence to the conditions."""

    def __init__(self, dim: int, num_heads: int, *, bias: bool, norm: bool, dropout: float):
        super().__init__()
        self.head_dim = dim // num_heads
        self.dropout = dropout
        self.query = Linear(dim, dim, bias=bias)
        self.key_value = Linear(dim, 2 * dim, bias=bias)
        self.output = Linear(dim, dim, bias=bias)
        self.query_norm = nn.LayerNorm(dim) if norm else nn.Identity()
        self.key_norm = nn.LayerNorm(dim) if norm else nn.Identity()

    def forward(self, x: Tensor, view: View, layer: int) -> Tensor:
        """x [B, S, D] -> [B, S, D]"""
        query = split_heads(self.query_norm(self.query(x)), self.head_dim)
        key, value = self._keys_values(view, layer)
        attended = F.scaled_dot_product_attention(
            query.to(key.dtype),
            key,
            value,
            attn_mask=view.cross_mask,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.output(attended.transpose(1, 2).flatten(2).to(x.dtype))

    def _keys_values(self, view: View, layer: int) -> tuple[Tensor, Tensor]:
        """Those of the conditions, each [B, H, S, D]: from the cache, but for the first time."""
        if view.cross_cache is not None and len(view.cross_cache) > layer:
            return view.cross_cache[layer]
        if view.cross is None:
            raise ValueError("this transformer has cross-attention, and was given no conditions to attend to")
        key, value = self.key_value(view.cross).chunk(2, dim=-1)
        keys_values = split_heads(self.key_norm(key), self.head_dim), split_heads(value, self.head_dim)
        if view.cache is not None:
            keys_values = keys_values[0].to(view.cache.dtype), keys_values[1].to(view.cache.dtype)
        if view.cross_cache is not None:
            view.cross_cache.append(keys_values)
        return keys_values


def split_heads(x: Tensor, head_dim: int) -> Tensor:
    """[B, S, H * D] -> [B, H, S, D]"""
    return x.unflatten(-1, (-1, head_dim)).transpose(1, 2)


class LayerScale(nn.Module):
    """A learnt factor per channel of a residual branch, small at first (arXiv 2103.17239)."""

    def __init__(self, dim: int, init: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((dim,), init))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class FeedForward(nn.Module):
    """The same two-layer network on every step."""

    def __init__(
        self, dim: int, hidden_dim: int, *, bias: bool, dropout: float, activation: Activation
    ) -> None:
        super().__init__()
        self.expand = Linear(dim, hidden_dim, bias=bias)
        self.contract = Linear(hidden_dim, dim, bias=bias)
        self.dropout = dropout
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.activation(self.expand(x))
        return self.contract(F.dropout(hidden, self.dropout, self.training) if self.dropout else hidden)


class TransformerLayer(nn.Module):
    """Self-attention, cross-attention where there are conditions, feed-forward; each a residual branch."""

    def __init__(
        self,
        self_attention: SelfAttention,
        cross_attention: CrossAttention | None,
        feedforward: FeedForward,
        *,
        dim: int,
        pre_norm: bool,
        layer_scale: float | None,
        dropout: float,
    ) -> None:
        super().__init__()

        def scale() -> nn.Module:
            return nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)

        self.pre_norm, self.dropout = pre_norm, dropout
        self.self_attention, self.norm_self, self.scale_self = self_attention, nn.LayerNorm(dim), scale()
        self.cross_attention = cross_attention
        if cross_attention is not None:
            self.norm_cross, self.scale_cross = nn.LayerNorm(dim), scale()
        self.feedforward, self.norm_feedforward, self.scale_feedforward = (
            feedforward,
            nn.LayerNorm(dim),
            scale(),
        )

    def forward(self, x: Tensor, view: View, layer: int) -> Tensor:
        """x [B, S, D] -> [B, S, D]"""
        if self.pre_norm:
            x = x + self._drop(self.scale_self(self.self_attention(self.norm_self(x), view, layer)))
            if self.cross_attention is not None:
                x = x + self._drop(self.scale_cross(self.cross_attention(self.norm_cross(x), view, layer)))
            return x + self._drop(self.scale_feedforward(self.feedforward(self.norm_feedforward(x))))
        y = self.norm_self(x + self._drop(self.scale_self(self.self_attention(x, view, layer))))
        if self.cross_attention is not None:
            # The query is the layer's input, not `y`: so were the published post-norm models made.
            y = self.norm_cross(y + self._drop(self.scale_cross(self.cross_attention(x, view, layer))))
        return self.norm_feedforward(y + self._drop(self.scale_feedforward(self.feedforward(y))))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class Transformer(nn.Module):
    """A stack of layers.

    sinusoidal, rotary, xpos: kinds of positions; they go together, or none.
    position_scale: factor of the sinusoidal ones.
    causal: a step sees no later step.   past_context: how many earlier ones it sees; None = all.
    kv_repeat: query heads per head of keys and values.   layer_scale: where it starts; None = no such factor.
    recompute: keep only each layer's input for the backward pass and compute the rest again (less memory).
    """

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        num_layers: int,
        hidden_dim: int,
        causal: bool = True,
        cross_attention: bool = False,
        pre_norm: bool = True,
        bias_attention: bool = False,
        bias_feedforward: bool = False,
        sinusoidal: bool = True,
        rotary: bool = False,
        xpos: bool = False,
        position_scale: float = 1.0,
        max_period: float = 10_000.0,
        past_context: int | None = None,
        kv_repeat: int = 1,
        qk_norm: bool = False,
        qk_norm_cross: bool = False,
        layer_scale: float | None = None,
        dropout: float = 0.0,
        attention_dropout: float | None = None,
        activation: Activation = F.gelu,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        if dim % num_heads or num_heads % kv_repeat:
            raise ValueError(
                f"width {dim} does not divide into {num_heads} heads, or these by kv_repeat {kv_repeat}"
            )
        if xpos and not rotary:
            raise ValueError("xpos scales rotary positions: it needs rotary=True")
        if past_context is not None and not causal:
            raise ValueError(f"past_context {past_context} needs a causal transformer")
        attention_dropout = dropout if attention_dropout is None else attention_dropout
        self.dim, self.head_dim, self.num_kv_heads = dim, dim // num_heads, num_heads // kv_repeat
        self.causal, self.past_context, self.recompute = causal, past_context, recompute
        self.sinusoidal, self.rotary, self.xpos = sinusoidal, rotary, xpos
        self.position_scale, self.max_period = position_scale, max_period
        self.layers = nn.ModuleList(
            TransformerLayer(
                SelfAttention(
                    dim,
                    num_heads,
                    bias=bias_attention,
                    kv_repeat=kv_repeat,
                    norm=qk_norm,
                    dropout=attention_dropout,
                ),
                CrossAttention(
                    dim, num_heads, bias=bias_attention, norm=qk_norm_cross, dropout=attention_dropout
                )
                if cross_attention
                else None,
                FeedForward(dim, hidden_dim, bias=bias_feedforward, dropout=dropout, activation=activation),
                dim=dim,
                pre_norm=pre_norm,
                layer_scale=layer_scale,
                dropout=dropout,
            )
            for _ in range(num_layers)
        )

    def forward(
        self,
        x: Tensor,
        *,
        cross: Tensor | None = None,
        cross_mask: Tensor | None = None,
        mask: Tensor | None = None,
        visible: Tensor | None = None,
        cache: KVCache | None = None,
        cross_cache: KeysValues | None = None,
    ) -> Tensor:
        """x [B, S, D] -> [B, S, D]

        cross [B, S', D], cross_mask [B, S'] bool: what cross-attention sees (True = attend).
        mask: bool, [S, S] or broadcastable to [B, H, S, S]: in place of the causal mask (True = attend).
        visible [B, S] bool: False where a step is padding: never attended, and not counted in positions.
        cache: go on after the steps that it holds, and add these.
        cross_cache: for passes over whole sequences under the same conditions: what the first one computed
            of these serves the next ones. A `cache` has its own.
        """
        num_steps = x.shape[1]
        steps = torch.arange(num_steps, device=x.device) if cache is None else cache.steps(num_steps)
        positions = self._positions(steps, visible, cache)
        if self.sinusoidal:
            embedding = sinusoidal_embedding(positions, self.dim, max_period=self.max_period)
            x = x + (self.position_scale * embedding).to(x.dtype)
        cross_cache = cross_cache if cache is None else cache.cross
        view = self._view(steps, positions, cross, cross_mask, mask, visible, cache, cross_cache)
        for index, layer in enumerate(self.layers):
            if self.recompute and self.training:
                x = checkpoint(layer, x, view, index, use_reentrant=False)
            else:
                x = layer(x, view, index)
        if cache is not None:
            cache.advance(num_steps)
        return x

    def _positions(self, steps: Tensor, visible: Tensor | None, cache: KVCache | None) -> Tensor:
        """[S], or [B, S] where items have unlike numbers of hidden steps before."""
        hidden = None if cache is None else cache.shift
        if visible is not None:
            hidden = (~visible).cumsum(dim=1) if cache is None else cache.hide(visible)
        return steps if hidden is None else (steps - hidden).clamp(min=0)

    def _view(
        self,
        steps: Tensor,
        positions: Tensor,
        cross: Tensor | None,
        cross_mask: Tensor | None,
        mask: Tensor | None,
        visible: Tensor | None,
        cache: KVCache | None,
        cross_cache: KeysValues | None,
    ) -> View:
        """Writes a mask down only where SDPA's own causal mode, or a cut of the keys, cannot say the same."""
        start, num_steps = 0 if cache is None else cache.length, len(steps)
        visible = cache.visible if cache is not None else visible
        is_causal, window = False, None
        if mask is None and isinstance(cache, StaticKVCache):
            mask = self._mask(steps, cache.span, visible)
        elif mask is None and visible is None and num_steps == 1 and cache is not None:
            window = None if self.past_context is None else self.past_context + 1
        elif mask is None and visible is None and start == 0 and self.past_context is None:
            is_causal = self.causal
        elif mask is None:
            mask = self._mask(steps, start + num_steps, visible)
        return View(
            mask=mask,
            is_causal=is_causal,
            window=window,
            rotation=Rotation(positions, self.head_dim, max_period=self.max_period, xpos=self.xpos)
            if self.rotary
            else None,
            cross=cross,
            cross_mask=None if cross_mask is None else cross_mask[:, None, None],
            cross_cache=cross_cache,
            cache=cache,
        )

    def _mask(self, steps: Tensor, num_keys: int, visible: Tensor | None) -> Tensor:
        """What these steps [S] see of steps 0 .. S'.  [S, S'] or [B, 1, S, S'] bool."""
        keys = torch.arange(num_keys, device=steps.device)
        distance = steps[:, None] - keys
        # Without causality too, what comes after the last step is not written yet.
        mask = distance >= 0 if self.causal else (keys <= steps[-1]).expand_as(distance)
        if self.past_context is not None:
            mask = mask & (distance <= self.past_context)
        if visible is not None:
            # A hidden step sees itself: a softmax over nothing is NaN, and 0 * NaN would reach the others.
            mask = mask & visible[:, None, None, :num_keys] | (distance == 0)
        return mask
