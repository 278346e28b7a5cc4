"""A model on its way from one form to another: what builds its parts, and their weights.

Every reader gives a `StoredModel` and every writer takes one, so each format is known in one place and each model
that was loaded can be written in every form that can hold it.

    config: {"codec": node, "lm": node, "generation": partial node}     `_target_` nodes, plain dicts
    weights: {"codec": {name: tensor}, "lm": {name: tensor}}             under our names

"generation" is the node of the whole, which takes the parts by name; a model of one part has none.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from hydra.utils import get_object, instantiate
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_audio.checkpoints.keymap import load_strict

Config = dict[str, Any]
WHOLE = "generation"
# Of other people's classes those that a model's config may name: activations, which hold no code of a checkpoint's.
ACTIVATIONS = ("torch.nn.GELU", "torch.nn.ReLU", "torch.nn.ELU", "torch.nn.Tanh", "torch.nn.Sigmoid")

_HYDRA_KEYS = ("_target_", "_partial_", "_convert_", "_recursive_")


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
                with _WithoutDraws():
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
    for name, part in parts.items():
        _check_not_folded(name, part, config[name])
    return StoredModel(config, {name: part.state_dict() for name, part in parts.items()})


def _check_not_folded(name: str, part: nn.Module, node: Mapping[str, Any]) -> None:
    """ValueError where the weights are no longer those that the node's model has."""
    with torch.device("meta"):
        wanted = build(node).state_dict().keys()
    if wanted != part.state_dict().keys():
        raise ValueError(
            f"the weights of the {name} were folded for inference, or changed otherwise: take a model fresh from `load`"
        )


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


def node_of(target: type, **arguments: Any) -> Config:
    """The node that builds a `target` with these arguments."""
    return {"_target_": f"{target.__module__}.{target.__qualname__}", **arguments}


def class_of(node: Mapping[str, Any]) -> Any:
    """The class that a node builds, of this project or an activation."""
    _refuse_foreign_targets(node)
    return get_object(str(node["_target_"]))


def arguments_of(node: Mapping[str, Any]) -> Config:
    """All arguments of what a node builds: those that it leaves out have their defaults, or are not there.

    For writers: what a format wants said must not depend on what a config took for granted.
    """
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(class_of(node)).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    return {**defaults, **{name: value for name, value in node.items() if name not in _HYDRA_KEYS}}


def _refuse_foreign_targets(node: Any) -> None:
    if isinstance(node, Mapping):
        if "_target_" in node and node["_target_"] not in ACTIVATIONS:
            target = str(node["_target_"])
            try:
                found = get_object(target) if target.startswith("lightning_audio.") else None
            except ImportError:
                found = None
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
    elif isinstance(node, str) and "${" in node:
        # Whoever resolves it asks the machine, such as `${oc.env:HOME}`.
        raise ValueError(f"the checkpoint's config says {node!r}: a model's config holds plain values")


class _WithoutDraws(TorchFunctionMode):
    """Zeros instead of random numbers, for weights that are loaded a moment later: drawing takes most of the time."""

    _DRAWS = (
        *(nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_),
        *(torch.Tensor.uniform_, torch.Tensor.normal_),
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if func in self._DRAWS:
            tensor: Tensor = args[0] if args else options["tensor"]
            return tensor.detach().zero_()
        return func(*args, **options)


def _ready(model: Any, config: Config) -> Any:
    model.eval().requires_grad_(False)
    model.config = config
    return model
