"""Codecs in AudioCraft's packaged form (`compression_state_dict.bin`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import Tensor, nn

from lightning_audio.checkpoints.audiocraft.package import read_package, section
from lightning_audio.checkpoints.codec_state import LAYER_RULES, stack_codebooks
from lightning_audio.checkpoints.keymap import load_strict, rename_keys
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
_NORMS = {"none", "weight_norm", "time_group_norm"}


def read_codec(file: Path) -> tuple[EnCodec, DictConfig]:
    """The codec in a `compression_state_dict.bin`, in float32, and the config that it came with."""
    state, config = read_package(file)
    if "encodec" not in config:
        raise ValueError(f"{file} holds a {config.get('solver')!r} model, not a codec")
    codec = build_codec(config)
    load_strict(codec, convert_state(state))
    return codec.eval().requires_grad_(False), config


def convert_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """AudioCraft's weights under our names. ValueError for a key that has no place."""
    return stack_codebooks(rename_keys(rename_keys(state, RULES), LAYER_RULES))


def build_codec(config: DictConfig) -> EnCodec:
    """The codec that the config describes, with random weights."""
    encodec, rvq = section(config, "encodec"), section(config, "rvq")
    for part, wanted in (("autoencoder", "seanet"), ("quantizer", "rvq")):
        if encodec[part] != wanted:
            raise ValueError(f"a codec whose {part} is {encodec[part]!r}; only {wanted!r} is known")
    seanet = section(config, "seanet")
    encoder_only, decoder_only = seanet.pop("encoder") or {}, seanet.pop("decoder") or {}
    encoder = seanet_arguments({**seanet, **encoder_only})
    decoder = seanet_arguments({**seanet, **decoder_only})
    return EnCodec(
        encoder=SEANetEncoder(**encoder),
        decoder=SEANetDecoder(**decoder),
        quantizer=ResidualVectorQuantizer(
            dim=encoder["dim"],
            num_codebooks=rvq["n_q"],
            cardinality=rvq["bins"],
            dropout=rvq["q_dropout"],
            learning=AudioCraftLearning(
                decay=rvq["decay"],
                kmeans_iterations=rvq["kmeans_iters"],
                dead_code_threshold=rvq["threshold_ema_dead_code"],
            ),
            orthogonal_weight=rvq["orthogonal_reg_weight"],
        ),
        sample_rate=encodec["sample_rate"],
        channels=encodec["channels"],
        normalize=encodec["renormalize"],
    )


def seanet_arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """AudioCraft's options of an encoder or decoder as ours. ValueError for one that is not understood."""
    options = dict(options)
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
        if final not in ("Tanh", "Sigmoid") or final_options:
            raise ValueError(f"a codec with the final activation {final!r}; only Tanh and Sigmoid are known")
        arguments["final_activation"] = {"Tanh": nn.Tanh, "Sigmoid": nn.Sigmoid}[final]()
    if (trim := options.pop("trim_right_ratio", None)) is not None:
        arguments["trim_right_ratio"] = trim
    if unknown := sorted(set(options) - _KEPT - set(_RENAMED)):
        raise ValueError(f"the codec's config has options that are not understood: {unknown}")
    return arguments | {_RENAMED.get(name, name): value for name, value in options.items()}
