"""Every experiment composes, its nodes fit their constructors, and its models build on `meta` at the stated size."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from hydra.utils import get_object, instantiate

from experiments.compose import CONFIGS, compose_config, experiment_names, resolve

# Trainable parameters in millions, computed from the published sizes (with cross-attention).
PARAMETERS = {
    "musicgen_small": 420,
    "musicgen_medium": 1840,
    "musicgen_large": 3260,
    "audiogen_medium": 1840,
    "musicgen_melody": 1390,
    "musicgen_style": 1420,
    "musicgen_clap": 420,
    "magnet_small_10secs": 420,
    "magnet_small_30secs": 420,
    "magnet_medium_10secs": 1840,
    "magnet_medium_30secs": 1840,
    "audio_magnet_small": 420,
    "audio_magnet_medium": 1840,
}


def resolved(name: str) -> dict[str, Any]:
    # Language models also want to be told of the runs they build on; `++` is right for every experiment.
    given = [f"experiment={name}", "data.path=/data", "++codec_source=/codec", "++mono_source=/mono"]
    return resolve(compose_config("train", given))


def nodes(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield value
        for child in value.values():
            yield from nodes(child)
    elif isinstance(value, list):
        for child in value:
            yield from nodes(child)


@pytest.mark.parametrize("name", experiment_names())
def test_every_node_fits_its_constructor(name: str) -> None:
    for node in nodes(resolved(name)):
        target = get_object(node["_target_"])
        keywords = {key: value for key, value in node.items() if not key.startswith("_")}
        signature = inspect.signature(target)
        if node.get("_partial_"):
            signature.bind_partial(**keywords)
        else:
            signature.bind(**keywords)


@pytest.mark.parametrize("name", experiment_names())
def test_every_model_builds_on_meta(name: str) -> None:
    with torch.device("meta"):
        model = instantiate(resolved(name)["task"]["model"], _convert_="all")
    count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert count == pytest.approx(PARAMETERS.get(name, count), rel=0.01)
    assert count > 0.1


@pytest.mark.parametrize("name", experiment_names())
def test_the_header_says_source_hardware_expectation_and_command(name: str) -> None:
    text = (CONFIGS / "experiment" / f"{name}.yaml").read_text()
    assert all(f"# {word}:" in text for word in ("Source", "Hardware", "Expected", "Command"))
