"""Codecs in AudioCraft's packaged form (`compression_state_dict.bin`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_audio.checkpoints.audiocraft.package import read_package, section, write_package
from lightning_audio.checkpoints.codec_state import LAYER_RULES, stack_codebooks, unstack_codebooks
from lightning_audio.checkpoints.keymap import rename_keys
from lightning_audio.checkpoints.stored import Config, StoredModel, arguments_of, class_of, node_of
from lightning_audio.codec.codebooks import AudioCraftLearning
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.codec.quantizer import ResidualVectorQuantizer
from lightning_audio.codec.seanet import SEANetDecoder, SEANetEncoder

_MODEL = r"(encoder|decoder)\.model\.(\d+)\.((?:block\.\d+\.|shortcut\.)?)"
_CODEBOOK = r"quantizer\.vq\.layers\.(\d+)\._codebook\."
RULES = [
    (_MODEL + r"(?:conv\.conv|convtr\.convtr)\.(\S+)", r"\1.layers.\2.\3conv.\4"),
    (_MODEL + r"(?:conv|convtr)\.norm\.(\w+)", r"\1.layers.\2.\3norm.\4"),
    (r"(encoder|decoder)\.model\.(\d+)\.lstm\.(\w+)", r"\1.layers.\2.lstm.\3"),
    (_CODEBOOK + r"(inited|embed)", r"quantizer.codebooks.\2.\1"),
    (_CODEBOOK + r"cluster_size", r"quantizer.codebooks.count.\1"),
    (_CODEBOOK + r"embed_avg", r"quantizer.codebooks.embed_sum.\1"),
]
_LAYER = r"(encoder|decoder)\.layers\.(\d+)\.((?:block\.\d+\.|shortcut\.)?)"
_BOOK = r"quantizer\.codebooks\."
# Back again, once `_transposed` has set the transposed convolutions apart, as they are there.
REVERSE_RULES = [
    (_LAYER + r"(conv|convtr)\.parametrizations\.weight\.original0", r"\1.model.\2.\3\4.\4.weight_g"),
    (_LAYER + r"(conv|convtr)\.parametrizations\.weight\.original1", r"\1.model.\2.\3\4.\4.weight_v"),
    (_LAYER + r"(conv|convtr)\.(weight|bias)", r"\1.model.\2.\3\4.\4.\5"),
    (_LAYER + r"norm\.(weight|bias)", r"\1.model.\2.\3conv.norm.\4"),
    (_LAYER + r"convtr_norm\.(weight|bias)", r"\1.model.\2.\3convtr.norm.\4"),
    (r"(encoder|decoder)\.layers\.(\d+)\.lstm\.(\w+)", r"\1.model.\2.lstm.\3"),
    (_BOOK + r"(inited|embed)\.(\d+)", r"quantizer.vq.layers.\2._codebook.\1"),
    (_BOOK + r"count\.(\d+)", r"quantizer.vq.layers.\1._codebook.cluster_size"),
    (_BOOK + r"embed_sum\.(\d+)", r"quantizer.vq.layers.\1._codebook.embed_avg"),
]
_RENAMED = {
    "dimension": "dim",
    "n_filters": "num_filters",
    "n_residual_layers": "num_residual_layers",
    "lstm": "num_lstm_layers",
    "disable_norm_outer_blocks": "num_outer_blocks_without_norm",
}
_KEPT = {
    *("channels", "causal", "ratios", "kernel_size", "residual_kernel_size", "last_kernel_size"),
    *("dilation_base", "pad_mode", "true_skip", "compress"),
}
# What AudioCraft's classes have where a config says nothing, as far as it differs from here.
_CLASS_DEFAULTS = {"n_residual_layers": 3, "lstm": 0, "pad_mode": "reflect", "true_skip": True}
_NORMS = {"none", "weight_norm", "time_group_norm"}
_FINAL_ACTIVATIONS = {"Tanh": "torch.nn.Tanh", "Sigmoid": "torch.nn.Sigmoid"}


def read_codec(file: Path, content: Mapping[str, Any] | None = None) -> StoredModel:
    """The codec in a `compression_state_dict.bin`.  content: of the file, where it was read before."""
    state, config = read_package(file, content)
    if "encodec" not in config:
        raise ValueError(f"{file} holds a {config.get('solver')!r} model, not a codec")
    return StoredModel({"codec": codec_node(config)}, {"codec": convert_state(state)})


def write_codec(node: Mapping[str, Any], weights: Mapping[str, Tensor], file: Path) -> None:
    """A `compression_state_dict.bin` of an `EnCodec`; ValueError where AudioCraft has no such codec."""
    write_package(file, revert_state(weights), codec_config(node))


def convert_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """AudioCraft's weights under our names. ValueError for a key that has no place."""
    return stack_codebooks(rename_keys(rename_keys(state, RULES), LAYER_RULES))


