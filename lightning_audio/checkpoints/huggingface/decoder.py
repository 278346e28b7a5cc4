"""The language model in the form of `transformers`: MusicgenForCausalLM and its melody sibling.

Laid out otherwise there: an embedding and a head per codebook, which are one table and one matrix here; separate
query, key and value, which are packed here; and a projection of conditions only where widths differ, while here
there always is one (the identity then).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_audio.checkpoints.keymap import both_ways, rename_keys
from lightning_audio.checkpoints.stored import Config, arguments_of, class_of, node_of
from lightning_audio.lm.patterns import DelayPattern
from lightning_audio.lm.token_lm import TokenLM

PROJECTIONS = {"enc_to_dec_proj": "description", "audio_enc_to_dec_proj": "melody"}
_THEIR_LAYER, _OUR_LAYER = "model.decoder.layers.#.", "transformer.layers.#."
# Their names and ours; what is packed here has the place of its part at the end.
_FORWARD, _BACK = both_ways(
    [
        ("model.decoder.embed_tokens.#.weight", "embedding.weight.#"),
        ("model.decoder.layer_norm.*", "norm.*"),
        ("lm_heads.#.weight", "heads.weight.#"),
        *((f"{theirs}.*", f"conditioning.output_proj.{name}.*") for theirs, name in PROJECTIONS.items()),
        *(
            (_THEIR_LAYER + theirs, _OUR_LAYER + ours)
            for theirs, ours in (
                ("self_attn.q_proj.weight", "self_attention.qkv.weight.0"),
                ("self_attn.k_proj.weight", "self_attention.qkv.weight.1"),
                ("self_attn.v_proj.weight", "self_attention.qkv.weight.2"),
                ("self_attn.out_proj.weight", "self_attention.output.weight"),
                ("self_attn_layer_norm.*", "norm_self.*"),
                ("encoder_attn.q_proj.weight", "cross_attention.query.weight"),
                ("encoder_attn.k_proj.weight", "cross_attention.key_value.weight.0"),
                ("encoder_attn.v_proj.weight", "cross_attention.key_value.weight.1"),
                ("encoder_attn.out_proj.weight", "cross_attention.output.weight"),
                ("encoder_attn_layer_norm.*", "norm_cross.*"),
                ("fc1.weight", "feedforward.expand.weight"),
                ("fc2.weight", "feedforward.contract.weight"),
                ("final_layer_norm.*", "norm_feedforward.*"),
            )
        ),
    ]
)
_POSITIONS = (r"model\.decoder\.embed_positions\.weights", "")  # computed here; old files hold them
# Options that transformers leaves out of a config when they have their default value.
DEFAULTS: dict[str, Any] = {
    "vocab_size": 2048,
    "num_hidden_layers": 24,
    "ffn_dim": 4096,
    "num_attention_heads": 16,
    "activation_function": "gelu",
    "hidden_size": 1024,
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "num_codebooks": 4,
    "audio_channels": 1,
}
ACTIVATIONS = {"gelu": "torch.nn.GELU", "relu": "torch.nn.ReLU"}
# What a MusicGen of transformers is, and has no option for.
FIXED: dict[str, Any] = {
    "causal": True,
    "pre_norm": True,
    "bias_attention": False,
    "bias_feedforward": False,
    "bias_heads": False,
    "sinusoidal": True,
    "rotary": False,
    "position_scale": 1.0,
    "past_context": None,
    "kv_repeat": 1,
    "qk_norm": False,
    "qk_norm_cross": False,
    "layer_scale": None,
}


def decoder_options(config: Mapping[str, Any]) -> Config:
    """The options of a decoder's config that count here, with their defaults."""
    return {name: config.get(name, default) for name, default in DEFAULTS.items()}


def lm_node(config: Mapping[str, Any], conditioning: Config) -> Config:
    """The node of the language model that a decoder's config describes."""
    options = decoder_options(config)
    dim, hidden_dim, activation = options["hidden_size"], options["ffn_dim"], options["activation_function"]
    if hidden_dim % dim:
        raise ValueError(
            f"a feed-forward layer of width {hidden_dim} is no multiple of the model's width {dim}"
        )
    if activation not in ACTIVATIONS:
        raise ValueError(f"a decoder with the activation {activation!r}; known are {sorted(ACTIVATIONS)}")
    return node_of(
        TokenLM,
        num_codebooks=options["num_codebooks"],
        cardinality=options["vocab_size"],
        dim=dim,
        num_heads=options["num_attention_heads"],
        num_layers=options["num_hidden_layers"],
        hidden_scale=hidden_dim // dim,
        pattern=node_of(DelayPattern, delays=_delays(options["num_codebooks"], options["audio_channels"])),
        conditioning=conditioning,
        dropout=options["dropout"],
        attention_dropout=options["attention_dropout"],
        activation={"_target_": ACTIVATIONS[activation]},
    )


