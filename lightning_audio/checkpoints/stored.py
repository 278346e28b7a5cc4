"""A model on its way from one form to another: what builds its parts, and their weights.

Every reader gives a `StoredModel` and every writer takes one, so each format is known in one place and each model
that was loaded can be written in every form that can hold it.

    config: {"codec": node, "lm": node, "generation": partial node}     `_target_` nodes, plain dicts
    weights: {"codec": {name: tensor}, "lm": {name: tensor}}             under our names

"generation" is the node of the whole, which takes the parts by name; a model of one part has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hydra.utils import get_object, instantiate
from torch import Tensor, nn

from lightning_audio.checkpoints.keymap import load_strict

Config = dict[str, Any]
WHOLE = "generation"
# Of other people's classes those that a model's config may name: activations, which hold no code of a checkpoint's.
ACTIVATIONS = ("torch.nn.GELU", "torch.nn.ReLU", "torch.nn.ELU", "torch.nn.Tanh")


@dataclass(frozen=True)
class StoredModel:
    """config: nodes by part, and "generation".   weights: by part."""

    config: Config
    weights: Mapping[str, Mapping[str, Tensor]]

    def assemble(self) -> Any:
        """The model, in eval mode, frozen, with the nodes that build it as `.config`."""
        parts: dict[str, nn.Module] = {}
        for name, node in self.config.items():
            if name != WHOLE:
                part = build(node)
                load_strict(part, self.weights[name])
                parts[name] = _ready(part, {name: node})
        if WHOLE in self.config:
            return _ready(build(self.config[WHOLE])(**parts), self.config)
        (model,) = parts.values()
        return model


def take_apart(model: nn.Module) -> StoredModel:
    """What `assemble` made a model of."""
    config = config_of(model)
    names = [name for name in config if name != WHOLE]
    parts = {name: getattr(model, name) for name in names} if WHOLE in config else {names[0]: model}
    return StoredModel(config, {name: part.state_dict() for name, part in parts.items()})


def config_of(model: nn.Module) -> Config:
    """The nodes that build a model which came from `load`."""
    config = getattr(model, "config", None)
    if not isinstance(config, dict):
        raise ValueError("only a model that came from `load` knows the config that builds it")
    return config


def build(node: Mapping[str, Any], **values: Any) -> Any:
    """The object that a `_target_` node describes; ValueError where a target is not a class of this project.

    A config is data that may come from anybody, so nothing else is ever built from it.
    """
    _refuse_foreign_targets(node)
    return instantiate(dict(node), _convert_="all", **values)


def _refuse_foreign_targets(node: Any) -> None:
    if isinstance(node, Mapping):
        if "_target_" in node and node["_target_"] not in ACTIVATIONS:
            target = str(node["_target_"])
            found = get_object(target) if target.startswith("lightning_audio.") else None
            # The dotted path could wander out of the project through a module's own imports.
            if not isinstance(found, type) or not found.__module__.startswith("lightning_audio."):
                raise ValueError(
                    f"the checkpoint's config asks for {target!r}, which is no class of this project"
                )
        for child in node.values():
            _refuse_foreign_targets(child)
    elif isinstance(node, list):
        for child in node:
            _refuse_foreign_targets(child)


def _ready(model: Any, config: Config) -> Any:
    model.eval().requires_grad_(False)
    model.config = config
    return model
