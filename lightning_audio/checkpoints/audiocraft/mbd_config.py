"""The config of one band of multi-band diffusion: AudioCraft's as ours, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_audio.checkpoints.audiocraft.package import section
from lightning_audio.checkpoints.stored import Config, arguments_of, class_of, node_of
from lightning_audio.diffusion.band import BandDiffusion
from lightning_audio.diffusion.processor import BandProcessor
from lightning_audio.diffusion.schedule import NoiseSchedule
from lightning_audio.layers.unet import LSTMBottleneck, TransformerBottleneck, UNet

# AudioCraft's option -> ours, and what its constructor has where a config does not name it.
_UNET: dict[str, tuple[str, Any]] = {
    "hidden": ("hidden", 24),
    "depth": ("depth", 3),
    "growth": ("growth", 2.0),
    "max_channels": ("max_channels", 10_000),
    "emb_all_layers": ("embed_at_all_levels", False),
    "codec_dim": ("condition_dim", None),
    "kernel": ("kernel_size", 4),
    "stride": ("stride", 2),
    "norm_groups": ("norm_groups", 4),
    "res_blocks": ("res_blocks", 1),
    "dropout": ("dropout", 0.0),
}
_SCHEDULE: dict[str, tuple[str, Any]] = {
    "beta_t0": ("beta_start", 1e-4),
    "beta_t1": ("beta_end", 0.02),
    "beta_exp": ("power", 1.0),
    "num_steps": ("num_steps", 1000),
    "variance": ("variance", "beta"),
    "clip": ("clip", 5.0),
    "rescale": ("rescale", 1.0),
    "noise_scale": ("noise_scale", 1.0),
}
_PROCESSOR: dict[str, tuple[str, Any]] = {
    "n_bands": ("num_bands", 8),
    "num_samples": ("num_samples", 10_000),
    "power_std": ("power", 1.0),
}
_PROCESSOR_NAME = "multi_band_processor"


def band_node(config: Mapping[str, Any], sample_rate: int) -> Config:
    """The node of the band that a config describes; `sample_rate` (Hz) is that of the file."""
    if (config.get("resampling") or {}).get("use"):
        raise ValueError("a band that was trained on resampled audio (resampling.use) is not known")
    schedule, filters = section(config, "schedule"), config.get("filter") or {}
    repartition, schedule_bands = schedule.get("repartition", "power"), schedule.get("n_bands")
    if repartition != "power" or schedule_bands is not None:
        raise ValueError(
            f"only the power schedule without bands of its own is known, the config has repartition "
            f"{repartition!r} and n_bands {schedule_bands}"
        )
    return node_of(
        BandDiffusion,
        network=_network_node(section(config, "diffusion_unet"), config["channels"], schedule),
        # Beside its own, the section holds the options of the learning rate's schedule.
        schedule=node_of(NoiseSchedule, **_ours(schedule, _SCHEDULE)),
        sample_rate=sample_rate,
        processor=_processor_node(config.get("processor") or {}, sample_rate),
        **(_place(filters) if filters.get("use") else {"band": 0, "num_bands": 1}),
    )


def band_config(node: Mapping[str, Any], num_codebooks: int) -> dict[str, Any]:
    """The config of a band as AudioCraft's loader wants it."""
    band = arguments_of(node)
    network, schedule = arguments_of(band["network"]), arguments_of(band["schedule"])
    return {
        "solver": "diffusion",
        "sample_rate": band["sample_rate"],
        "channels": network["channels"],
        "n_q": num_codebooks,
        "diffusion_unet": {**_theirs(network, _UNET), **_bottleneck_config(network["bottleneck"])},
        "schedule": {
            "repartition": "power",
            "variable_step_batch": True,
            "n_bands": None,
            **_theirs(schedule, _SCHEDULE),
        },
        "processor": _processor_config(band["processor"]),
        "filter": {
            "use": band["num_bands"] > 1,
            "n_bands": band["num_bands"],
            "idx_band": band["band"],
            "cutoffs": band["edges"],
        },
        "resampling": {"use": False, "target_sr": band["sample_rate"]},
        "loss": {"kind": "mse", "norm_power": 0.0},
    }


def has_transformer(node: Mapping[str, Any]) -> bool:
    """Whether a transformer is the bottleneck of a band's network."""
    bottleneck = arguments_of(arguments_of(node)["network"])["bottleneck"]
    return bottleneck is not None and class_of(bottleneck) is TransformerBottleneck


def _place(filters: Mapping[str, Any]) -> dict[str, Any]:
    edges = filters.get("cutoffs")
    num_bands = filters["n_bands"] if edges is None else len(edges) + 1
    return {"band": filters["idx_band"], "num_bands": num_bands, "edges": edges}


def _network_node(options: Mapping[str, Any], channels: int, schedule: Mapping[str, Any]) -> Config:
    kinds = ("bilstm", "transformer", "cross_attention")
    if unknown := sorted(options.keys() - _UNET.keys() - set(kinds)):
        raise ValueError(f"the network's config has options that are not understood: {unknown}")
    lstm, transformer, attends = (bool(options.get(name)) for name in kinds)
    bottleneck = None
    if transformer:  # it wins over an LSTM, which is then there but unused
        bottleneck = node_of(TransformerBottleneck, _partial_=True, cross_attention=attends)
    elif lstm:
        bottleneck = node_of(LSTMBottleneck, _partial_=True)
    return node_of(
        UNet,
        channels=channels,
        num_steps=_ours(schedule, _SCHEDULE)["num_steps"],
        **_ours(options, _UNET),
        bottleneck=bottleneck,
    )


def _bottleneck_config(node: Mapping[str, Any] | None) -> dict[str, bool]:
    """ValueError for a bottleneck of other sizes than AudioCraft's, which no config can change."""
    config = dict.fromkeys(("bilstm", "transformer", "cross_attention"), False)
    if node is None:
        return config
    options, published = arguments_of(node), arguments_of({"_target_": node["_target_"]})
    attends = options.pop("cross_attention", False)
    if odd := {name: value for name, value in options.items() if value != published[name]}:
        raise ValueError(f"AudioCraft has no bottleneck with {odd}")
    is_transformer = class_of(node) is TransformerBottleneck
    return {"bilstm": not is_transformer, "transformer": is_transformer, "cross_attention": attends}


def _processor_node(options: Mapping[str, Any], sample_rate: int) -> Config | None:
    if not options.get("use"):
        return None
    if options.get("name") != _PROCESSOR_NAME:
        raise ValueError(f"the processor {options.get('name')!r} is not known, only {_PROCESSOR_NAME!r}")
    return node_of(BandProcessor, sample_rate=sample_rate, **_ours(options, _PROCESSOR))


def _processor_config(node: Mapping[str, Any] | None) -> dict[str, Any]:
    values = {} if node is None else _theirs(arguments_of(node), _PROCESSOR)
    return {"use": node is not None, "name": _PROCESSOR_NAME, **values}


def _ours(options: Mapping[str, Any], names: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    return {ours: options.get(theirs, default) for theirs, (ours, default) in names.items()}


def _theirs(options: Mapping[str, Any], names: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    return {theirs: options[ours] for theirs, (ours, _) in names.items()}
