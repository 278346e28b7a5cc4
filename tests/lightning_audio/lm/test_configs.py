"""The published sizes, built without memory: their parameters are as many as the recipes compute."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
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
}


def build(name: str, codec: str) -> TokenLM:
    tree = {
        "codec": OmegaConf.load(CONFIGS / "codec" / f"{codec}.yaml"),
        "lm": OmegaConf.load(CONFIGS / "lm" / f"{name}.yaml"),
    }
    with torch.device("meta"):
        return instantiate(OmegaConf.create(tree).lm)


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
    layers, text_dim = len(lm.transformer.layers), 1024 if name == "audiogen_medium" else 768
    assert count == arithmetic(layers, lm.dim, text_dim)


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
