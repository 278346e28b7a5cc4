"""How codes are drawn: `generation_config.json` and our `SamplingSettings`, with the longest clip beside them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_audio.checkpoints.huggingface.files import read_json
from lightning_audio.checkpoints.stored import Config, arguments_of, class_of, node_of
from lightning_audio.generation.text_to_audio import TextToAudio
from lightning_audio.lm.sampling import SamplingSettings

MAX_DURATION = 30.0  # s, of the clips that the published models were trained on
SPECIAL_TOKENS = ("bos_token_id", "decoder_start_token_id", "pad_token_id")
TOP_K = 50  # what transformers takes where nothing is said


def generation_node(file: Path, *, special: int) -> Config:
    """The node of a whole model whose settings lie in `file`; our own, the published ones, where there is no file.

    special: the token that is no code, which alone can stand where nothing was said yet.
    """
    if not file.is_file():
        return _whole_node(MAX_DURATION, node_of(SamplingSettings))
    config = read_json(file)
    for name in SPECIAL_TOKENS:
        if config.get(name) in range(special):
            raise ValueError(f"{file} has {name} {config[name]}, which is a code; want {special}")
    # transformers keeps what it does not know: so a model that was trained on other clips is still known as such.
    return _whole_node(config.get("max_duration", MAX_DURATION), _settings_node(config))


def generation_config(node: Mapping[str, Any], *, special: int, frame_rate: float) -> Config:
    """The contents of the file for a whole model's node.  special: the token that is no code."""
    if class_of(node) is not TextToAudio:
        raise ValueError(f"transformers has no model that generates as {class_of(node).__name__} does")
    options = arguments_of(node)
    settings = SamplingSettings(**arguments_of(options["defaults"] or node_of(SamplingSettings)))
    config: Config = {
        **dict.fromkeys(SPECIAL_TOKENS, special),
        "max_length": int(options["max_duration"] * frame_rate),
        "max_duration": options["max_duration"],
        "guidance_scale": settings.cfg_coef,
        "do_sample": not settings.is_greedy,
    }
    if not settings.is_greedy:
        config |= {
            "temperature": settings.temperature,
            "top_k": 0 if settings.top_p else settings.top_k,
            "top_p": settings.top_p or 1.0,
        }
    return config


def _whole_node(max_duration: float, settings: Config) -> Config:
    return {**node_of(TextToAudio, max_duration=max_duration, defaults=settings), "_partial_": True}


def _settings_node(config: Mapping[str, Any]) -> Config:
    """transformers guides above 1 only, and cuts by top-k and then by top-p where both are given."""
    said = {name: value for name, value in config.items() if value is not None}
    top_k, top_p = said.get("top_k", TOP_K), said.get("top_p", 1.0)
    if top_p < 1 and top_k:
        warnings.warn(
            f"the model asks for top_k {top_k} and top_p {top_p}; here one of them is used, top_p",
            stacklevel=2,
        )
    return node_of(
        SamplingSettings,
        use_sampling=said.get("do_sample", False),
        temperature=said.get("temperature", 1.0),
        top_k=top_k,
        top_p=top_p if top_p < 1 else 0.0,
        cfg_coef=max(1.0, said.get("guidance_scale", 1.0)),
    )
