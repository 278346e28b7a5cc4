"""Multi-band diffusion in AudioCraft's form: one file of all bands, beside the codec that it decodes for.

    sample_rate, n_bands     0, 1, ...: {cfg: the training's config, model_state, processor_state}

The config of a band is a pickled DictConfig, which is read as data. The codec is not in the file.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from lightning_audio.atomic import whole_file
from lightning_audio.checkpoints.audiocraft.codec import read_codec
from lightning_audio.checkpoints.audiocraft.mbd_config import band_config, band_node, has_transformer
from lightning_audio.checkpoints.audiocraft.package import plain_config, read_file
from lightning_audio.checkpoints.keymap import both_ways, rename_keys
from lightning_audio.checkpoints.stored import WHOLE, StoredModel, arguments_of, class_of, node_of
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.diffusion.bands import BandSplitter
from lightning_audio.diffusion.multiband import Bands, MultiBandDiffusion

CODEC_FILE = "compression_state_dict.bin"
SUFFIXES = (".th", ".pt")
PUBLISHED_CODECS = {
    "mbd_musicgen_32khz.th": "facebook/musicgen-small",
    **{f"mbd_comp_{codebooks}.pt": "facebook/encodec_24khz" for codebooks in (2, 4, 8)},
}
"""Which model's codec the published files of bands decode for; it is not beside them."""

_THEIR_LAYER, _OUR_LAYER = "transformer.layers.#.", "bottleneck.transformer.layers.#."
RULES, REVERSE_RULES = both_ways(
    [
        ("embedding.weight", "step_embedding.weight"),
        ("embeddings.#.weight", "deeper_step_embeddings.#.weight"),
        ("encoders.#.conv.weight", "encoders.#.conv.weight"),
        ("encoders.#.norm.*", "encoders.#.norm.*"),
        ("encoders.#.res_blocks.#.*.*", "encoders.#.blocks.#.*.*"),
        ("decoders.#.res_blocks.#.*.*", "decoders.#.blocks.#.*.*"),
        ("decoders.#.norm.*", "decoders.#.norm.*"),
        ("decoders.#.convtr.weight", "decoders.#.conv.weight"),
        ("conv_codec.*", "condition_proj.*"),
        ("bilstm.lstm.*", "bottleneck.lstm.*"),
        ("bilstm.linear.*", "bottleneck.linear.*"),
        *(
            (_THEIR_LAYER + theirs, _OUR_LAYER + ours)
            for theirs, ours in (
                ("self_attn.mha.in_proj_weight", "self_attention.qkv.weight"),
                ("self_attn.mha.out_proj.weight", "self_attention.output.weight"),
                ("cross_attention.mha.in_proj_weight", "cross_attention.packed"),
                ("cross_attention.mha.out_proj.weight", "cross_attention.output.weight"),
                ("linear1.weight", "feedforward.expand.weight"),
                ("linear2.weight", "feedforward.contract.weight"),
                ("norm1.*", "norm_self.*"),
                ("norm_cross.*", "norm_cross.*"),
                ("norm2.*", "norm_feedforward.*"),
            )
        ),
    ]
)
_FILTERS = "split_bands.lowpass.filters"
_STATISTICS = [(name, f"processor.{name}") for name in ("counts", "sum_x", "sum_x2", "sum_target_x2")]


def is_mbd(path: Path) -> bool:
    """Whether `path` is a file of bands, or a folder with one."""
    return bool(_files_in(path)) if path.is_dir() else _holds_bands(path)


def bands_file(path: Path) -> Path:
    """`path` itself, or the file of bands in that folder; of several, the one that ends in .th, as is published."""
    if not path.is_dir():
        return path
    files = _files_in(path)
    chosen = [file for file in files if file.suffix == ".th"] or files
    if len(chosen) != 1:
        names = ", ".join(file.name for file in chosen) or "none"
        raise ValueError(f"want one file of bands in {path}, it has {names}: name the file")
    return chosen[0]


