"""The weights of AudioCraft's language models, from their names to ours and back.

Three things are laid out otherwise there: an embedding and a head per codebook, which are one table and one matrix
here; one projection for the query, key and value of cross-attention; rotary frequencies, which are computed here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_audio.checkpoints.audiocraft.conditioners import read_weights, write_weights
from lightning_audio.checkpoints.audiocraft.layer_names import LAYER_PAIRS
from lightning_audio.checkpoints.keymap import both_ways, rename_keys, same_shape

_LAYER = "transformer.layers.#."
_PAIRS = [
    ("emb.#.weight", "embedding.#.weight"),
    ("linears.#.*", "heads.#.*"),
    ("out_norm.*", "norm.*"),
    *((_LAYER + theirs, _LAYER + ours) for theirs, ours in LAYER_PAIRS),
]
_FORWARD, _BACK = both_ways(_PAIRS)
CONDITIONING = "condition_provider."
_ROTARY = (r"transformer\.(?:layers\.\d+\.self_attn\.)?rope\..*", "")  # computed here


def convert_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """AudioCraft's weights under our names.  ValueError for a key that has no place."""
    # Where torch's own attention was used its names lie one deeper.
    plain = {
        re.sub(r"(self_attn|cross_attention)\.mha\.", r"\1.", key): value for key, value in state.items()
    }
    own = {key: value for key, value in plain.items() if not key.startswith(CONDITIONING)}
    renamed = rename_keys(own, [*_FORWARD, _ROTARY])
    converted = read_weights({key: value for key, value in plain.items() if key not in own})
    per_codebook: dict[str, list[tuple[int, Tensor]]] = {}
    for key, value in renamed.items():
        if match := re.fullmatch(r"(embedding|heads)\.(\d+)\.(weight|bias)", key):
            per_codebook.setdefault(f"{match[1]}.{match[3]}", []).append((int(match[2]), value))
        elif ".cross_attention.packed." in key:
            dim = value.shape[0] // 3
            converted[key.replace("packed", "query")] = value[:dim]
            converted[key.replace("packed", "key_value")] = value[dim:]
        else:
            converted[key] = value
    for key, parts in per_codebook.items():
        in_order = [value for _, value in sorted(parts, key=lambda part: part[0])]
        converted[key] = torch.cat(same_shape(key, in_order))
    return converted


def revert_state(weights: Mapping[str, Tensor], node: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of the language model that `node` builds, under AudioCraft's names."""
    conditioning = {key: value for key, value in weights.items() if key.startswith("conditioning.")}
    taken_apart: dict[str, Tensor] = {}
    for key, value in weights.items():
        name, _, last = key.rpartition(".")
        if key in conditioning:
            continue
        if name in ("embedding", "heads"):
            rows = value.chunk(node["num_codebooks"])
            taken_apart |= {f"{name}.{number}.{last}": row for number, row in enumerate(rows)}
        elif name.endswith("cross_attention.query"):
            packed = [value, weights[key.replace("query", "key_value")]]
            taken_apart[key.replace("query", "packed")] = torch.cat(packed)
        elif not name.endswith("cross_attention.key_value"):
            taken_apart[key] = value
    return {**rename_keys(taken_apart, _BACK), **write_weights(conditioning, node["conditioning"])}


def rotary_state(num_layers: int, head_dim: int, *, xpos: bool) -> dict[str, Tensor]:
    """What AudioCraft stores of rotary positions: the same numbers once for the whole and once for each layer."""
    pairs = torch.arange(0, head_dim, 2, dtype=torch.float32)
    stored = {"frequencies": 1 / 10_000 ** (pairs / head_dim)}
    if xpos:
        stored["xpos.decay_rates"] = (pairs + 0.4 * head_dim) / (1.4 * head_dim)
    places = ["transformer.rope", *(f"transformer.layers.{n}.self_attn.rope" for n in range(num_layers))]
    return {f"{place}.{name}": value for place in places for name, value in stored.items()}
