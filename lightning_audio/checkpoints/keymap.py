"""Renaming of checkpoint keys, strictly: each key is claimed by exactly one rule, or loading stops and names it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

Rule = tuple[str, str]
"""A pattern that must match the whole key, and its replacement as in `re.sub`; an empty replacement drops the key."""


def rename_keys(state_dict: Mapping[str, Tensor], rules: Sequence[Rule]) -> dict[str, Tensor]:
    """The tensors under their new names. ValueError for a key that no rule, or more than one, matches."""
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]
    renamed: dict[str, Tensor] = {}
    for key, tensor in state_dict.items():
        matches = [(match, new) for pattern, new in compiled if (match := pattern.fullmatch(key))]
        if len(matches) != 1:
            patterns = ", ".join(match.re.pattern for match, _ in matches) or "none"
            raise ValueError(f"key {key!r} must be matched by exactly one rule; matched by: {patterns}")
        match, replacement = matches[0]
        new_key = match.expand(replacement)
        if not new_key:
            continue
        if new_key in renamed:
            raise ValueError(f"key {key!r} becomes {new_key!r}, which another key has already become")
        renamed[new_key] = tensor
    return renamed


def both_ways(pairs: Sequence[tuple[str, str]]) -> tuple[list[Rule], list[Rule]]:
    """Rules that rename from the first to the second name of each pair, and rules that rename back.

    In a name `#` stands for a number and `*` for a word; the n-th of one name is the n-th of the other.
    """
    return [_rule(one, other) for one, other in pairs], [_rule(other, one) for one, other in pairs]


def _rule(name: str, new_name: str) -> Rule:
    pattern = re.escape(name).replace(r"\#", r"(\d+)").replace(r"\*", r"(\w+)")
    numbers = iter(range(1, 10))
    return pattern, re.sub(r"[#*]", lambda _: rf"\g<{next(numbers)}>", new_name)


def same_shape(key: str, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors, which are to be joined as `key`. ValueError where one has another shape than the first."""
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if odd := [number for number, shape in enumerate(shapes) if shape != shapes[0]]:
        raise ValueError(
            f"wrong shape: number {odd[0]} of {key} is {shapes[odd[0]]}, number 0 is {shapes[0]}"
        )
    return list(tensors)


def load_strict(module: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Loads the tensors; ValueError names every missing, unexpected and wrongly shaped key, before any is copied."""
    wanted = module.state_dict()
    problems = [f"missing: {key}" for key in wanted if key not in state_dict]
    problems += [f"unexpected: {key}" for key in state_dict if key not in wanted]
    problems += [
        f"wrong shape: {key} is {tuple(tensor.shape)}, the model wants {tuple(wanted[key].shape)}"
        for key, tensor in state_dict.items()
        if key in wanted and tensor.shape != wanted[key].shape
    ]
    if problems:
        raise ValueError(f"the checkpoint does not fit {type(module).__name__}:\n  " + "\n  ".join(problems))
    module.load_state_dict(dict(state_dict))
