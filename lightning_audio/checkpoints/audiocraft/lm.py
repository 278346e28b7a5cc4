"""Language models in AudioCraft's packaged form (`state_dict.bin`): MusicGen, AudioGen and MAGNeT.

The file holds the weights (`best_state`) and the training's config (`xp.cfg`), from which the shape of the model is
read as data: sections `transformer_lm`, `codebooks_pattern`, `conditioners`, `fuser`, and what generation starts from.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from lightning_audio.checkpoints.audiocraft.conditioners import read_conditioning
from lightning_audio.checkpoints.audiocraft.lm_state import convert_state, rotary_state
from lightning_audio.checkpoints.audiocraft.package import read_package, section
from lightning_audio.checkpoints.audiocraft.patterns import read_pattern, write_pattern
from lightning_audio.checkpoints.stored import Config, StoredModel, arguments_of, class_of, node_of
from lightning_audio.lm.masked import MaskedLM
from lightning_audio.lm.patterns import ParallelPattern
from lightning_audio.lm.token_lm import TokenLM

AUTOREGRESSIVE, MASKED = "transformer_lm", "transformer_lm_magnet"
# Options of the section `transformer_lm` whose values are the same here: their name, our name.
_SAME = {
    "n_q": "num_codebooks",
    "card": "cardinality",
    "dim": "dim",
    "num_heads": "num_heads",
    "num_layers": "num_layers",
    "hidden_scale": "hidden_scale",
    "norm_first": "pre_norm",
    "bias_attn": "bias_attention",
    "bias_ff": "bias_feedforward",
    "bias_proj": "bias_heads",
    "xpos": "xpos",
    "positional_scale": "position_scale",
    "past_context": "past_context",
    "kv_repeat": "kv_repeat",
    "qk_layer_norm": "qk_norm",
    "qk_layer_norm_cross": "qk_norm_cross",
    "layer_scale": "layer_scale",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
}
# Their defaults where they differ from ours.
_DEFAULTS = {"norm_first": False, "bias_attn": True, "bias_ff": True, "bias_proj": True}
# Which kernels ran, how the training began and what it kept in memory: nothing of the model's function.
_WITHOUT_MEANING = {
    *("emb_lr", "custom", "memory_efficient", "attention_as_float32", "checkpointing", "weight_init"),
    *("depthwise_init", "zero_bias_init", "cross_attention", "lr", "device", "dtype"),
}
_READ_ELSEWHERE = {
    *("norm", "causal", "activation", "positional_embedding", "two_step_cfg", "q_modeling"),
    *("subcodes_context", "compression_model_framerate", "segment_duration", "span_len"),
}
_ACTIVATIONS: dict[str, Config | None] = {"gelu": None, "relu": {"_target_": "torch.nn.ReLU"}}
_POSITIONS = {"sin": (True, False), "rope": (False, True), "sin_rope": (True, True)}


def read_lm_file(
    file: Path, content: Mapping[str, Any] | None = None, *, text_encoder: str | Path | None = None
) -> StoredModel:
    """The language model of a `state_dict.bin` alone, which writes codes that a codec must be found for.

    content: of the file, where it was read before.
    """
    state, config = read_lm_package(file, content)
    node = lm_node(config, read_conditioning(config, text_encoder=text_encoder, state=state))
    return StoredModel({"lm": node}, {"lm": convert_state(state)})


def read_lm_package(file: Path, content: Mapping[str, Any] | None = None) -> tuple[dict[str, Tensor], Config]:
    """The weights of a `state_dict.bin`, under AudioCraft's names, and its config."""
    state, config = read_package(file, content)
    if "transformer_lm" not in config:
        raise ValueError(f"{file} holds a {config.get('solver')!r} model, not a language model")
    # Of each codebook, before they are joined: after that a lack is only a wrong shape.
    codebooks = range(section(config, "transformer_lm")["n_q"])
    wanted = [f"{part}.{codebook}.weight" for part in ("emb", "linears") for codebook in codebooks]
    if missing := [f"missing: {key}" for key in wanted if key not in state]:
        raise ValueError(f"{file} lacks weights that its config names:\n  " + "\n  ".join(missing))
    return state, config


