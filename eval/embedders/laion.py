"""LAION's CLAP files as transformers' ClapModel: the shapes say which network it is, the keys are renamed.

Files of `laion_clap`: HTSAT (a Swin transformer over the spectrogram) beside RoBERTa, each with a projection. Read
here, they need neither that package nor torchaudio and torchvision, which it imports.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_audio.checkpoints.keymap import Rule, load_strict, rename_keys
from lightning_audio.checkpoints.pickles import read_pickle

# A file holds the state of its training too, whose numbers are NumPy's; their maker has moved over the versions.
_SCALAR = np.float64(0).__reduce__()[0]
_ALLOWED: list[Any] = [np.dtype, *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64"))]
_ALLOWED += [(_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]

_TEXT_HEAD = 64  # width of a head in RoBERTa

_AUDIO = r"audio_branch\."
_ENCODER = "audio_model.audio_encoder."
_BLOCK = rf"{_AUDIO}(layers\.\d+\.blocks\.\d+)\."
_RULES: list[Rule] = [
    (r"(logit_scale_[at])", r"\1"),
    (r"text_branch\.(.+)", r"text_model.\1"),
    (r"(audio|text)_projection\.0\.(.+)", r"\1_projection.linear1.\2"),
    (r"(audio|text)_projection\.2\.(.+)", r"\1_projection.linear2.\2"),
    (r"(audio|text)_transform\..+", ""),  # of the training loss
    (rf"{_AUDIO}(spectrogram_extractor|logmel_extractor|tscam_conv|head)\..+", ""),
    (rf"{_AUDIO}bn0\.(.+)", rf"{_ENCODER}batch_norm.\1"),
    (rf"{_AUDIO}((patch_embed|norm)\..+)", rf"{_ENCODER}\1"),
    (rf"{_AUDIO}(layers\.\d+\.downsample\..+)", rf"{_ENCODER}\1"),
    (rf"{_BLOCK}attn_mask", ""),  # computed anew
    (rf"{_BLOCK}norm1\.(.+)", rf"{_ENCODER}\1.layernorm_before.\2"),
    (rf"{_BLOCK}norm2\.(.+)", rf"{_ENCODER}\1.layernorm_after.\2"),
    (rf"{_BLOCK}attn\.(relative_position_\w+)", rf"{_ENCODER}\1.attention.self.\2"),
    (rf"{_BLOCK}attn\.((?:query|key|value)\..+)", rf"{_ENCODER}\1.attention.self.\2"),
    (rf"{_BLOCK}attn\.proj\.(.+)", rf"{_ENCODER}\1.attention.output.dense.\2"),
    (rf"{_BLOCK}mlp\.fc1\.(.+)", rf"{_ENCODER}\1.intermediate.dense.\2"),
    (rf"{_BLOCK}mlp\.fc2\.(.+)", rf"{_ENCODER}\1.output.dense.\2"),
]


def read_laion_clap(path: Path) -> tuple[nn.Module, Tensor]:
    """The network as transformers' ClapModel, and its mel filters [bins, mels], from a file of LAION's."""
    state = _state_dict(path)
    filters = state["audio_branch.logmel_extractor.melW"].float()
    return laion_clap_model(state), filters


def laion_clap_model(state: Mapping[str, Tensor]) -> nn.Module:
    """ClapModel with these weights, which have LAION's names."""
    from transformers import ClapModel

    with torch.device("meta"):
        model = ClapModel(_config(state))
    model.to_empty(device="cpu")
    renamed = rename_keys(_without_joint_projections(state), _RULES)
    wanted = model.state_dict()
    # Places of tokens: some files have them, some versions of transformers want them.
    for name, length in (("position_ids", None), ("token_type_ids", 0)):
        key = f"text_model.embeddings.{name}"
        renamed.pop(key, None)
        if key in wanted:
            places = torch.arange(wanted[key].shape[-1])[None]
            renamed[key] = places if length is None else torch.zeros_like(places)
    load_strict(model, renamed)
    return model


def _state_dict(path: Path) -> dict[str, Tensor]:
    content: Any = read_pickle(path, allowed=_ALLOWED)
    state = content.get("state_dict", content)
    state = {key.removeprefix("module."): value for key, value in state.items()}
    if "audio_branch.logmel_extractor.melW" not in state:
        raise ValueError(f"{path} is no file of LAION's CLAP: it lacks audio_branch.logmel_extractor.melW")
    if any("fusion_model" in key or "mel_conv2d" in key for key in state):
        raise ValueError(
            f"{path} is a CLAP with fusion of long clips; use one without, as the published scores do"
        )
    return state


def _without_joint_projections(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same with query, key and value apart, which HTSAT has in one matrix."""
    apart: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if ".attn.qkv." not in key:
            apart[key] = tensor
            continue
        for name, part in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
            apart[key.replace("qkv", name)] = part
    return apart


def _config(state: Mapping[str, Tensor]) -> Any:
    from transformers import ClapConfig

    layers = _count(state, r"audio_branch\.layers\.(\d+)\..+")
    tables = [
        state[f"audio_branch.layers.{layer}.blocks.0.attn.relative_position_bias_table"]
        for layer in range(layers)
    ]
    patches = state["audio_branch.patch_embed.proj.weight"]  # [width, 1, patch, patch]
    width, patch = patches.shape[0], patches.shape[-1]
    num_mels = state["audio_branch.bn0.weight"].shape[0]
    audio = {
        "window_size": (math.isqrt(len(tables[0])) + 1) // 2,
        "num_mel_bins": num_mels,
        "spec_size": 4 * num_mels,
        "patch_size": patch,
        "patch_stride": [patch, patch],
        "patch_embeds_hidden_size": width,
        "hidden_size": width * 2 ** (layers - 1),
        "depths": [_count(state, rf"audio_branch\.layers\.{i}\.blocks\.(\d+)\..+") for i in range(layers)],
        "num_attention_heads": [table.shape[1] for table in tables],
        "num_hidden_layers": layers,
    }
    words = state["text_branch.embeddings.word_embeddings.weight"]
    text = {
        "vocab_size": words.shape[0],
        "hidden_size": words.shape[1],
        "num_hidden_layers": _count(state, r"text_branch\.encoder\.layer\.(\d+)\..+"),
        "num_attention_heads": max(1, words.shape[1] // _TEXT_HEAD),
        "intermediate_size": state["text_branch.encoder.layer.0.intermediate.dense.weight"].shape[0],
        "max_position_embeddings": state["text_branch.embeddings.position_embeddings.weight"].shape[0],
        "layer_norm_eps": 1e-5,  # RoBERTa's; the default of ClapConfig is another
    }
    return ClapConfig(
        text_config=text, audio_config=audio, projection_dim=state["audio_projection.2.weight"].shape[0]
    )


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    numbers = [int(match[1]) for key in state if (match := re.fullmatch(pattern, key))]
    return max(numbers) + 1
