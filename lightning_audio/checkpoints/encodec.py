"""Codecs in the form of the first EnCodec repository: a `.th` file of weights and nothing else.

What the weights cannot say is what the two published models have: 24 kHz mono is causal with weight norm; 48 kHz
stereo sees both sides, has a norm over time, works in chunks of 1 s and normalises their volume. The layers are named
as AudioCraft's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_audio.checkpoints.audiocraft.codec import convert_state
from lightning_audio.checkpoints.pickles import read_pickle
from lightning_audio.checkpoints.stored import Config, StoredModel, node_of
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.codec.quantizer import ResidualVectorQuantizer
from lightning_audio.codec.seanet import SEANetDecoder, SEANetEncoder

_MONO = {"sample_rate": 24000, "normalize": False}
_STEREO = {"sample_rate": 48000, "normalize": True, "chunk_duration": 1.0, "chunk_overlap": 0.01}


def is_encodec(content: Mapping[Any, Any]) -> bool:
    """Whether what a file holds is the bare weights of a codec."""
    return bool(content) and all(
        isinstance(value, Tensor) and re.match(r"(encoder|decoder)\.model\.|quantizer\.vq\.", str(key))
        for key, value in content.items()
    )


def read_encodec(file: Path) -> StoredModel:
    """The codec of a `.th` file."""
    content = read_pickle(file)
    if not is_encodec(content):
        raise ValueError(f"{file} is no EnCodec: it holds {[str(key) for key in content][:3]} ...")
    weights = convert_state({name: value.float() for name, value in content.items()})
    return StoredModel({"codec": codec_node(weights)}, {"codec": weights})


def codec_node(weights: Mapping[str, Tensor]) -> Config:
    """What builds the codec that has these weights, under our names."""
    seanet = _seanet(weights)
    mono_causal = seanet["channels"] == 1 and seanet["weight_norm"] and not seanet["time_group_norm"]
    stereo_chunks = seanet["channels"] == 2 and seanet["time_group_norm"]
    if not mono_causal and not stereo_chunks:
        raise ValueError(
            f"a bare codec of {seanet['channels']} channels with "
            f"{'time_group_norm' if seanet['time_group_norm'] else 'weight_norm'}: the published ones are mono with "
            "weight_norm (24 kHz) and stereo with time_group_norm (48 kHz), and nothing else tells the sample rate"
        )
    embed = _find(weights, "quantizer.codebooks.embed")  # [K, N, D]
    seanet["causal"] = mono_causal
    return node_of(
        EnCodec,
        encoder=node_of(SEANetEncoder, **seanet),
        decoder=node_of(SEANetDecoder, **seanet),
        quantizer=node_of(
            ResidualVectorQuantizer,
            dim=embed.shape[2],
            num_codebooks=embed.shape[0],
            cardinality=embed.shape[1],
        ),
        channels=seanet["channels"],
        **(_MONO if mono_causal else _STEREO),
    )


def _seanet(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of encoder and decoder, read off the shapes of the encoder's layers."""
    plain = sorted(_numbers(weights, r"encoder\.layers\.(\d+)\.conv\..*"))
    blocks = sorted(_numbers(weights, r"encoder\.layers\.(\d+)\.block\..*"))
    if len(plain) < 3 or not blocks or len(blocks) % (len(plain) - 2):
        raise ValueError(
            f"an encoder with convolutions at {plain} and residual blocks at {blocks}: this is no SEANet encoder"
        )
    first, *strided, last = (_conv(weights, f"encoder.layers.{number}") for number in plain)
    inner = _conv(weights, f"encoder.layers.{blocks[0]}.block.1")
    return {
        "channels": first.shape[1],
        "dim": last.shape[0],
        "num_filters": first.shape[0],
        "ratios": [conv.shape[2] // 2 for conv in reversed(strided)],
        "num_residual_layers": len(blocks) // len(strided),
        "kernel_size": first.shape[2],
        "last_kernel_size": last.shape[2],
        "residual_kernel_size": inner.shape[2],
        "compress": inner.shape[1] // inner.shape[0],
        "num_lstm_layers": len(_numbers(weights, r"encoder\.layers\.\d+\.lstm\.weight_ih_l(\d+)")),
        "pad_mode": "reflect",
        "true_skip": not any(".shortcut." in name for name in weights),
        "weight_norm": any(".parametrizations." in name for name in weights),
        "time_group_norm": any(".norm." in name for name in weights),
    }


def _numbers(weights: Mapping[str, Tensor], pattern: str) -> set[int]:
    matches = (re.fullmatch(pattern, name) for name in weights)
    return {int(match[1]) for match in matches if match}


def _conv(weights: Mapping[str, Tensor], layer: str) -> Tensor:
    """The weight [out, in, kernel] of a convolution; of one with weight norm, its direction."""
    direction = f"{layer}.conv.parametrizations.weight.original1"
    return weights[direction] if direction in weights else _find(weights, f"{layer}.conv.weight")


def _find(weights: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in weights:
        raise ValueError(f"the weights of the codec lack {name}")
    return weights[name]
