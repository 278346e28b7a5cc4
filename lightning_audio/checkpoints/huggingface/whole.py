"""What every MusicGen folder of `transformers` holds, whatever its conditions: all parts in one set of files.

decoder.*          the language model; enc_to_dec_proj.* and audio_enc_to_dec_proj.* beside it: its conditions'
audio_encoder.*    the codec, mono also where the model is stereo: left and right are encoded one after the other
text_encoder.*     the T5
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_audio.checkpoints.huggingface.codec import (
    codebooks_of_bandwidths,
    codec_config,
    codec_node,
    codec_weights,
    encodec_weights,
)
from lightning_audio.checkpoints.huggingface.decoder import (
    PROJECTIONS,
    decoder_config,
    decoder_options,
    decoder_weights,
    lm_node,
    lm_weights,
)
from lightning_audio.checkpoints.huggingface.files import (
    CONFIG_FILE,
    open_weights,
    part_of,
    read_json,
    write_json,
    write_weights,
)
from lightning_audio.checkpoints.huggingface.generation import generation_config, generation_node
from lightning_audio.checkpoints.huggingface.text_encoder import write_text_encoder
from lightning_audio.checkpoints.stored import WHOLE, Config, StoredModel, arguments_of, class_of, node_of
from lightning_audio.codec.stereo import StereoFromMono
from lightning_audio.conditioning.text import T5Conditioner

GENERATION_FILE, PREPROCESSOR_FILE = "generation_config.json", "preprocessor_config.json"
DECODER, CODEC, TEXT = "decoder.", "audio_encoder.", "text_encoder."


def read_whole(folder: Path, conditioning: Config, *, widths: Mapping[str, int]) -> StoredModel:
    """The model of a folder, in float32.  widths: of each condition before its projection."""
    config, weights = read_json(folder / CONFIG_FILE), open_weights(folder)
    projections = tuple(f"{name}." for name in PROJECTIONS)
    parts = _split(weights, (CODEC, DECODER, TEXT, *projections))
    encodec = part_of(config, "audio_encoder", "encodec")
    decoder = decoder_options(part_of(config, "decoder"))
    channels = decoder["audio_channels"]
    in_use, numbers = decoder["num_codebooks"] // channels, codebooks_of_bandwidths(encodec)
    codec = codec_node(encodec, num_codebooks=in_use if in_use < numbers[-1] else None)
    codec_state = codec_weights({name.removeprefix(CODEC): weights[name] for name in parts[CODEC]})
    if channels == 2:
        codec = node_of(StereoFromMono, codec=codec)
        codec_state = {f"codec.{name}": tensor for name, tensor in codec_state.items()}
    names = [name for part in (DECODER, *projections) for name in parts[part]]
    lm_state = {name.removeprefix(DECODER): weights[name] for name in names}
    return StoredModel(
        {
            "codec": codec,
            "lm": lm_node(config["decoder"], conditioning),
            WHOLE: generation_node(folder / GENERATION_FILE, special=decoder["vocab_size"]),
        },
        {"codec": codec_state, "lm": lm_weights(lm_state, widths=widths, dim=decoder["hidden_size"])},
    )


def write_whole(
    stored: StoredModel,
    folder: Path,
    *,
    text: Mapping[str, Any],
    config: Mapping[str, Any],
    preprocessor: Mapping[str, Any],
) -> Path:
    """Writes all parts.  text: the text conditioner's node.  config, preprocessor: what differs between models."""
    lm, lm_state = arguments_of(stored.config["lm"]), stored.weights["lm"]
    codec, channels = encodec_config(stored)
    codec_state = {name.removeprefix("codec."): value for name, value in stored.weights["codec"].items()}
    frame_rate = codec["sampling_rate"] / math.prod(codec["upsampling_ratios"])
    generation = generation_config(stored.config[WHOLE], special=lm["cardinality"], frame_rate=frame_rate)
    decoder = decoder_config(
        stored.config["lm"], audio_channels=channels, model_type=f"{config['model_type']}_decoder"
    )
    state = decoder_weights(lm_state, num_codebooks=lm["num_codebooks"])
    weights = {
        name if name.split(".")[0] in PROJECTIONS else DECODER + name: value for name, value in state.items()
    }
    weights |= {CODEC + name: value for name, value in encodec_weights(codec_state).items()}
    # All that could be refused has been: now the long work.
    text_config, text_state = write_text_encoder(text, folder)
    write_weights(folder, weights | {TEXT + name: value for name, value in text_state.items()})
    write_json(folder / PREPROCESSOR_FILE, preprocessor)
    write_json(folder / GENERATION_FILE, generation)
    parts = {"audio_encoder": codec, "decoder": decoder, "text_encoder": text_config}
    # Last: a folder with a config is a whole model.
    write_json(folder / CONFIG_FILE, {**config, **parts, "is_encoder_decoder": True})
    return folder


def encodec_config(stored: StoredModel) -> tuple[Config, int]:
    """The EncodecConfig of a whole model's codec, and how many channels go through it one after the other."""
    node, channels = stored.config["codec"], 1
    if class_of(node) is StereoFromMono:
        node, channels = node["codec"], 2
    in_use = arguments_of(stored.config["lm"])["num_codebooks"] // channels
    return codec_config({**node, "num_codebooks": in_use}), channels


def conditioners_of(lm: Mapping[str, Any], way: str, names: Sequence[str]) -> Config:
    """The options of a model's conditioning, which must take these conditions in this way and no others, text by T5."""
    conditioning = arguments_of(arguments_of(lm)["conditioning"])
    found = {way: sorted(fused) for way, fused in conditioning["fuse"].items() if fused}
    if found != {way: sorted(names)}:
        raise ValueError(
            f"transformers has models that take {' and '.join(names)} by {way}; this one takes {found or 'nothing'}"
        )
    if (kind := class_of(conditioning["conditioners"]["description"])) is not T5Conditioner:
        raise ValueError(f"transformers has models with a T5 for text, not with a {kind.__name__}")
    return conditioning


def _split(names: Mapping[str, Any], prefixes: Sequence[str]) -> dict[str, list[str]]:
    """Names by what they begin with; ValueError names those that begin otherwise."""
    parts: dict[str, list[str]] = {prefix: [] for prefix in prefixes}
    strange: list[str] = []
    for name in names:
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        (strange if prefix is None else parts[prefix]).append(name)
    if strange:
        raise ValueError(f"keys that belong to no part of the model: {strange[:3]} ({len(strange)} in all)")
    return parts
