"""A whole model in AudioCraft's packaged form: a folder of `compression_state_dict.bin` and `state_dict.bin`.

A folder may hold one of them only, the codec's file may be a pointer to a published codec by name, and in place of a
language model there may be the bands of a diffusion.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_audio.checkpoints.audiocraft.codec import read_codec, write_codec
from lightning_audio.checkpoints.audiocraft.conditioners import read_conditioning, write_conditioning
from lightning_audio.checkpoints.audiocraft.lm import (
    MASKED,
    extra_state,
    lm_config,
    lm_node,
    read_lm_file,
    read_lm_package,
)
from lightning_audio.checkpoints.audiocraft.lm_state import convert_state, revert_state
from lightning_audio.checkpoints.audiocraft.mbd import write_mbd
from lightning_audio.checkpoints.audiocraft.package import plain_config, read_file, section, write_package
from lightning_audio.checkpoints.stored import WHOLE, Config, StoredModel, arguments_of, class_of, node_of
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.codec.stereo import StereoFromMono
from lightning_audio.generation.text_to_audio import TextToAudio
from lightning_audio.lm.masked import MaskedSettings
from lightning_audio.lm.sampling import SamplingSettings

LM_FILE, CODEC_FILE = "state_dict.bin", "compression_state_dict.bin"
FindCodec = Callable[[str], StoredModel]
"""Finds the codec that a pointer names."""
_MASKED_WHOLE = "lightning_audio.generation.masked.MaskedTextToAudio"
_SHARED_SETTINGS = ("top_k", "top_p", "max_cfg_coef", "min_cfg_coef", "span_arrangement", "span_scoring")


def is_audiocraft(path: Path) -> bool:
    """Whether a folder holds one of AudioCraft's packaged files."""
    return (path / LM_FILE).is_file() or (path / CODEC_FILE).is_file()


def read_audiocraft(
    folder: Path, *, find_codec: FindCodec, text_encoder: str | Path | None = None
) -> StoredModel:
    """The model of a folder: codec and language model, or the one that is there."""
    if not (folder / LM_FILE).is_file():
        return read_codec_file(folder / CODEC_FILE, find_codec=find_codec)
    if not (folder / CODEC_FILE).is_file():
        return read_lm_file(folder / LM_FILE, text_encoder=text_encoder)
    codec = read_codec_file(folder / CODEC_FILE, find_codec=find_codec)
    state, config = read_lm_package(folder / LM_FILE)
    codec = _wrapped(codec, config)
    frame_rate = _frame_rate(codec.config["codec"])
    conditioning = read_conditioning(config, text_encoder=text_encoder, state=state)
    lm = lm_node(config, conditioning, frame_rate=frame_rate)
    return StoredModel(
        {**codec.config, "lm": lm, WHOLE: _generation(config)},
        {**codec.weights, "lm": convert_state(state)},
    )


def read_codec_file(file: Path, *, find_codec: FindCodec) -> StoredModel:
    """The codec of a `compression_state_dict.bin`, its own or the one that it points to."""
    content = read_file(file)
    return find_codec(str(content["pretrained"])) if "pretrained" in content else read_codec(file, content)


def read_audiocraft_file(
    file: Path, content: Mapping[str, Any], *, find_codec: FindCodec, text_encoder: str | Path | None = None
) -> StoredModel:
    """The model of one packaged file, whatever its name; `content` is what was read of it."""
    if "pretrained" in content:
        return find_codec(str(content["pretrained"]))
    is_lm = "transformer_lm" in plain_config(content.get("xp.cfg") or {})
    return read_lm_file(file, content, text_encoder=text_encoder) if is_lm else read_codec(file, content)


