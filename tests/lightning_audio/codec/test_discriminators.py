"""Discriminators against the reference vectors."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lightning_audio.codec.discriminators import (
    MultiPeriodDiscriminator,
    MultiScaleDiscriminator,
    MultiScaleSTFTDiscriminator,
)


def our_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The original names, less the windows; the old spelling of spectral norm is torch's new one here."""
    renamed = {}
    for key, value in state.items():
        if key.endswith("window"):
            continue
        key = re.sub(r"convs\.0\.1\.conv", "convs.0.conv", key).replace(".conv.", ".")
        if key.rsplit(".", 1)[0] + ".weight_orig" in {
            k.replace("convs.0.1.conv", "convs.0.conv").replace(".conv.", ".") for k in state
        }:
            key = key.replace("weight_orig", "parametrizations.weight.original")
            key = re.sub(r"weight_([uv])$", r"parametrizations.weight.0._\1", key)
        renamed[key] = value
    return renamed


CASES: list[tuple[str, nn.Module]] = [
    (
        "msstftd",
        MultiScaleSTFTDiscriminator(
            filters=4, n_ffts=(128, 256, 64), hop_lengths=(32, 64, 16), win_lengths=(128, 256, 64)
        ),
    ),
    ("mpd", MultiPeriodDiscriminator(filters=1, filters_scale=2, max_filters=8, periods=(2, 3, 5))),
    (
        "msd",
        MultiScaleDiscriminator(
            filters=4, max_filters=16, groups=(2, 2, 2, 2), negative_slope=0.2, downsample=False
        ),
    ),
]


@pytest.mark.parametrize(("name", "discriminator"), CASES, ids=[name for name, _ in CASES])
def test_equals_the_reference(
    reference_path: Callable[..., Path], name: str, discriminator: nn.Module
) -> None:
    case = torch.load(reference_path("discriminator", f"{name}.pt"), weights_only=True)
    discriminator.load_state_dict(our_names(case["state_dict"]))
    verdicts = discriminator.eval()(case["inputs"]["x"])
    wanted = case["outputs"]
    for verdict, logits, shapes in zip(verdicts, wanted["logits"], wanted["fmap_shapes"], strict=True):
        assert (verdict.logits - logits).abs().max() <= 1e-5 * logits.abs().max()
        assert [list(feature.shape) for feature in verdict.features] == shapes
    for feature, value in zip(verdicts[0].features, wanted["fmaps_first"], strict=True):
        assert (feature - value).abs().max() <= 1e-5 * value.abs().max()


def test_scales_see_slower_and_slower_signals() -> None:
    verdicts = MultiScaleDiscriminator(filters=4, max_filters=16)(torch.randn(1, 1, 1024))
    assert [verdict.features[0].shape[-1] for verdict in verdicts] == [1024, 513, 257]


def test_channels_can_be_judged_separately() -> None:
    sizes = {"n_ffts": (64,), "hop_lengths": (16,), "win_lengths": (64,), "filters": 2}
    stereo = torch.randn(3, 2, 400)
    (joint,) = MultiScaleSTFTDiscriminator(**sizes, channels=2)(stereo)
    (separate,) = MultiScaleSTFTDiscriminator(**sizes, channels=2, separate_channels=True)(stereo)
    assert joint.logits.shape[0] == 3
    assert separate.logits.shape[0] == 6


def test_too_little_audio_is_named() -> None:
    with pytest.raises(ValueError, match="windows of 1024 samples got 1000"):
        MultiScaleSTFTDiscriminator(filters=2)(torch.randn(1, 1, 1000))