def decoder_config(node: Mapping[str, Any], *, audio_channels: int, model_type: str) -> Config:
    """The decoder's config of one of our language models; ValueError names what transformers cannot hold."""
    if class_of(node) is not TokenLM:
        raise ValueError(f"transformers has no model like {class_of(node).__name__}")
    options = arguments_of(node)
    if odd := [
        f"{name}={options[name]!r}" for name, value in FIXED.items() if options.get(name, value) != value
    ]:
        raise ValueError(f"transformers has no MusicGen with {', '.join(odd)}")
    _check_pattern(options["pattern"], _delays(options["num_codebooks"], audio_channels))
    dropout, attention_dropout = options["dropout"], options["attention_dropout"]
    special = options["cardinality"]
    return {
        "model_type": model_type,
        "vocab_size": special,
        "num_codebooks": options["num_codebooks"],
        "audio_channels": audio_channels,
        "hidden_size": options["dim"],
        "ffn_dim": options["hidden_scale"] * options["dim"],
        "num_attention_heads": options["num_heads"],
        "num_hidden_layers": options["num_layers"],
        "activation_function": _activation_name(options["activation"]),
        "dropout": dropout,
        "activation_dropout": dropout,
        "attention_dropout": dropout if attention_dropout is None else attention_dropout,
        "bos_token_id": special,
        "pad_token_id": special,
    }


def lm_weights(weights: Mapping[str, Tensor], *, widths: Mapping[str, int], dim: int) -> dict[str, Tensor]:
    """A decoder's weights, and the projections of conditions, under our names in float32.

    widths: of each condition before its projection; where it is the model's there is none in the file.
    """
    floats = {name: tensor.float() for name, tensor in weights.items()}
    ours: dict[str, Tensor] = {}
    packed: dict[str, dict[int, Tensor]] = {}
    for name, tensor in rename_keys(floats, [*_FORWARD, _POSITIONS]).items():
        whole, _, place = name.rpartition(".")
        if place.isdigit():
            packed.setdefault(whole, {})[int(place)] = tensor
        else:
            ours[name] = tensor
    for name, parts in packed.items():
        if missing := sorted(set(range(max(parts) + 1)) - set(parts)):
            raise ValueError(f"{name} lacks the parts {missing}")
        ours[name] = torch.cat([parts[place] for place in range(len(parts))])
    for name, width in widths.items():
        if width == dim:
            ours.setdefault(f"conditioning.output_proj.{name}.weight", torch.eye(dim))
            ours.setdefault(f"conditioning.output_proj.{name}.bias", torch.zeros(dim))
    return ours


def decoder_weights(weights: Mapping[str, Tensor], *, num_codebooks: int) -> dict[str, Tensor]:
    """The reverse: names of transformers, without the projections that are the identity of equal widths."""
    num_parts = {"embedding": num_codebooks, "heads": num_codebooks, "qkv": 3, "key_value": 2}
    apart: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if (number := num_parts.get(name.split(".")[-2])) is not None:
            apart |= {f"{name}.{place}": part for place, part in enumerate(tensor.chunk(number))}
        elif not _is_needless(name, weights):
            apart[name] = tensor
    return rename_keys(apart, _BACK)


def _is_needless(name: str, weights: Mapping[str, Tensor]) -> bool:
    """Whether this belongs to a projection between equal widths, which must then be the identity."""
    match = re.fullmatch(r"(conditioning\.output_proj\.\w+)\.(?:weight|bias)", name)
    if match is None:
        return False
    weight, bias = weights[f"{match[1]}.weight"], weights[f"{match[1]}.bias"]
    if weight.shape[0] != weight.shape[1]:
        return False
    if not torch.equal(weight, torch.eye(len(weight)).to(weight)) or bias.any():
        raise ValueError(
            f"{match[1]} maps {len(weight)} to {len(weight)} channels; transformers has a projection of "
            "conditions only between unlike widths"
        )
    return True


def _delays(num_codebooks: int, audio_channels: int) -> list[int]:
    """0, 1, 2, ...; or 0, 0, 1, 1, ... where left and right take turns."""
    if audio_channels not in (1, 2) or num_codebooks % audio_channels:
        raise ValueError(f"{num_codebooks} codebooks are not those of {audio_channels} channels (1 or 2)")
    return [codebook // audio_channels for codebook in range(num_codebooks)]


def _check_pattern(node: Mapping[str, Any], delays: list[int]) -> None:
    if class_of(node) is not DelayPattern:
        raise ValueError(f"transformers knows the delay pattern only, not {class_of(node).__name__}")
    options = arguments_of(node)
    wanted = {"delays": delays, "flatten_first": 0, "empty_initial": 0}
    if (found := {**options, "delays": list(options["delays"])}) != wanted:
        raise ValueError(f"transformers writes such codes in the pattern {wanted}; this model's is {found}")


def _activation_name(activation: Any) -> str:
    """A node, or the function that is the default."""
    if activation is F.gelu:
        return "gelu"
    for name, target in ACTIVATIONS.items():
        if activation == {"_target_": target}:
            return name
    raise ValueError(
        f"transformers is given models with the activations {sorted(ACTIVATIONS)}, not {activation}"
    )
