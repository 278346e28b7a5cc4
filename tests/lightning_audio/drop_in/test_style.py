"""MusicGen-Style through AudioCraft's class, from a package to tokens."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_audio import MusicGen


@pytest.fixture(scope="module")
def case(reference_path: Callable[..., Path]) -> dict[str, Any]:
    return torch.load(reference_path("lm", "style.pt"), weights_only=True)


@pytest.fixture(scope="module")
def style(
    case: dict[str, Any], reference_path: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> MusicGen:
    """The model of the vectors as a package, which takes its codec, features included, from musicgen_tiny."""
    folder = tmp_path_factory.mktemp("style")
    package = reference_path("pkg", "musicgen_tiny")
    config = yaml.safe_load(torch.load(package / "state_dict.bin", weights_only=True)["xp.cfg"])
    own = dict(case["config"])
    layers = own.pop("style_transformer_layers")
    assert layers == 1
    content = {"best_state": case["state_dict"], "xp.cfg": yaml.safe_dump({**config, **own})}
    torch.save({**content, "version": "1.4.0a2", "exported": True}, folder / "state_dict.bin")
    codec = (package / "compression_state_dict.bin").read_bytes()
    (folder / "compression_state_dict.bin").write_bytes(codec)
    return MusicGen.get_pretrained(str(folder), device="cpu", text_encoder=reference_path("t5"))


def made(model: MusicGen, case: dict[str, Any], **params: Any) -> torch.Tensor:
    model.set_generation_params(use_sampling=False, duration=0.24, cfg_coef=3.0, **params)
    given = case["inputs"]
    wav, tokens = model.generate_with_chroma(given["texts"], given["wavs"], 32000, return_tokens=True)
    assert wav.shape == (2, 1, 12 * 640)
    return tokens


@pytest.mark.parametrize(
    ("name", "params"), [("greedy_cfg3", {}), ("greedy_double_cfg", {"cfg_coef_beta": 5.0})]
)
def test_equal_to_audiocraft(
    style: MusicGen, case: dict[str, Any], name: str, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vectors were made of the middle of each waveform."""
    monkeypatch.setattr(style.lm.conditioning.conditioners["style"], "middle", True)
    assert torch.equal(made(style, case, **params), case["outputs"][name])


def test_the_excerpt_is_drawn_from_pythons_random_numbers(style: MusicGen, case: dict[str, Any]) -> None:
    random.seed(5)
    first = made(style, case)
    assert not torch.equal(first, made(style, case))
    random.seed(5)
    assert torch.equal(first, made(style, case))


def test_how_much_of_the_style_counts(style: MusicGen, case: dict[str, Any]) -> None:
    usual = style.lm.conditioning.conditioners["style"]
    before = (usual.levels, usual.excerpt, usual.downsampling)
    random.seed(5)
    three = made(style, case)
    try:
        style.set_style_conditioner_params(eval_q=1, excerpt_length=0.5, ds_factor=5)
        assert (usual.levels, usual.excerpt, usual.downsampling) == (1, 0.5, 5)
        random.seed(5)
        assert not torch.equal(three, made(style, case))
    finally:
        style.set_style_conditioner_params(eval_q=before[0], excerpt_length=before[1], ds_factor=before[2])
