"""Codecs in the form of Hugging Face `transformers` (EncodecModel)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_audio.checkpoints.codec_state import LAYER_RULES, stack_codebooks, unstack_codebooks
from lightning_audio.checkpoints.huggingface.files import (
    CONFIG_FILE,
    open_weights,
    read_json,
    write_json,
    write_weights,
)
from lightning_audio.checkpoints.keymap import both_ways, rename_keys
from lightning_audio.checkpoints.stored import Config, StoredModel, arguments_of, class_of, node_of
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.codec.quantizer import ResidualVectorQuantizer
from lightning_audio.codec.seanet import SEANetDecoder, SEANetEncoder

MODEL_TYPE = "encodec"
_STATISTICS = {"inited": "inited", "embed": "embed", "cluster_size": "count", "embed_avg": "embed_sum"}
_FORWARD, _BACK = both_ways(
    [
        (f"quantizer.layers.#.codebook.{theirs}", f"quantizer.codebooks.{ours}.#")
        for theirs, ours in _STATISTICS.items()
    ]
)
_LAYERS = (r"((?:encoder|decoder)\.\S+)", r"\1")  # numbered and named as here
# Their options of encoder and decoder, and ours, where the values are the same.
SEANET = {
    "audio_channels": "channels",
    "hidden_size": "dim",
    "num_filters": "num_filters",
    "upsampling_ratios": "ratios",
    "num_residual_layers": "num_residual_layers",
    "kernel_size": "kernel_size",
    "last_kernel_size": "last_kernel_size",
    "residual_kernel_size": "residual_kernel_size",
    "dilation_growth_rate": "dilation_base",
    "compress": "compress",
    "num_lstm_layers": "num_lstm_layers",
    "use_causal_conv": "causal",
    "pad_mode": "pad_mode",
}
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


def read_codec(folder: Path) -> StoredModel:
    """The codec in a folder of `config.json` and weights, in float32."""
    config = read_json(folder / CONFIG_FILE)
    if config.get("model_type") != MODEL_TYPE:
        raise ValueError(f"{folder} holds a {config.get('model_type')!r} model, not an encodec")
    return StoredModel({"codec": codec_node(config)}, {"codec": codec_weights(open_weights(folder))})


def write_codec(stored: StoredModel, folder: Path) -> Path:
    """A folder that `EncodecModel.from_pretrained` opens."""
    config = codec_config(stored.config["codec"])
    write_weights(folder, encodec_weights(stored.weights["codec"]))
    write_json(folder / "preprocessor_config.json", feature_extractor(config, config["audio_channels"]))
    write_json(folder / CONFIG_FILE, {"architectures": ["EncodecModel"], **config})
    return folder


def codec_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of an EncodecModel under our names, in float32. ValueError for a key that has no place."""
    floats = {name: tensor.float() for name, tensor in weights.items()}
    return stack_codebooks(rename_keys(rename_keys(floats, [*_FORWARD, _LAYERS]), LAYER_RULES))


