"""What AudioCraft calls the parts of a transformer layer, and what they are called here."""

from __future__ import annotations

LAYER_PAIRS = [
    ("self_attn.in_proj_*", "self_attention.qkv.*"),
    ("self_attn.out_proj.*", "self_attention.output.*"),
    ("self_attn.q_layer_norm.*", "self_attention.query_norm.*"),
    ("self_attn.k_layer_norm.*", "self_attention.key_norm.*"),
    ("cross_attention.in_proj_*", "cross_attention.packed.*"),
    ("cross_attention.out_proj.*", "cross_attention.output.*"),
    ("cross_attention.q_layer_norm.*", "cross_attention.query_norm.*"),
    ("cross_attention.k_layer_norm.*", "cross_attention.key_norm.*"),
    ("linear1.*", "feedforward.expand.*"),
    ("linear2.*", "feedforward.contract.*"),
    ("norm1.*", "norm_self.*"),
    ("norm_cross.*", "norm_cross.*"),
    ("norm2.*", "norm_feedforward.*"),
    ("layer_scale_1.scale", "scale_self.scale"),
    ("layer_scale_cross.scale", "scale_cross.scale"),
    ("layer_scale_2.scale", "scale_feedforward.scale"),
]