def revert_state(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under AudioCraft's names."""
    return rename_keys(_transposed(unstack_codebooks(weights)), REVERSE_RULES)


def codec_node(config: Mapping[str, Any]) -> Config:
    """What builds the codec that the config describes."""
    encodec, rvq = section(config, "encodec"), section(config, "rvq")
    for part, wanted in (("autoencoder", "seanet"), ("quantizer", "rvq")):
        if encodec[part] != wanted:
            raise ValueError(f"a codec whose {part} is {encodec[part]!r}; only {wanted!r} is known")
    seanet = section(config, "seanet")
    encoder_only, decoder_only = seanet.pop("encoder", None) or {}, seanet.pop("decoder", None) or {}
    encoder = seanet_arguments({**seanet, **encoder_only})
    return node_of(
        EnCodec,
        encoder=node_of(SEANetEncoder, **encoder),
        decoder=node_of(SEANetDecoder, **seanet_arguments({**seanet, **decoder_only})),
        quantizer=node_of(
            ResidualVectorQuantizer,
            dim=encoder["dim"],
            num_codebooks=rvq.get("n_q", 8),
            cardinality=rvq.get("bins", 1024),
            dropout=rvq.get("q_dropout", False),
            learning=node_of(
                AudioCraftLearning,
                decay=rvq.get("decay", 0.99),
                # Without k-means the codes start random there: no iteration ever runs on a trained codec.
                kmeans_iterations=rvq.get("kmeans_iters", 10),
                dead_code_threshold=rvq.get("threshold_ema_dead_code", 2),
            ),
            orthogonal_weight=rvq.get("orthogonal_reg_weight", 0.0),
        ),
        sample_rate=encodec["sample_rate"],
        channels=encodec["channels"],
        normalize=encodec.get("renormalize", False),
    )


def codec_config(node: Mapping[str, Any]) -> Config:
    """The `xp.cfg` from which AudioCraft builds the same codec; ValueError where it has none like it."""
    if class_of(node) is not EnCodec:
        raise ValueError(f"AudioCraft's files hold an EnCodec, not a {class_of(node).__name__}")
    codec, encoder, decoder, rvq = (
        arguments_of(part) for part in (node, node["encoder"], node["decoder"], node["quantizer"])
    )
    if codec["chunk_duration"] is not None:
        raise ValueError(
            f"a codec that works in chunks of {codec['chunk_duration']} s: AudioCraft has none, "
            "transformers has (format='transformers')"
        )
    learning = rvq["learning"] or {}
    shared, only_encoder, only_decoder = _shared(_seanet_options(encoder), _seanet_options(decoder))
    return {
        "solver": "compression",
        "device": "cpu",
        "dtype": "float32",
        "sample_rate": codec["sample_rate"],
        "channels": codec["channels"],
        "compression_model": "encodec",
        "encodec": {
            "autoencoder": "seanet",
            "quantizer": "rvq",
            "sample_rate": codec["sample_rate"],
            "channels": codec["channels"],
            "causal": encoder["causal"],
            "renormalize": codec["normalize"],
        },
        "seanet": {**shared, "encoder": only_encoder, "decoder": only_decoder},
        "rvq": {
            "n_q": rvq["num_codebooks"],
            "q_dropout": rvq["dropout"],
            "bins": rvq["cardinality"],
            "decay": learning.get("decay", 0.99),
            "kmeans_init": True,
            "kmeans_iters": learning.get("kmeans_iterations", 50),
            "threshold_ema_dead_code": learning.get("dead_code_threshold", 2),
            "orthogonal_reg_weight": rvq["orthogonal_weight"],
            "orthogonal_reg_active_codes_only": False,
        },
    }


def seanet_arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """AudioCraft's options of an encoder or decoder as ours. ValueError for one that is not understood."""
    options = {**_CLASS_DEFAULTS, **options}
    activation, alpha = options.pop("activation", "ELU"), options.pop("activation_params", None)
    if activation != "ELU" or (alpha or {"alpha": 1.0}) != {"alpha": 1.0}:
        raise ValueError(
            f"a codec with the activation {activation!r} {alpha}; only ELU with alpha 1 is known"
        )
    norm = options.pop("norm", "none")
    if norm not in _NORMS or options.pop("norm_params", None):
        raise ValueError(
            f"a codec with the norm {norm!r} and parameters of its own; known are {sorted(_NORMS)}"
        )
    arguments = {"weight_norm": norm == "weight_norm", "time_group_norm": norm == "time_group_norm"}
    final, final_options = options.pop("final_activation", None), options.pop("final_activation_params", None)
    if final is not None:
        if final not in _FINAL_ACTIVATIONS or final_options:
            raise ValueError(
                f"a codec with the final activation {final!r}; known are {list(_FINAL_ACTIVATIONS)}"
            )
        arguments["final_activation"] = {"_target_": _FINAL_ACTIVATIONS[final]}
    if (trim := options.pop("trim_right_ratio", None)) is not None:
        arguments["trim_right_ratio"] = trim
    if unknown := sorted(set(options) - _KEPT - set(_RENAMED)):
        raise ValueError(f"the codec's config has options that are not understood: {unknown}")
    return arguments | {_RENAMED.get(name, name): value for name, value in options.items()}


def _seanet_options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The way back: our arguments as AudioCraft's options."""
    theirs = {ours: name for name, ours in _RENAMED.items()}
    options = {theirs.get(name, name): value for name, value in arguments.items()}
    weight_norm, time_group_norm = options.pop("weight_norm"), options.pop("time_group_norm")
    if weight_norm and time_group_norm:
        raise ValueError(
            "AudioCraft's convolutions have one norm; this codec has weight_norm and time_group_norm"
        )
    options |= {
        "ratios": list(options["ratios"]),
        "activation": "ELU",
        "activation_params": {"alpha": 1.0},
        "norm": "weight_norm" if weight_norm else "time_group_norm" if time_group_norm else "none",
        "norm_params": {},
    }
    if final := options.pop("final_activation", None):
        names = {target: name for name, target in _FINAL_ACTIVATIONS.items()}
        if final["_target_"] not in names:
            raise ValueError(
                f"a codec with the final activation {final['_target_']}: AudioCraft's form has none"
            )
        options["final_activation"] = names[final["_target_"]]
    return options


def _shared(one: Config, other: Config) -> tuple[Config, Config, Config]:
    """What both options say alike, and what only the one and only the other says."""
    shared = {name: value for name, value in one.items() if name in other and other[name] == value}
    own = [{name: value for name, value in options.items() if name not in shared} for options in (one, other)]
    return shared, own[0], own[1]


def _transposed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights with `convtr` for `conv` in transposed convolutions, whose weights are [in, out, kernel].

    They halve the channels, so the first axis is not the one of the bias.
    """
    transposed = set()
    for name, bias in weights.items():
        layer, _, last = name.rpartition("conv.")
        if last == "bias":
            names = (f"{layer}conv.weight", f"{layer}conv.parametrizations.weight.original1")
            weight = next((weights[key] for key in names if key in weights), None)
            if weight is not None and weight.shape[0] != bias.shape[0]:
                transposed.add(layer)
    renamed = {}
    for name, value in weights.items():
        for layer in transposed:
            if name.startswith(layer):
                rest = name.removeprefix(layer)
                name = layer + rest.replace("conv.", "convtr.", 1).replace("norm.", "convtr_norm.", 1)
        renamed[name] = value
    return renamed