def encodec_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of one of our codecs under the names of an EncodecModel."""
    return rename_keys(unstack_codebooks(weights), [*_BACK, _LAYERS])


def codec_node(config: Mapping[str, Any], *, num_codebooks: int | None = None) -> Config:
    """The node of the codec that an EncodecConfig describes.  num_codebooks: in use, where not all are."""
    options = {name: config.get(name, default) for name, default in DEFAULTS.items()}
    dim, codebook_dim = options["hidden_size"], options["codebook_dim"]
    if codebook_dim not in (None, dim):
        raise ValueError(f"codebooks of width {codebook_dim} under latents of width {dim} are not known")
    if options["chunk_length_s"] is not None and options["overlap"] is None:
        raise ValueError(f"chunks of {options['chunk_length_s']} s without an overlap")
    if options["norm_type"] not in ("weight_norm", "time_group_norm"):
        raise ValueError(f"a codec with the norm {options['norm_type']!r} is not known")
    seanet = {ours: options[theirs] for theirs, ours in SEANET.items()}
    seanet["ratios"] = list(seanet["ratios"])
    seanet |= {
        "true_skip": not options["use_conv_shortcut"],
        "weight_norm": options["norm_type"] == "weight_norm",
        "time_group_norm": options["norm_type"] == "time_group_norm",
    }
    in_use = {} if num_codebooks is None else {"num_codebooks": num_codebooks}
    numbers = codebooks_of_bandwidths(config)
    dropout = {"dropout": True, "dropout_numbers": numbers} if len(numbers) > 1 else {}
    return node_of(
        EnCodec,
        encoder=node_of(SEANetEncoder, **seanet),
        decoder=node_of(SEANetDecoder, **seanet, trim_right_ratio=options["trim_right_ratio"]),
        quantizer=node_of(
            ResidualVectorQuantizer,
            dim=dim,
            num_codebooks=numbers[-1],
            cardinality=options["codebook_size"],
            **dropout,
        ),
        sample_rate=options["sampling_rate"],
        channels=options["audio_channels"],
        normalize=options["normalize"],
        chunk_duration=options["chunk_length_s"],
        chunk_overlap=options["overlap"] or 0.0,
        **in_use,
    )


def codec_config(node: Mapping[str, Any]) -> Config:
    """The EncodecConfig of one of our codecs; ValueError names what transformers has no option for."""
    if class_of(node) is not EnCodec:
        raise ValueError(f"transformers has no codec like {class_of(node).__name__}")
    codec = arguments_of(node)
    encoder, decoder = arguments_of(codec["encoder"]), arguments_of(codec["decoder"])
    quantizer = arguments_of(codec["quantizer"])
    if differing := [name for name in encoder if _plain(encoder[name]) != _plain(decoder[name])]:
        raise ValueError(f"transformers has one set of options for encoder and decoder; {differing} differ")
    if encoder["weight_norm"] == encoder["time_group_norm"]:
        raise ValueError("transformers wants one of weight_norm and time_group_norm in a codec")
    if encoder["num_outer_blocks_without_norm"] or decoder["final_activation"] is not None:
        raise ValueError("transformers has no codec with blocks without norm, or with a final activation")
    if not encoder["num_lstm_layers"]:
        raise ValueError("transformers has no codec without an LSTM")
    if quantizer["cardinality"].bit_count() != 1:
        raise ValueError(
            f"transformers wants 2 ** n codes in a codebook, this one has {quantizer['cardinality']}"
        )
    chunked = codec["chunk_duration"] is not None
    config = {
        "model_type": MODEL_TYPE,
        **{theirs: _plain(encoder[ours]) for theirs, ours in SEANET.items()},
        "codebook_dim": encoder["dim"],
        "codebook_size": quantizer["cardinality"],
        "sampling_rate": codec["sample_rate"],
        "normalize": codec["normalize"],
        "chunk_length_s": codec["chunk_duration"],
        "overlap": codec["chunk_overlap"] if chunked else None,
        "norm_type": "weight_norm" if encoder["weight_norm"] else "time_group_norm",
        "trim_right_ratio": decoder["trim_right_ratio"],
        "use_conv_shortcut": not encoder["true_skip"],
    }
    bits = _bits_per_second(config)
    return {
        **config,
        "target_bandwidths": [_bandwidth(number, bits) for number in _numbers(codec, quantizer)],
    }


def feature_extractor(config: Mapping[str, Any], channels: int) -> Config:
    """The `preprocessor_config.json` of a codec, for audio of so many channels."""
    return {
        "feature_extractor_type": "EncodecFeatureExtractor",
        "feature_size": channels,
        "sampling_rate": config["sampling_rate"],
        "chunk_length_s": config["chunk_length_s"],
        "overlap": config["overlap"],
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": True,
    }


def codebooks_of_bandwidths(config: Mapping[str, Any]) -> list[int]:
    """How many codebooks each bandwidth (kbit/s) has room for; the last is how many there are."""
    options = {**DEFAULTS, **config}
    bits = _bits_per_second(options)
    return [max(1, int(1000 * bandwidth // bits)) for bandwidth in options["target_bandwidths"]]


def _bits_per_second(config: Mapping[str, Any]) -> int:
    """Of one codebook; the frame rate is rounded up, as it is there."""
    frame_rate = math.ceil(config["sampling_rate"] / math.prod(config["upsampling_ratios"]))
    return frame_rate * math.ceil(math.log2(config["codebook_size"]))


def _numbers(codec: Mapping[str, Any], quantizer: Mapping[str, Any]) -> list[int]:
    """Codebooks of each bandwidth to offer, the one in use first, all last.

    One only where the codec was trained so; else those that it was trained with, or 2, 4, 8, ... as published.
    """
    total = quantizer["num_codebooks"]
    numbers = {total}
    if quantizer["dropout"]:
        numbers |= set(quantizer["dropout_numbers"] or [2**n for n in range(1, total.bit_length())])
    fewest = codec["num_codebooks"] or min(numbers)
    return sorted({fewest, *(number for number in numbers if number > fewest)})


def _bandwidth(number: int, bits_per_second: int) -> float:
    """kbit/s that are read as `number` codebooks: the quotient there is rounded down, and floats fall short."""
    bandwidth = number * bits_per_second / 1000
    while int(1000 * bandwidth // bits_per_second) < number:
        bandwidth = math.nextafter(bandwidth, math.inf)
    return bandwidth


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
