"""AudioCraft's packaged files, read as data: nothing inside one is executed.

best_state: {name: tensor}     xp.cfg: the training's config, YAML or a pickled DictConfig
version, exported              pretrained: instead of all these, the name of a published codec
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import AnyNode, DictConfig, ListConfig, OmegaConf
from omegaconf.base import ContainerMetadata, Metadata
from torch import Tensor

from lightning_audio.atomic import whole_file
from lightning_audio.checkpoints.pickles import read_pickle


def _plain_dict(default_factory: Any) -> dict[Any, Any]:
    """What a pickled defaultdict becomes: torch's safe reader fills plain dicts only."""
    return {}


# Some published files hold their config as a pickled DictConfig: these classes hold data, and no others are let in.
ALLOWED: list[Any] = [
    DictConfig,
    ListConfig,
    AnyNode,
    ContainerMetadata,
    Metadata,
    Any,
    (_plain_dict, "collections.defaultdict"),
    dict,
    list,
    int,
]
VERSION = "1.4.0a2"
"""The version of AudioCraft whose form is written."""


def read_file(file: Path) -> dict[str, Any]:
    """What `torch.save` wrote, with tensors, plain values and OmegaConf's containers allowed."""
    return read_pickle(file, allowed=ALLOWED)


def read_package(
    file: Path, content: Mapping[str, Any] | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights of a `state_dict.bin` or `compression_state_dict.bin` in float32, and its config.

    content: of the file, where it was read before.
    """
    package = read_file(file) if content is None else content
    if "pretrained" in package:
        raise ValueError(
            f"{file} holds no weights but a pointer to {package['pretrained']!r}: load that instead"
        )
    if missing := {"best_state", "xp.cfg"} - package.keys():
        raise ValueError(f"{file} is no packaged AudioCraft model: it lacks {sorted(missing)}")
    state = package["best_state"]
    if odd := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"{file} holds something else than tensors as {odd[:3]}")
    return {name: _as_float32(value) for name, value in state.items()}, plain_config(package["xp.cfg"])


def write_package(
    file: Path, state: Mapping[str, Tensor], config: Mapping[str, Any], *, dtype: torch.dtype = torch.float32
) -> None:
    """A file that AudioCraft's loaders open.  dtype: of the weights; language models are published in float16."""
    weights = {
        name: value.detach().cpu().to(dtype if value.is_floating_point() else value.dtype).contiguous()
        for name, value in state.items()
    }
    package = {
        "best_state": weights,
        "xp.cfg": yaml.safe_dump(dict(config), sort_keys=False),
        "version": VERSION,
        "exported": True,
    }
    with whole_file(file) as temporary:
        torch.save(package, temporary)


def plain_config(config: str | DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """A config as plain values, its `${other.key}` replaced by what stands there.

    Only references to keys of the config itself are followed: a file must not be able to ask for the
    environment or for any other resolver. What cannot be followed stays as it is written.
    """
    if isinstance(config, str):
        config = yaml.safe_load(config)
    elif isinstance(config, DictConfig):
        config = OmegaConf.to_container(config, resolve=False)  # type: ignore[assignment]
    if not isinstance(config, Mapping):
        raise ValueError(f"the model's config is a {type(config).__name__}, not a mapping")
    return {str(key): _followed(value, config, depth=0) for key, value in config.items()}


def section(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """One part of a config; ValueError where it is not there."""
    values = config.get(name)
    if not isinstance(values, Mapping):
        raise ValueError(f"the config has no section {name!r}; it has {sorted(config)}")
    return dict(values)


def _followed(value: Any, root: Mapping[str, Any], depth: int) -> Any:
    if isinstance(value, Mapping):
        return {key: _followed(child, root, depth) for key, child in value.items()}
    if isinstance(value, list):
        return [_followed(child, root, depth) for child in value]
    match = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
    if match is None or depth > 8:  # deeper is a circle
        return value
    target: Any = root
    for key in match[1].split("."):
        if not isinstance(target, Mapping) or key not in target:
            return value
        target = target[key]
    return _followed(target, root, depth + 1)


def _as_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