def write_audiocraft(stored: StoredModel, folder: Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """The folder that AudioCraft's loaders open.

    dtype: of the language model; AudioCraft publishes float16. The codec stays in float32, as it is there.
    """
    config, weights = stored.config, stored.weights
    if unknown := sorted(config.keys() - {"codec", "lm", "bands", WHOLE}):
        raise ValueError(f"AudioCraft's folders hold a codec, a language model and bands, not {unknown}")
    if "lm" in config:
        node = config["lm"]
        if arguments_of(node["conditioning"])["mask_padding"]:
            warnings.warn(
                "this model does not attend to the padding of text, AudioCraft's do: texts that are shorter than "
                "their neighbours in a batch will give other numbers there",
                stacklevel=2,
            )
        state = {**revert_state(weights["lm"], node), **extra_state(node)}
        write_package(folder / LM_FILE, state, _training_config(config), dtype=dtype)
    if "bands" in config:
        write_mbd(stored, folder / _bands_name(config))
    if "codec" in config:
        write_codec(*_mono(config["codec"], weights["codec"]), folder / CODEC_FILE)
    return folder


def _bands_name(config: Config) -> str:
    """The name that AudioCraft's `MultiBandDiffusion` looks for, where it knows such a model."""
    number = config[WHOLE].get("num_codebooks") or config["codec"]["quantizer"]["num_codebooks"]
    return {32000: "mbd_musicgen_32khz.th", 24000: f"mbd_comp_{number}.pt"}.get(
        config["codec"]["sample_rate"], "mbd.th"
    )


def _wrapped(codec: StoredModel, config: Mapping[str, Any]) -> StoredModel:
    """The codec as the language model uses it: its first codebooks only, or both channels interleaved."""
    node, weights = codec.config["codec"], dict(codec.weights["codec"])
    if (number := config.get("compression_model_n_q")) is not None:
        number = min(number, node["quantizer"]["num_codebooks"])
        node = {**node, "quantizer": {**node["quantizer"], "num_codebooks": number}}
        weights |= {
            name: value[:number] for name, value in weights.items() if name.startswith("quantizer.codebooks.")
        }
    stereo = config.get("interleave_stereo_codebooks") or {}
    if stereo.get("use"):
        if stereo.get("per_timestep"):
            raise ValueError(
                "channels that take turns in time (per_timestep) are not known; codebooks in turn are"
            )
        node = node_of(StereoFromMono, codec=node)
        weights = {f"codec.{name}": value for name, value in weights.items()}
    return StoredModel({"codec": node}, {"codec": weights})


def _mono(node: Config, weights: Mapping[str, Tensor]) -> tuple[Config, Mapping[str, Tensor]]:
    """The codec that is stored: what is around it stands in the language model's config."""
    if class_of(node) is not StereoFromMono:
        return node, weights
    return node["codec"], {name.removeprefix("codec."): value for name, value in weights.items()}


def _generation(config: Mapping[str, Any]) -> Config:
    """The node of the whole, with the settings that AudioCraft's classes start from."""
    duration = section(config, "dataset")["segment_duration"]
    if config.get("lm_model") != MASKED:
        defaults = node_of(
            SamplingSettings,
            cfg_coef=section(config, "classifier_free_guidance")["inference_coef"],
            two_step_cfg=config["transformer_lm"].get("two_step_cfg", False),
        )
        return {**node_of(TextToAudio, max_duration=duration, defaults=defaults), "_partial_": True}
    # Music and sound differ in temperature and guidance. The number of steps is not taken from the training's
    # config, which says 60 for the first codebook where AudioCraft's class starts from 20.
    trained = (config.get("generate") or {}).get("lm") or {}
    names = {"temp": "temperature", **{n: n for n in _SHARED_SETTINGS}}
    settings = {ours: trained[name] for name, ours in names.items() if name in trained}
    defaults = node_of(MaskedSettings, **settings)
    return {"_target_": _MASKED_WHOLE, "_partial_": True, "max_duration": duration, "defaults": defaults}


def _training_config(config: Config) -> Config:
    """The `xp.cfg` of the language model: all that AudioCraft's loaders and classes ask for."""
    node, codec = config["lm"], config.get("codec")
    sections = lm_config(node)
    whole: Config = {"max_duration": 30.0, "defaults": None}
    whole |= arguments_of(config[WHOLE]) if WHOLE in config else {}
    defaults = arguments_of(whole["defaults"]) if whole["defaults"] else {}
    is_masked = sections["lm_model"] == MASKED
    stereo = codec is not None and class_of(codec) is StereoFromMono
    if codec is not None:
        mono = codec["codec"] if stereo else codec
        audio = {
            "sample_rate": mono["sample_rate"],
            "channels": 2 if stereo else arguments_of(mono)["channels"],
        }
    else:
        audio = {"sample_rate": 32000, "channels": 1}
    if not is_masked:
        sections["transformer_lm"]["two_step_cfg"] = defaults.get("two_step_cfg", False)
    return {
        "solver": "magnet" if is_masked else "musicgen",
        "device": "cpu",
        "dtype": "float32",
        "autocast": True,
        "autocast_dtype": "float16",
        **audio,
        "dataset": {"segment_duration": whole["max_duration"]},
        **sections,
        **write_conditioning(node["conditioning"]),
        "classifier_free_guidance": {
            "training_dropout": 0.0,  # of the training, which is over
            "inference_coef": defaults.get("cfg_coef", 3.0),
        },
        "interleave_stereo_codebooks": {"use": stereo, "per_timestep": False},
        "compression_model_n_q": None,
        "tokens": {"padding_with_special_token": False},
        "generate": {"lm": _trained_settings(defaults) if is_masked else {}},
    }


def _trained_settings(defaults: Config) -> Config:
    names = {"temperature": "temp", **{name: name for name in _SHARED_SETTINGS}}
    return {theirs: defaults[name] for name, theirs in names.items() if name in defaults}


def _frame_rate(codec: Config) -> float:
    if class_of(codec) is StereoFromMono:
        return _frame_rate(codec["codec"])
    assert class_of(codec) is EnCodec
    hop = 1
    for ratio in arguments_of(codec["encoder"])["ratios"]:
        hop *= ratio
    return codec["sample_rate"] / hop