def lm_node(config: Mapping[str, Any], conditioning: Config, *, frame_rate: float | None = None) -> Config:
    """What builds the language model that the config describes.

    frame_rate: Hz, of the codec, which a MAGNeT counts the frames of its segment by.
    """
    kind = config.get("lm_model", AUTOREGRESSIVE)
    if kind not in (AUTOREGRESSIVE, MASKED):
        raise ValueError(
            f"a language model of the kind {kind!r}; known are {AUTOREGRESSIVE!r} and {MASKED!r}"
        )
    shape = section(config, "transformer_lm")
    if unknown := sorted(shape.keys() - _SAME.keys() - _WITHOUT_MEANING - _READ_ELSEWHERE):
        raise ValueError(f"the language model's config has options that are not understood: {unknown}")
    if shape.get("norm", "layer_norm") != "layer_norm" or shape.get("causal", True) != (
        kind == AUTOREGRESSIVE
    ):
        raise ValueError(
            f"want layer_norm, and causal unless it is a MAGNeT; the config of this {kind} has "
            f"norm {shape.get('norm')!r}, causal {shape.get('causal')}"
        )
    arguments = {ours: shape[name] for name, ours in _SAME.items() if name in shape}
    arguments |= {_SAME[name]: value for name, value in _DEFAULTS.items() if name not in shape}
    arguments |= _positions(shape.get("positional_embedding", "sin"))
    activation = shape.get("activation", "gelu")
    if activation not in _ACTIVATIONS:
        raise ValueError(
            f"a language model with the activation {activation!r}; known are {list(_ACTIVATIONS)}"
        )
    if (node := _ACTIVATIONS[activation]) is not None:
        arguments["activation"] = dict(node)
    pattern = read_pattern(_pattern_section(config, shape), shape["n_q"])
    if kind == AUTOREGRESSIVE:
        return node_of(TokenLM, **arguments, pattern=pattern, conditioning=conditioning)
    if pattern["_target_"] != node_of(ParallelPattern)["_target_"] or pattern["has_start"]:
        raise ValueError(
            f"a MAGNeT writes all codebooks in parallel without a start; the config has {pattern}"
        )
    if arguments.pop("past_context", None) is not None:
        raise ValueError("a MAGNeT with past_context is not known")
    duration = section(config, "dataset")["segment_duration"]
    context = shape.get("subcodes_context", 5)
    return node_of(
        MaskedLM,
        **arguments,
        segment_frames=int(int(frame_rate or shape.get("compression_model_framerate", 50)) * duration),
        span_length=section(config, "masking")["span_len"],
        context=None if context == -1 else context,
        conditioning=conditioning,
    )


def lm_config(node: Mapping[str, Any]) -> Config:
    """The sections of an `xp.cfg` from which AudioCraft builds the same language model, but for its conditions."""
    kind = class_of(node)
    if kind not in (TokenLM, MaskedLM):
        raise ValueError(f"AudioCraft's files hold a TokenLM or a MaskedLM, not a {kind.__name__}")
    arguments = {"past_context": None, **arguments_of(node)}
    if kind is TokenLM and not arguments["causal"]:
        raise ValueError("AudioCraft has no autoregressive model that is not causal")
    rotary = arguments["rotary"]
    shape = {name: arguments[ours] for name, ours in _SAME.items()}
    if shape["positional_scale"] == 1.0:  # the first versions do not know it
        del shape["positional_scale"]
    shape |= {
        "activation": _activation_name(arguments["activation"]),
        "positional_embedding": _positions_name(arguments["sinusoidal"], rotary),
        "norm": "layer_norm",
        "causal": kind is TokenLM,
        # Its memory-efficient attention turns rotary positions wrongly while streaming, and knows no such norms.
        "memory_efficient": not (rotary or arguments["qk_norm"] or arguments["past_context"]),
        "custom": bool(rotary or arguments["qk_norm"] or arguments["past_context"]),
        "attention_as_float32": False,
        "checkpointing": "none",
        "weight_init": "gaussian",
        "depthwise_init": "current",
        "zero_bias_init": True,
        "emb_lr": None,
    }
    if kind is TokenLM:
        return {
            "lm_model": AUTOREGRESSIVE,
            "transformer_lm": shape,
            "codebooks_pattern": write_pattern(node["pattern"]),
        }
    context = arguments["context"]
    return {
        "lm_model": MASKED,
        "transformer_lm": {**shape, "subcodes_context": -1 if context is None else context},
        "masking": {"span_len": arguments["span_length"]},
        "codebooks_pattern": {"modeling": "parallel", "parallel": {"empty_initial": -1}},
    }


def extra_state(node: Mapping[str, Any]) -> dict[str, Tensor]:
    """Buffers that AudioCraft stores and that are computed here."""
    arguments = arguments_of(node)
    if not arguments["rotary"]:
        return {}
    head_dim = arguments["dim"] // arguments["num_heads"]
    return rotary_state(arguments["num_layers"], head_dim, xpos=arguments["xpos"])


def _pattern_section(config: Mapping[str, Any], shape: Mapping[str, Any]) -> Config:
    pattern = section(config, "codebooks_pattern")
    # The first configs named the pattern among the transformer's options.
    return pattern if pattern.get("modeling") else {"modeling": shape.get("q_modeling")}


def _positions(name: str) -> Config:
    if name not in _POSITIONS:
        raise ValueError(f"a language model with the positions {name!r}; known are {list(_POSITIONS)}")
    sinusoidal, rotary = _POSITIONS[name]
    return {"sinusoidal": sinusoidal, "rotary": rotary}


def _positions_name(sinusoidal: bool, rotary: bool) -> str:
    found = next((name for name, flags in _POSITIONS.items() if flags == (sinusoidal, rotary)), None)
    if found is None:
        raise ValueError("AudioCraft has no language model without positions")
    return found


def _activation_name(activation: Any) -> str:
    names = {"torch.nn.GELU": "gelu", "torch.nn.ReLU": "relu"}
    if activation is F.gelu:
        return "gelu"
    found = names.get(activation.get("_target_", "")) if isinstance(activation, Mapping) else None
    if found is None or len(activation) > 1:  # such as an approximated GELU
        raise ValueError(f"AudioCraft's form has {list(names)}, not the activation {activation}")
    return found
