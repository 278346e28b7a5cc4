"""What foreign forms of a codec's weights share: one set of buffers per codebook, where ours are stacked."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_audio.checkpoints.keymap import same_shape

LAYER_RULES = [
    (r"(encoder|decoder)\.layers\.(\d+)\.lstm\.(\w+)", r"\1.layers.\2.lstm.\3"),
    (r"(encoder|decoder)\.layers\.(\S+)\.weight_g", r"\1.layers.\2.parametrizations.weight.original0"),
    (r"(encoder|decoder)\.layers\.(\S+)\.weight_v", r"\1.layers.\2.parametrizations.weight.original1"),
    (r"(encoder|decoder)\.layers\.(\S+\.parametrizations\.weight\.original[01])", r"\1.layers.\2"),
    (r"(encoder|decoder)\.layers\.(\S+)\.(weight|bias)", r"\1.layers.\2.\3"),
    (r"quantizer\.codebooks\.(\w+)\.(\d+)", r"quantizer.codebooks.\1.\2"),
]
"""Rules for keys in which the layers are already named as here; both spellings of a weight norm are understood."""


def stack_codebooks(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`quantizer.codebooks.NAME.LEVEL` of all levels become one `quantizer.codebooks.NAME`, [K, ...], in order."""
    stacked: dict[str, Tensor] = {}
    levels: dict[str, dict[int, Tensor]] = {}
    for key, value in state.items():
        if match := re.fullmatch(r"(quantizer\.codebooks\.\w+)\.(\d+)", key):
            levels.setdefault(match[1], {})[int(match[2])] = value
        else:
            stacked[key] = value
    for key, by_level in levels.items():
        if missing := sorted(set(range(max(by_level) + 1)) - set(by_level)):
            raise ValueError(f"{key} lacks the codebooks {missing}")
        stacked[key] = torch.stack(same_shape(key, [by_level[level] for level in range(len(by_level))]))
    inited = stacked.get("quantizer.codebooks.inited")
    if inited is not None:
        stacked["quantizer.codebooks.inited"] = inited.flatten().bool()
    return stacked


def unstack_codebooks(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The way back: one tensor per codebook, and whether it was set from data as a float of shape [1]."""
    single: dict[str, Tensor] = {}
    for key, value in state.items():
        if not key.startswith("quantizer.codebooks."):
            single[key] = value
            continue
        levels = value.float()[:, None] if key.endswith(".inited") else value
        single |= {f"{key}.{level}": tensor for level, tensor in enumerate(levels.unbind(0))}
    return single
