"""The T5 inside a folder of `transformers`: it stays there, and the conditioner reads it when it is first needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_audio.checkpoints.stored import Config, build, node_of
from lightning_audio.conditioning.text import T5_DIMS, T5Conditioner


def text_node(config: Mapping[str, Any], path: str | Path | None) -> Config:
    """The conditioner of descriptions by a T5 of this config, which is read from `path`."""
    return t5_node(config.get("d_model", 512), config.get("_name_or_path"), path)


def t5_node(width: int, name: str | None, path: str | Path | None) -> Config:
    """The conditioner of a T5 of this width; where `name` is none that was published, of its published size."""
    if T5_DIMS.get(name or "") != width:
        name = next((known for known, dim in T5_DIMS.items() if dim == width), "t5")
    return node_of(T5Conditioner, name=name, dim=width, path=None if path is None else str(path))


def write_text_encoder(node: Mapping[str, Any], folder: Path) -> tuple[Config, dict[str, Tensor]]:
    """The config and the weights of a conditioner's T5; its tokeniser is written into `folder`."""
    conditioner = build(node)
    encoder = conditioner.encoder
    folder.mkdir(parents=True, exist_ok=True)
    conditioner.tokenizer.save_pretrained(folder)
    state = encoder.state_dict()
    state.pop("encoder.embed_tokens.weight", None)  # the same tensor as `shared.weight`
    return encoder.config.to_dict(), state
