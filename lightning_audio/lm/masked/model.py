"""MAGNeT's model: a transformer that sees all frames at once, and says what stands where a code is masked."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_audio.batch import length_mask
from lightning_audio.conditioning.base import FusedConditions
from lightning_audio.conditioning.conditioning import Conditioning
from lightning_audio.layers.transformer import Activation
from lightning_audio.lm.loss import IGNORE, CodebookLoss, heads_cross_entropy
from lightning_audio.lm.patterns import ParallelPattern
from lightning_audio.lm.token_lm import TokenLM

ALIGNMENT = 8
"""The original pads its attention masks to a multiple of so many frames."""


class MaskedLM(TokenLM):
    """Codes, some of them masked, and conditions -> what stands behind the masks (arXiv 2401.04577).

    A *stage* is a codebook being told: those before it are known, those after it all masked. All frames stand
    side by side, without a start token, and the special token is the mask.

    segment_frames: length T of the clips it is trained on, and the longest it takes.
    span_length: so many neighbouring frames are masked, scored and kept together; 3 is 60 ms at 50 Hz.
    context: after the first codebook a frame sees so many frames to each side; None: all. What the later
        codebooks refine lies within the codec's receptive field.
    The rest is `TokenLM`'s, which documents it.
    """

    def __init__(
        self,
        *,
        num_codebooks: int,
        cardinality: int,
        dim: int,
        num_heads: int,
        num_layers: int,
        segment_frames: int,
        conditioning: Conditioning,
        span_length: int = 3,
        context: int | None = 5,
        hidden_scale: int = 4,
        pre_norm: bool = True,
        bias_attention: bool = False,
        bias_feedforward: bool = False,
        bias_heads: bool = False,
        sinusoidal: bool = True,
        rotary: bool = False,
        xpos: bool = False,
        position_scale: float = 1.0,
        kv_repeat: int = 1,
        qk_norm: bool = False,
        qk_norm_cross: bool = False,
        layer_scale: float | None = None,
        dropout: float = 0.0,
        attention_dropout: float | None = None,
        activation: Activation = F.gelu,
        recompute: bool = False,
    ) -> None:
        if span_length < 1 or segment_frames < span_length:
            raise ValueError(
                f"spans of {span_length} frames do not fit a segment of {segment_frames} frames: "
                "want at least one frame, and one whole span"
            )
        if context is not None and context < 0:
            raise ValueError(f"context is {context} frames to each side; want 0 or more, or None for all")
        if prepended := [name for name, way in conditioning.way_of.items() if way == "prepend"]:
            raise ValueError(
                f"{prepended} would stand in front of the codes, which MAGNeT's masks do not know"
            )
        super().__init__(
            num_codebooks=num_codebooks,
            cardinality=cardinality,
            dim=dim,
            num_heads=num_heads,
            num_layers=num_layers,
            pattern=ParallelPattern(num_codebooks, has_start=False),
            conditioning=conditioning,
            hidden_scale=hidden_scale,
            causal=False,
            pre_norm=pre_norm,
            bias_attention=bias_attention,
            bias_feedforward=bias_feedforward,
            bias_heads=bias_heads,
            sinusoidal=sinusoidal,
            rotary=rotary,
            xpos=xpos,
            position_scale=position_scale,
            kv_repeat=kv_repeat,
            qk_norm=qk_norm,
            qk_norm_cross=qk_norm_cross,
            layer_scale=layer_scale,
            dropout=dropout,
            attention_dropout=attention_dropout,
            activation=activation,
            recompute=recompute,
        )
        self.segment_frames, self.span_length, self.context = segment_frames, span_length, context

    def context_mask(self, stage: int, num_frames: int) -> Tensor | None:
        """Which frames see which in a stage: [T, T] bool, True = attend; None: all see all.

        The original makes its mask for a whole segment, pads it to a multiple of 8 frames with "attend", and
        cuts it to size. So up to 7 frames more than a segment run there, unrestricted; here too.
        """
        longest = math.ceil(self.segment_frames / ALIGNMENT) * ALIGNMENT
        if num_frames > longest:
            raise ValueError(
                f"{num_frames} frames are more than the {self.segment_frames} that the model's masks are for"
            )
        if stage == 0 or self.context is None:
            return None
        frames = torch.arange(num_frames, device=self.heads.weight.device)
        beyond = frames >= self.segment_frames
        return ((frames[:, None] - frames).abs() <= self.context) | beyond[:, None] | beyond

    def predictions(self, codes: Tensor, conditions: FusedConditions) -> tuple[Tensor, Tensor]:
        """There are none: of a code that is not masked the model was never asked anything."""
        raise ValueError("a masked model foretells no codes in order: ask `stage_logits` about masked ones")

    def stage_logits(self, sequence: Tensor, conditions: FusedConditions, stage: int) -> Tensor:
        """About codebook `stage` at every frame.  sequence [B, K, T], masked with `special` -> [B, T, card]"""
        mask = self.context_mask(stage, sequence.shape[-1])
        return head_logits(self, self.hidden(sequence, conditions, mask=mask), stage)

    def stage_loss(
        self,
        codes: Tensor,
        conditions: FusedConditions,
        *,
        stage: int,
        masked: Tensor,
        num_frames: Tensor | None = None,
    ) -> CodebookLoss:
        """How well the masked codes of one codebook are told.  codes [B, K, T], masked [B, T] bool

        num_frames [B]: what is past it is padding: masked in all codebooks, and not asked for.
        Only this codebook's head is applied.
        """
        there = torch.ones_like(masked)
        if num_frames is not None:
            there = length_mask(num_frames, codes.shape[-1])
        sequence = masked_input(codes, stage, masked, self.special).where(there[:, None], self.special)
        targets = codes[:, stage].where(masked & there, IGNORE)
        hidden = self.hidden(sequence, conditions, mask=self.context_mask(stage, codes.shape[-1]))
        loss = heads_cross_entropy(hidden, *head(self, stage), targets[:, None])
        return CodebookLoss(loss.loss, loss.per_codebook, loss.num_tokens, first_codebook=stage)


def masked_input(codes: Tensor, stage: int, masked: Tensor, special: int) -> Tensor:
    """Codes as a stage sees them: its own where not `masked` [B, T], later codebooks not at all.  [B, K, T]"""
    codebooks = torch.arange(codes.shape[1], device=codes.device)[:, None]
    hidden = (codebooks > stage) | ((codebooks == stage) & masked[:, None])
    return codes.masked_fill(hidden, special)


def head(lm: TokenLM, codebook: int) -> tuple[Tensor, Tensor | None]:
    """Weight [card, D] and bias [card] of one codebook's head."""
    rows = slice(codebook * lm.cardinality, (codebook + 1) * lm.cardinality)
    return lm.heads.weight[rows], None if lm.heads.bias is None else lm.heads.bias[rows]


def head_logits(lm: TokenLM, hidden: Tensor, codebook: int) -> Tensor:
    """[B, S, D] -> [B, S, card]"""
    return F.linear(hidden, *head(lm, codebook))