def read_mbd(path: Path, *, codec: StoredModel | None = None) -> StoredModel:
    """The model of a file of bands, or of a folder that holds one.

    codec: what the bands decode for, or a model with it; by default the `compression_state_dict.bin` beside them.
    """
    file = bands_file(path)
    package: dict[Any, Any] = read_file(file)
    if missing := {"sample_rate", "n_bands"} - package.keys():
        raise ValueError(f"{file} is no multi-band diffusion: it lacks {sorted(missing)}")
    numbers = range(package["n_bands"])
    if odd := sorted(map(str, package.keys() ^ {"sample_rate", "n_bands", *numbers})):
        raise ValueError(f"{file} says it has {len(numbers)} bands: missing or unknown are {odd}")
    configs = [plain_config(package[number]["cfg"]) for number in numbers]
    nodes = [band_node(config, package["sample_rate"]) for config in configs]
    weights = {
        f"bands.{number}.{name}": value
        for number in numbers
        for name, value in _band_weights(package[number], has_transformer(nodes[number])).items()
    }
    codebooks = {config.get("n_q") for config in configs}
    if len(codebooks) != 1:
        raise ValueError(
            f"{file} has bands for different numbers of codebooks: {sorted(map(str, codebooks))}"
        )
    codec = codec or _codec_beside(file)
    if class_of(codec.config["codec"]) is not EnCodec:
        raise ValueError(f"the bands decode for an EnCodec, the codec is {codec.config['codec']['_target_']}")
    config = {
        "codec": codec.config["codec"],
        "bands": node_of(Bands, bands=nodes),
        WHOLE: node_of(MultiBandDiffusion, _partial_=True, num_codebooks=codebooks.pop()),
    }
    return StoredModel(config, {"codec": codec.weights["codec"], "bands": weights})


def write_mbd(stored: StoredModel, file: Path) -> None:
    """A file of bands that AudioCraft's loader opens. The codec goes into a file of its own, or is known there."""
    if "bands" not in stored.config:
        raise ValueError(
            f"a file of bands is of a multi-band diffusion; this model has {sorted(stored.config)}"
        )
    codec, nodes = arguments_of(stored.config["codec"]), stored.config["bands"]["bands"]
    num_codebooks = stored.config[WHOLE].get("num_codebooks") or codec["num_codebooks"]
    if num_codebooks is None:
        num_codebooks = arguments_of(codec["quantizer"])["num_codebooks"]
    package: dict[Any, Any] = {"sample_rate": arguments_of(nodes[0])["sample_rate"], "n_bands": len(nodes)}
    for number, node in enumerate(nodes):
        weights = _part(stored.weights["bands"], f"bands.{number}.")
        package[number] = {
            "cfg": OmegaConf.create(band_config(node, num_codebooks)),
            "model_state": _reverted(_part(weights, "network.")),
            "processor_state": {**_part(weights, "processor."), **_filters(node)},
        }
    with whole_file(file) as temporary:
        torch.save(package, temporary)


def _band_weights(entry: Mapping[str, Any], has_transformer: bool) -> dict[str, Tensor]:
    """Of one band, under our names, in float32."""
    unused = [(r"bilstm\..*", "")] if has_transformer else []
    rules = [rule for rule in RULES if not (unused and rule[0].startswith("bilstm"))] + unused
    weights: dict[str, Tensor] = {}
    for name, value in rename_keys(entry["model_state"], rules).items():
        if name.endswith(".cross_attention.packed"):
            dim, base = value.shape[0] // 3, f"network.{name.removesuffix('packed')}"
            weights[f"{base}query.weight"] = value[:dim].float()
            weights[f"{base}key_value.weight"] = value[dim:].float()
        else:
            weights[f"network.{name}"] = value.float()
    statistics = rename_keys(
        entry["processor_state"], [*_STATISTICS, (_FILTERS, "")]
    )  # filters: computed here
    return {**weights, **{name: value.float() for name, value in statistics.items()}}


def _reverted(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights of a network under AudioCraft's names."""
    packed = dict(weights)
    for name in weights:
        if name.endswith(".cross_attention.query.weight"):
            base = name.removesuffix("query.weight")
            parts = [packed.pop(name), packed.pop(f"{base}key_value.weight")]
            packed[f"{base}packed"] = torch.cat(parts)
    return rename_keys(packed, REVERSE_RULES)


def _filters(node: Mapping[str, Any]) -> dict[str, Tensor]:
    """The filters that AudioCraft keeps among a processor's statistics."""
    processor = arguments_of(node)["processor"]
    if processor is None:
        return {}
    options = arguments_of(processor)
    kernels = BandSplitter(sample_rate=options["sample_rate"], num_bands=options["num_bands"]).kernels
    return {} if kernels is None else {_FILTERS: kernels}


def _part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin with `prefix`, without it, on the CPU."""
    return {
        name.removeprefix(prefix): value.detach().cpu()
        for name, value in weights.items()
        if name.startswith(prefix)
    }


def _codec_beside(file: Path) -> StoredModel:
    beside = file.parent / CODEC_FILE
    if not beside.is_file():
        raise FileNotFoundError(
            f"{file} holds bands, but no codec: put its {CODEC_FILE} beside it, or give the codec"
        )
    return read_codec(beside)


def _files_in(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if _holds_bands(path)]


def _holds_bands(file: Path) -> bool:
    """Looks at the names in the file only: the weights may be gigabytes."""
    if file.suffix not in SUFFIXES or not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
        content = archive.read(pickles[0]) if pickles else b""
    return all(name in content for name in (b"n_bands", b"model_state", b"processor_state"))
