"""The language model over codes: K embeddings summed at every step, a causal transformer, K heads (MusicGen).

Which code stands at which step is the pattern's business; what the model knows of the clip is the
conditioning's.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_audio.batch import length_mask
from lightning_audio.conditioning.base import FusedConditions
from lightning_audio.conditioning.conditioning import Conditioning
from lightning_audio.layers.linear import Linear, pack_linears
from lightning_audio.layers.transformer import Activation, KeysValues, KVCache, Transformer
from lightning_audio.lm.loss import IGNORE, CodebookLoss, heads_cross_entropy
from lightning_audio.lm.patterns import Pattern


class TokenLM(nn.Module):
    """Codes and conditions -> what comes next.

    num_codebooks, cardinality: of the codec.   dim, num_heads, num_layers, hidden_scale: of the transformer.
    pattern: where each code stands.   conditioning: its width is `dim`; there is cross-attention where it
    fuses so. The rest goes to the transformer, which documents it.

    `special`, the number after the last code, stands where there is no code. The embeddings of all codebooks
    are one table and the heads one matrix, so that a step is one gather and one product whatever K is.
    """

    def __init__(
        self,
        *,
        num_codebooks: int,
        cardinality: int,
        dim: int,
        num_heads: int,
        num_layers: int,
        pattern: Pattern,
        conditioning: Conditioning,
        hidden_scale: int = 4,
        causal: bool = True,
        pre_norm: bool = True,
        bias_attention: bool = False,
        bias_feedforward: bool = False,
        bias_heads: bool = False,
        sinusoidal: bool = True,
        rotary: bool = False,
        xpos: bool = False,
        position_scale: float = 1.0,
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
        if pattern.num_codebooks != num_codebooks:
            raise ValueError(
                f"the pattern is for {pattern.num_codebooks} codebooks, the model has {num_codebooks}"
            )
        if conditioning.dim != dim:
            raise ValueError(f"the conditioning is {conditioning.dim} wide, the model {dim}")
        self.num_codebooks, self.cardinality, self.dim = num_codebooks, cardinality, dim
        self.pattern = pattern
        self.conditioning = conditioning
        self.embedding = nn.Embedding(num_codebooks * (cardinality + 1), dim)
        self.transformer = Transformer(
            dim=dim,
            num_heads=num_heads,
            num_layers=num_layers,
            hidden_dim=hidden_scale * dim,
            causal=causal,
            cross_attention="cross" in conditioning.way_of.values(),
            pre_norm=pre_norm,
            bias_attention=bias_attention,
            bias_feedforward=bias_feedforward,
            sinusoidal=sinusoidal,
            rotary=rotary,
            xpos=xpos,
            position_scale=position_scale,
            past_context=past_context,
            kv_repeat=kv_repeat,
            qk_norm=qk_norm,
            qk_norm_cross=qk_norm_cross,
            layer_scale=layer_scale,
            dropout=dropout,
            attention_dropout=attention_dropout,
            activation=activation,
            recompute=recompute,
        )
        self.norm = nn.LayerNorm(dim) if pre_norm else nn.Identity()
        self.heads = Linear(dim, num_codebooks * cardinality, bias=bias_heads)
        self._init_weights()

    @property
    def special(self) -> int:
        """The token that stands where there is no code."""
        return self.cardinality

    def forward(self, sequence: Tensor, conditions: FusedConditions, cache: KVCache | None = None) -> Tensor:
        """Logits of step s about step s + 1.  sequence [B, K, S] -> [B, K, S, card]

        With a cache, `sequence` is what follows the steps in it; a prefix is fed with the first ones.
        """
        logits = self.heads(self.hidden(sequence, conditions, cache))
        return logits.unflatten(-1, (self.num_codebooks, self.cardinality)).transpose(1, 2)

    def hidden(
        self,
        sequence: Tensor,
        conditions: FusedConditions,
        cache: KVCache | None = None,
        *,
        mask: Tensor | None = None,
        cross_cache: KeysValues | None = None,
    ) -> Tensor:
        """What the heads are applied to.  sequence [B, K, S] -> [B, S, D]

        mask, cross_cache: see `Transformer.forward`; the mask is of the prefix and the codes together.
        """
        x = self._embed(sequence)
        prefix = conditions.prepend
        prefix_length = 0 if prefix is None else prefix.shape[1]
        is_first = cache is None or cache.length == 0
        if (added := conditions.sum) is not None:
            if added.shape[1] > 1:
                start = 0 if is_first or cache is None else cache.length - prefix_length
                added = added[:, start : start + x.shape[1]]
            x = x + added.to(x.dtype)
        visible = None
        if is_first and prefix is not None:
            x = torch.cat([prefix.to(x.dtype), x], dim=1)
            if conditions.prepend_mask is not None:
                codes_visible = conditions.prepend_mask.new_ones(x.shape[0], sequence.shape[-1])
                visible = torch.cat([conditions.prepend_mask, codes_visible], dim=1)
        x = self.transformer(
            x,
            cross=conditions.cross,
            cross_mask=conditions.cross_mask,
            mask=mask,
            visible=visible,
            cache=cache,
            cross_cache=cross_cache,
        )
        return self.norm(x[:, -sequence.shape[-1] :])  # without the prefix

    def predictions(self, codes: Tensor, conditions: FusedConditions) -> tuple[Tensor, Tensor]:
        """Logits in the order of frames, and which there are: the last frames' late codebooks are left out.

        codes [B, K, T] -> [B, K, T, card], [K, T] bool. Choose by the mask, do not multiply by it.
        """
        num_frames = codes.shape[-1]
        sequence = self.pattern.build(codes, self.special, self.pattern.num_training_steps(num_frames))
        return self.pattern.revert_predictions(self(sequence, conditions), num_frames)

    def loss(
        self,
        codes: Tensor,
        conditions: FusedConditions,
        *,
        num_frames: Tensor | None = None,
        counted: Tensor | None = None,
    ) -> CodebookLoss:
        """How well each code is foretold.  codes [B, K, T]

        num_frames [B]: what is past it is padding, which the model neither sees nor is asked for.
        counted [B, T] bool: frames that the model sees, but is asked for only where True.
        Targets go into the order of the sequence, not logits into that of frames: those are far larger.
        """
        if not self.pattern.has_start:
            raise ValueError(
                "without a start token the model sees what it should foretell: use a pattern with one"
            )
        length = self.pattern.num_training_steps(codes.shape[-1])
        if num_frames is not None:
            codes = codes.where(length_mask(num_frames, codes.shape[-1])[:, None], self.special)
        sequence = targets = self.pattern.build(codes, self.special, length)
        if counted is not None:
            targets = self.pattern.build(codes.where(counted[:, None], self.special), self.special, length)
        targets = targets[..., 1:].masked_fill(targets[..., 1:] == self.special, IGNORE)
        hidden = self.hidden(sequence[..., :-1], conditions)
        return heads_cross_entropy(hidden, self.heads.weight, self.heads.bias, targets)

    def prepare_for_inference(self) -> TokenLM:
        """The same model, ready to go step by step: on CPU the weights are reordered for few rows (`layers.linear`).

        Takes their memory once more until `train` or `unpack_linears`. A weight that changes since makes its layer
        take the plain path; calling this again, as every `Decoding` does, brings it up to date.
        """
        pack_linears(self)
        return self

    def new_cache(self, batch_size: int, num_steps: int, conditions: FusedConditions) -> KVCache:
        """Room for `num_steps` steps behind the prefix of `conditions`."""
        prefix = 0 if conditions.prepend is None else conditions.prepend.shape[1]
        return KVCache(self.transformer, batch_size=batch_size, capacity=prefix + num_steps)

    def _embed(self, sequence: Tensor) -> Tensor:
        """[B, K, S] -> [B, S, D]: one row of the table per codebook, summed as it is gathered."""
        first_row = torch.arange(self.num_codebooks, device=sequence.device) * (self.cardinality + 1)
        rows = (sequence.transpose(1, 2) + first_row).flatten(0, 1)
        return F.embedding_bag(rows, self.embedding.weight, mode="sum").view(
            sequence.shape[0], sequence.shape[-1], self.dim
        )

    @torch.no_grad()
    def _init_weights(self) -> None:
        """A Gaussian of 1 / sqrt(width that comes in), cut at 3 sigma; in layer n sqrt(2 n) narrower."""
        for weight in (self.embedding.weight, self.heads.weight):
            _gaussian(weight, 1.0)
        for depth, layer in enumerate(self.transformer.layers, start=1):
            for module in layer.modules():
                if isinstance(module, nn.Linear):
                    _gaussian(module.weight, math.sqrt(2 * depth))
        for module in (*self.transformer.modules(), self.heads):
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)


def _gaussian(weight: Tensor, narrower: float) -> None:
    std = 1 / math.sqrt(weight.shape[1]) / narrower
    nn.init.trunc_normal_(weight, std=std, a=-3 * std, b=3 * std)
