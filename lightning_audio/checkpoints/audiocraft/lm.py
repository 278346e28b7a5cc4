"""Language models in AudioCraft's packaged form (`state_dict.bin`): MusicGen and AudioGen with text or
labels.

The file holds the weights (`best_state`) and the training's config (`xp.cfg`, YAML), from which the shape of
the model is read as data. Three things are laid out otherwise there: an embedding and a head per codebook,
which are one table and one matrix here, and one projection for the query, key and value of cross-attention.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from lightning_audio.checkpoints.keymap import load_strict, rename_keys
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.conditioning.base import Conditioner
from lightning_audio.conditioning.conditioning import WAYS, Conditioning
from lightning_audio.conditioning.labels import HashedLabelConditioner
from lightning_audio.conditioning.text import T5Conditioner
from lightning_audio.generation.text_to_audio import SamplingSettings, TextToAudio
from lightning_audio.layers.transformer import Activation
from lightning_audio.lm.patterns import (
    CoarseFirstPattern,
    DelayPattern,
    FlatteningPattern,
    GroupedPattern,
    ParallelPattern,
    Pattern,
)
from lightning_audio.lm.token_lm import TokenLM

LAYER = r"transformer\.layers\.(\d+)\."
TO_LAYER = r"transformer.layers.\1."
RULES = [
    (r"emb\.(\d+)\.weight", r"embedding.\1.weight"),
    (r"linears\.(\d+)\.(weight|bias)", r"heads.\1.\2"),
    (r"out_norm\.(weight|bias)", r"norm.\1"),
    (LAYER + r"self_attn\.(?:mha\.)?in_proj_(weight|bias)", TO_LAYER + r"self_attention.qkv.\2"),
    (LAYER + r"self_attn\.(?:mha\.)?out_proj\.(weight|bias)", TO_LAYER + r"self_attention.output.\2"),
    (LAYER + r"self_attn\.q_layer_norm\.(weight|bias)", TO_LAYER + r"self_attention.query_norm.\2"),
    (LAYER + r"self_attn\.k_layer_norm\.(weight|bias)", TO_LAYER + r"self_attention.key_norm.\2"),
    (LAYER + r"cross_attention\.(?:mha\.)?in_proj_(weight|bias)", TO_LAYER + r"cross_attention.packed.\2"),
    (LAYER + r"cross_attention\.(?:mha\.)?out_proj\.(weight|bias)", TO_LAYER + r"cross_attention.output.\2"),
    (LAYER + r"cross_attention\.q_layer_norm\.(weight|bias)", TO_LAYER + r"cross_attention.query_norm.\2"),
    (LAYER + r"cross_attention\.k_layer_norm\.(weight|bias)", TO_LAYER + r"cross_attention.key_norm.\2"),
    (LAYER + r"linear1\.(weight|bias)", TO_LAYER + r"feedforward.expand.\2"),
    (LAYER + r"linear2\.(weight|bias)", TO_LAYER + r"feedforward.contract.\2"),
    (LAYER + r"norm1\.(weight|bias)", TO_LAYER + r"norm_self.\2"),
    (LAYER + r"norm_cross\.(weight|bias)", TO_LAYER + r"norm_cross.\2"),
    (LAYER + r"norm2\.(weight|bias)", TO_LAYER + r"norm_feedforward.\2"),
    (LAYER + r"layer_scale_1\.scale", TO_LAYER + r"scale_self.scale"),
    (LAYER + r"layer_scale_cross\.scale", TO_LAYER + r"scale_cross.scale"),
    (LAYER + r"layer_scale_2\.scale", TO_LAYER + r"scale_feedforward.scale"),
    (r"transformer\.(?:layers\.\d+\.self_attn\.)?rope\..*", ""),  # computed here
    (
        r"condition_provider\.conditioners\.(\w+)\.output_proj\.(weight|bias)",
        r"conditioning.output_proj.\1.\2",
    ),
    (r"condition_provider\.conditioners\.(\w+)\.embed\.weight", r"conditioning.conditioners.\1.embed.weight"),
]
ACTIVATIONS: dict[str, Activation] = {"gelu": F.gelu, "relu": F.relu}


def read_lm(file: Path, *, text_encoder: str | Path | None = None) -> tuple[TokenLM, dict[str, Any]]:
    """The model in a `state_dict.bin`, in float32, and the config that it came with.

    text_encoder: a local T5 folder, in place of the name in the config.
    """
    package = torch.load(file, map_location="cpu", weights_only=True)
    if missing := {"best_state", "xp.cfg"} - package.keys():
        raise ValueError(f"{file} is no packaged language model: it lacks {sorted(missing)}")
    config = yaml.safe_load(package["xp.cfg"])
    if "transformer_lm" not in config:
        raise ValueError(f"{file} holds a {config.get('solver')!r} model, not a language model")
    lm = build_lm(config, text_encoder=text_encoder)
    load_strict(lm, convert_state({key: value.float() for key, value in package["best_state"].items()}))
    return lm.eval().requires_grad_(False), config


def text_to_audio(lm: TokenLM, config: Mapping[str, Any], codec: EnCodec) -> TextToAudio:
    """Codec and language model as one, with the settings of AudioCraft's classes and of the config."""
    defaults = SamplingSettings(
        cfg_coef=config["classifier_free_guidance"]["inference_coef"],
        two_step_cfg=config["transformer_lm"].get("two_step_cfg", False),
    )
    return TextToAudio(
        codec=codec, lm=lm, max_duration=config["dataset"]["segment_duration"], defaults=defaults
    )


