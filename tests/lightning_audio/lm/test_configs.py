"""The published sizes, built without memory: their parameters are as many as the recipes compute."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lightning_audio.lm.token_lm import TokenLM

CONFIGS = Path(__file__).resolve().parents[3] / "experiments" / "configs"
# name: (its codec, parameters by arithmetic: RECIPES 2.1, where small is 420 M, medium 1.84 B, large 3.26 B)
SIZES = {
    "musicgen_small": ("encodec_32khz", 420_000_000),
    "musicgen_medium": ("encodec_32khz", 1_840_000_000),
    "musicgen_large": ("encodec_32khz", 3_260_000_000),
    "audiogen_medium": ("encodec_16khz", 1_840_000_000),
    "magnet_small": ("encodec_32khz", 420_000_000),
    "magnet_medium": ("encodec_32khz", 1_840_000_000),
    "audio_magnet_small": ("encodec_16khz", 420_000_000),
    "audio_magnet_medium": ("encodec_16khz", 1_840_000_000),
}


def build(name: str, codec: str) -> TokenLM:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        tree = compose(overrides=[f"+codec={codec}", f"+lm={name}", "+data.segment_duration=30.0"])
    with torch.device("meta"):
        return instantiate(tree.lm, _convert_="all")


def arithmetic(layers: int, dim: int, text_dim: int, *, codebooks: int = 4, cardinality: int = 2048) -> int:
    """Per layer 4 + 4 + 8 squares (attentions, feed-forward) and three norms; tables, heads, projection."""
    layer = (4 + 4 + 8) * dim**2 + 3 * 2 * dim
    tables = codebooks * (2 * cardinality + 1) * dim
    return layers * layer + tables + 2 * dim + (text_dim + 1) * dim


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes(name: str) -> None:
    codec, nominal = SIZES[name]
    began = time.monotonic()
    lm = build(name, codec)
    assert time.monotonic() - began < 20
    count = sum(p.numel() for p in lm.parameters())
    assert count == pytest.approx(nominal, rel=0.01)
    layers, text_dim = len(lm.transformer.layers), 1024 if name.startswith("audio") else 768
    assert count == arithmetic(layers, lm.dim, text_dim)


def test_melody_and_style_have_a_prefix_and_no_cross_attention() -> None:
    melody = build("musicgen_melody", "encodec_32khz")
    count = sum(p.numel() for p in melody.parameters())
    assert count == pytest.approx(1_390_000_000, rel=0.01)
    without_cross = arithmetic(48, 1536, 768) - 48 * (4 * 1536**2 + 2 * 1536)
    assert count == without_cross + (12 + 1) * 1536
    style = build("musicgen_style", "encodec_32khz")
    width = 512  # of the style's transformer: 12 squares and two norms a layer
    own = 8 * (12 * width**2 + 4 * width) + (768 + 1) * width + (width + 1) * 1536
    assert sum(p.numel() for p in style.parameters()) == without_cross + own


def test_the_tiny_one_runs() -> None:
    tree = OmegaConf.create(
        {
            "codec": {"quantizer": {"num_codebooks": 4, "cardinality": 64}},
            "lm": OmegaConf.load(CONFIGS / "lm" / "tiny.yaml"),
        }
    )
    lm = instantiate(tree.lm)
    loss = lm.loss(torch.randint(64, (2, 4, 10)), lm.conditioning([{"description": "a bell"}, {}])).loss
    assert loss.isfinite()
