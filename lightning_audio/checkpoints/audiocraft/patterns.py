"""The section `codebooks_pattern` of AudioCraft's configs, and our patterns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lightning_audio.checkpoints.stored import Config, arguments_of, class_of, node_of
from lightning_audio.lm.patterns import (
    CoarseFirstPattern,
    DelayPattern,
    FlatteningPattern,
    GroupedPattern,
    ParallelPattern,
)


def read_pattern(config: Mapping[str, Any], num_codebooks: int) -> Config:
    """The node of the pattern that a config names under `modeling`."""
    name = config["modeling"]
    if name not in _READERS:
        raise ValueError(f"unknown codebook pattern {name!r}; known are {list(_READERS)}")
    # As there, options count under the very name of the pattern only.
    return _READERS[name](dict(config.get(name) or {}), num_codebooks)


def write_pattern(node: Mapping[str, Any]) -> Config:
    """The section that describes a pattern."""
    kind = class_of(node)
    if kind not in _WRITERS:
        raise ValueError(f"AudioCraft knows no pattern like {kind.__name__}")
    name, options = _WRITERS[kind](arguments_of(node))
    return {"modeling": name, name: options}


def _read_delay(options: Config, num_codebooks: int) -> Config:
    return node_of(DelayPattern, **{"delays": list(range(num_codebooks)), **options})


def _read_parallel(options: Config, num_codebooks: int) -> Config:
    empty = options.get("empty_initial", 0)
    if empty > 0:
        return node_of(DelayPattern, delays=[0] * num_codebooks, empty_initial=empty)
    return node_of(ParallelPattern, num_codebooks=num_codebooks, has_start=empty == 0)


def _read_unroll(options: Config, num_codebooks: int) -> Config:
    order = options.get("flattening") or list(range(num_codebooks))
    return node_of(FlatteningPattern, order=order, delays=options.get("delays"))


def _read_coarse_first(options: Config, num_codebooks: int) -> Config:
    return node_of(CoarseFirstPattern, num_codebooks=num_codebooks, delays=options.get("delays"))


def _read_grouped(options: Config, num_codebooks: int) -> Config:
    return node_of(GroupedPattern, num_codebooks=num_codebooks, group_size=options.get("group_by", 2))


_READERS: dict[str, Callable[[Config, int], Config]] = {
    "delay": _read_delay,
    "parallel": _read_parallel,
    "unroll": _read_unroll,
    "coarse_first": _read_coarse_first,
    "musiclm": _read_grouped,
}
_WRITERS: dict[type, Callable[[Config], tuple[str, Config]]] = {
    DelayPattern: lambda pattern: ("delay", {**pattern, "delays": list(pattern["delays"])}),
    ParallelPattern: lambda pattern: ("parallel", {"empty_initial": 0 if pattern["has_start"] else -1}),
    FlatteningPattern: lambda pattern: (
        "unroll",
        {
            "flattening": list(pattern["order"]),
            "delays": list(pattern["delays"] or [0] * len(pattern["order"])),
        },
    ),
    CoarseFirstPattern: lambda pattern: (
        "coarse_first",
        {"delays": list(pattern["delays"] or [0] * (pattern["num_codebooks"] - 1))},
    ),
    GroupedPattern: lambda pattern: ("musiclm", {"group_by": pattern["group_size"]}),
}
