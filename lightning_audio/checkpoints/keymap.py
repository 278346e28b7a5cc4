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
