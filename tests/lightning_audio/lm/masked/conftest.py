"""MAGNeT models of the reference vectors, and a tiny one of our own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_audio.checkpoints.audiocraft.lm import convert_state
from lightning_audio.checkpoints.keymap import load_strict
from lightning_audio.conditioning.conditioning import Conditioning
from lightning_audio.conditioning.text import SubwordTextConditioner, T5Conditioner
from lightning_audio.lm.masked import MaskedLM

ReadMagnet = Callable[[Mapping[str, Any], Mapping[str, Tensor]], MaskedLM]


@pytest.fixture(scope="session")
def read_magnet(reference_path: Callable[..., Path]) -> ReadMagnet:
    """The model of an AudioCraft config and its weights."""

    def read(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> MaskedLM:
        shape = config["transformer_lm"]
        text = T5Conditioner(name="t5-small", path=str(reference_path("t5")))
        lm = MaskedLM(
            num_codebooks=shape["n_q"],
            cardinality=shape["card"],
            dim=shape["dim"],
            num_heads=shape["num_heads"],
            num_layers=shape["num_layers"],
            segment_frames=shape["compression_model_framerate"] * shape["segment_duration"],
            span_length=shape["span_len"],
            context=shape["subcodes_context"],
            conditioning=Conditioning(
                conditioners={"description": text},
                dim=shape["dim"],
                fuse={"cross": ["description"]},
                mask_padding=False,
            ),
        )
        load_strict(lm, convert_state(state))
        return lm.eval()

    return read


@pytest.fixture(scope="session")
def span3(reference_path: Callable[..., Path]) -> dict[str, Any]:
    return torch.load(reference_path("magnet", "span3.pt"), weights_only=True)


@pytest.fixture(scope="session")
def magnet(span3: dict[str, Any], read_magnet: ReadMagnet) -> MaskedLM:
    return read_magnet(span3["config"], span3["state_dict"])


@pytest.fixture
def tiny_magnet() -> Callable[..., MaskedLM]:
    """3 codebooks of 16 codes, random weights strong enough that text and codes matter."""

    def make(**options: Any) -> MaskedLM:
        torch.manual_seed(0)
        text = SubwordTextConditioner(dim=8, num_layers=1, num_buckets=64)
        settings: dict[str, Any] = {
            "num_codebooks": 3,
            "cardinality": 16,
            "dim": 16,
            "num_heads": 2,
            "num_layers": 2,
            "segment_frames": 24,
            "context": 2,
            "conditioning": Conditioning(
                conditioners={"description": text}, dim=16, fuse={"cross": ["description"]}
            ),
        }
        lm = MaskedLM(**{**settings, **options})
        with torch.no_grad():
            lm.heads.weight.mul_(6)
            lm.embedding.weight.mul_(4)
        return lm.eval()

    return make