def convert_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """AudioCraft's weights under our names.  ValueError for a key that has no place."""
    renamed = rename_keys(state, RULES)
    converted: dict[str, Tensor] = {}
    per_codebook: dict[str, list[tuple[int, Tensor]]] = {}
    for key, value in renamed.items():
        if match := re.fullmatch(r"(embedding|heads)\.(\d+)\.(weight|bias)", key):
            per_codebook.setdefault(f"{match[1]}.{match[3]}", []).append((int(match[2]), value))
        elif ".cross_attention.packed." in key:
            dim = value.shape[0] // 3
            converted[key.replace("packed", "query")] = value[:dim]
            converted[key.replace("packed", "key_value")] = value[dim:]
        else:
            converted[key] = value
    for key, parts in per_codebook.items():
        converted[key] = torch.cat([value for _, value in sorted(parts, key=lambda part: part[0])])
    return converted


def build_lm(config: Mapping[str, Any], *, text_encoder: str | Path | None = None) -> TokenLM:
    """A model of the shape that the config describes, with weights yet to come."""
    shape = config["transformer_lm"]
    if shape.get("norm", "layer_norm") != "layer_norm" or not shape.get("causal", True):
        raise ValueError(
            f"want a causal model with layer_norm, the config has norm {shape.get('norm')!r}, "
            f"causal {shape.get('causal')}"
        )
    positions = shape.get("positional_embedding", "sin")
    return TokenLM(
        num_codebooks=shape["n_q"],
        cardinality=shape["card"],
        dim=shape["dim"],
        num_heads=shape["num_heads"],
        num_layers=shape["num_layers"],
        hidden_scale=shape.get("hidden_scale", 4),
        pattern=read_pattern(config["codebooks_pattern"], shape["n_q"]),
        conditioning=_conditioning(config, text_encoder),
        pre_norm=shape.get("norm_first", False),
        bias_attention=shape.get("bias_attn", True),
        bias_feedforward=shape.get("bias_ff", True),
        bias_heads=shape.get("bias_proj", True),
        sinusoidal=positions in ("sin", "sin_rope"),
        rotary=positions in ("rope", "sin_rope"),
        xpos=shape.get("xpos", False),
        past_context=shape.get("past_context"),
        kv_repeat=shape.get("kv_repeat", 1),
        qk_norm=shape.get("qk_layer_norm", False),
        qk_norm_cross=shape.get("qk_layer_norm_cross", False),
        layer_scale=shape.get("layer_scale"),
        dropout=shape.get("dropout", 0.0),
        attention_dropout=shape.get("attention_dropout"),
        activation=ACTIVATIONS[shape.get("activation", "gelu")],
    )


def read_pattern(config: Mapping[str, Any], num_codebooks: int) -> Pattern:
    """The pattern that a config names under `modeling`."""
    name = config["modeling"]
    options = dict(config.get({"musiclm": "music_lm"}.get(name, name)) or {})
    match name:
        case "delay":
            return DelayPattern(**{"delays": range(num_codebooks), **options})
        case "parallel":
            return ParallelPattern(num_codebooks, has_start=options.get("empty_initial", 0) >= 0)
        case "unroll":
            order = options.get("flattening") or range(num_codebooks)
            return FlatteningPattern(order, delays=options.get("delays"))
        case "coarse_first":
            return CoarseFirstPattern(num_codebooks, delays=options.get("delays"))
        case "musiclm":
            return GroupedPattern(num_codebooks, group_size=options.get("group_by", 2))
        case _:
            raise ValueError(f"unknown codebook pattern {name!r}")


def _conditioning(config: Mapping[str, Any], text_encoder: str | Path | None) -> Conditioning:
    fuser = config.get("fuser") or {}
    if fuser.get("cross_attention_pos_emb"):
        raise ValueError("conditions with positions of their own (cross_attention_pos_emb) are not supported")
    conditioners = {
        name: _conditioner(name, node, text_encoder)
        for name, node in (config.get("conditioners") or {}).items()
        if isinstance(node, Mapping)  # beside settings of all of them, such as `args`
    }
    fuse = {way: fuser[way] for way in WAYS if fuser.get(way)}
    dim = config["transformer_lm"]["dim"]
    # Padding is attended to there; a model must be used as it was trained.
    return Conditioning(conditioners=conditioners, dim=dim, fuse=fuse, mask_padding=False)


def _conditioner(name: str, node: Mapping[str, Any], text_encoder: str | Path | None) -> Conditioner:
    model = node["model"]
    options = node[model]
    match model:
        case "t5":
            if options.get("finetune") or options.get("normalize_text"):
                raise ValueError(
                    f"conditioner {name!r}: a T5 that was trained along, or normalised text, is not supported"
                )
            path = None if text_encoder is None else str(text_encoder)
            return T5Conditioner(
                name=options["name"], path=path, word_dropout=options.get("word_dropout", 0.0)
            )
        case "lut":
            split = options.get("tokenizer") == "whitespace"
            return HashedLabelConditioner(num_bins=options["n_bins"], dim=options["dim"], split_words=split)
        case _:
            raise ValueError(f"conditioner {name!r} is of the kind {model!r}, which is not supported yet")
