"""AudioCraft's packaged files, read as data: nothing inside one is executed."""

from __future__ import annotations

import pickle
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import AnyNode, DictConfig, ListConfig, OmegaConf
from omegaconf.base import ContainerMetadata, Metadata
from torch import Tensor

# Some published files hold their config as a pickled DictConfig: these classes hold data, and no others are let in.
ALLOWED: list[Any] = [
    DictConfig,
    ListConfig,
    AnyNode,
    ContainerMetadata,
    Metadata,
    Any,
    defaultdict,
    dict,
    list,
    int,
]


def read_package(file: Path) -> tuple[dict[str, Tensor], DictConfig]:
    """The weights of a `state_dict.bin` or `compression_state_dict.bin` in float32, and its config."""
    package = read_file(file)
    if "pretrained" in package:
        raise ValueError(
            f"{file} holds no weights but a pointer to {package['pretrained']!r}: load that instead"
        )
    if missing := {"best_state", "xp.cfg"} - package.keys():
        raise ValueError(f"{file} is no packaged AudioCraft model: it lacks {sorted(missing)}")
    state = {name: tensor.float() for name, tensor in package["best_state"].items()}
    config = OmegaConf.create(package["xp.cfg"])
    assert isinstance(config, DictConfig)
    return state, config


def read_file(file: Path) -> dict[str, Any]:
    """What `torch.save` wrote, with tensors, plain values and OmegaConf's containers allowed."""
    try:
        with torch.serialization.safe_globals(ALLOWED):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{file} cannot be read safely: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}, not a packaged model")
    return content


def section(config: DictConfig, name: str) -> dict[str, Any]:
    """One part of a config as plain values, its references to other parts resolved."""
    node = config.get(name)
    if node is None:
        raise ValueError(f"the config has no section {name!r}; it has {sorted(str(key) for key in config)}")
    values = OmegaConf.to_container(node, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}
