"""Codecs in the form of Hugging Face `transformers` (EncodecModel): `config.json` and `model.safetensors`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from lightning_audio.checkpoints.codec_state import LAYER_RULES, stack_codebooks
from lightning_audio.checkpoints.keymap import load_strict, rename_keys
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.codec.quantizer import ResidualVectorQuantizer
from lightning_audio.codec.seanet import SEANetDecoder, SEANetEncoder

_CODEBOOK = r"quantizer\.layers\.(\d+)\.codebook\."
RULES = [
    (r"((?:encoder|decoder)\.\S+)", r"\1"),  # the layers are numbered and named as here
    (_CODEBOOK + r"(inited|embed)", r"quantizer.codebooks.\2.\1"),
    (_CODEBOOK + r"cluster_size", r"quantizer.codebooks.count.\1"),
    (_CODEBOOK + r"embed_avg", r"quantizer.codebooks.embed_sum.\1"),
]
# Options that transformers leaves out of a config when they have their default value.
DEFAULTS: dict[str, Any] = {
    "target_bandwidths": [1.5, 3.0, 6.0, 12.0, 24.0],
    "sampling_rate": 24000,
    "audio_channels": 1,
    "normalize": False,
    "chunk_length_s": None,
    "overlap": None,
    "hidden_size": 128,
    "num_filters": 32,
    "num_residual_layers": 1,
    "upsampling_ratios": [8, 5, 4, 2],
    "norm_type": "weight_norm",
    "kernel_size": 7,
    "last_kernel_size": 7,
    "residual_kernel_size": 3,
    "dilation_growth_rate": 2,
    "use_causal_conv": True,
    "pad_mode": "reflect",
    "compress": 2,
    "num_lstm_layers": 2,
    "trim_right_ratio": 1.0,
    "codebook_size": 1024,
    "codebook_dim": None,
    "use_conv_shortcut": True,
}


def read_codec(folder: Path) -> EnCodec:
    """The codec in a folder of `config.json` and `model.safetensors` (or `pytorch_model.bin`)."""
    config = json.loads((folder / "config.json").read_text())
    if config.get("model_type") != "encodec":
        raise ValueError(f"{folder} holds a {config.get('model_type')!r} model, not an encodec")
    weights, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    if not weights.is_file() and not pickled.is_file():
        raise FileNotFoundError(f"{folder} holds neither {weights.name} nor {pickled.name}")
    state = (
        load_file(weights)
        if weights.is_file()
        else torch.load(pickled, map_location="cpu", weights_only=True)
    )
    codec = build_codec(config)
    load_strict(codec, convert_state(state))
    return codec.eval().requires_grad_(False)


def convert_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of an EncodecModel under our names, in float32. ValueError for a key that has no place."""
    floats = {name: tensor.float() for name, tensor in state.items()}
    return stack_codebooks(rename_keys(rename_keys(floats, RULES), LAYER_RULES))


def build_codec(config: Mapping[str, Any]) -> EnCodec:
    """The codec that an EncodecConfig describes, with random weights."""
    options = {name: config.get(name, default) for name, default in DEFAULTS.items()}
    dim, codebook_dim = options["hidden_size"], options["codebook_dim"]
    if codebook_dim not in (None, dim):
        raise ValueError(f"codebooks of width {codebook_dim} under latents of width {dim} are not known")
    if options["chunk_length_s"] is not None and options["overlap"] is None:
        raise ValueError(f"chunks of {options['chunk_length_s']} s without an overlap")
    if options["norm_type"] not in ("weight_norm", "time_group_norm"):
        raise ValueError(f"a codec with the norm {options['norm_type']!r} is not known")
    seanet = {
        "channels": options["audio_channels"],
        "dim": dim,
        "num_filters": options["num_filters"],
        "ratios": options["upsampling_ratios"],
        "num_residual_layers": options["num_residual_layers"],
        "kernel_size": options["kernel_size"],
        "last_kernel_size": options["last_kernel_size"],
        "residual_kernel_size": options["residual_kernel_size"],
        "dilation_base": options["dilation_growth_rate"],
        "compress": options["compress"],
        "num_lstm_layers": options["num_lstm_layers"],
        "causal": options["use_causal_conv"],
        "pad_mode": options["pad_mode"],
        "true_skip": not options["use_conv_shortcut"],
        "weight_norm": options["norm_type"] == "weight_norm",
        "time_group_norm": options["norm_type"] == "time_group_norm",
    }
    return EnCodec(
        encoder=SEANetEncoder(**seanet),
        decoder=SEANetDecoder(**seanet, trim_right_ratio=options["trim_right_ratio"]),
        quantizer=ResidualVectorQuantizer(
            dim=dim, num_codebooks=_num_codebooks(options), cardinality=options["codebook_size"]
        ),
        sample_rate=options["sampling_rate"],
        channels=options["audio_channels"],
        normalize=options["normalize"],
        chunk_duration=options["chunk_length_s"],
        chunk_overlap=options["overlap"] or 0.0,
    )


def _num_codebooks(options: Mapping[str, Any]) -> int:
    """As many as the highest bandwidth (kbit/s) has room for; the frame rate is rounded up, as it is there."""
    frame_rate = math.ceil(options["sampling_rate"] / math.prod(options["upsampling_ratios"]))
    bits = math.ceil(math.log2(options["codebook_size"]))
    return int(1000 * options["target_bandwidths"][-1] // (frame_rate * bits))
