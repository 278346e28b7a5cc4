"""Models of the reference vectors, read as checkpoints are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_audio.checkpoints.audiocraft.conditioners import read_conditioning
from lightning_audio.checkpoints.audiocraft.lm import convert_state, lm_node
from lightning_audio.checkpoints.keymap import load_strict
from lightning_audio.checkpoints.stored import build
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.codec.quantizer import ResidualVectorQuantizer
from lightning_audio.codec.seanet import SEANetDecoder, SEANetEncoder
from lightning_audio.lm.token_lm import TokenLM


def read_tiny_codec(state: Mapping[str, Tensor]) -> EnCodec:
    """The 32 kHz codec of the vectors. Its layers come in our order; its codebooks are one tensor here."""
    shape: dict[str, Any] = {"dim": 16, "num_filters": 2, "ratios": (8, 5, 4, 4)}
    codec = EnCodec(
        encoder=SEANetEncoder(**shape),
        decoder=SEANetDecoder(**shape),
        quantizer=ResidualVectorQuantizer(dim=16, num_codebooks=4, cardinality=64),
        sample_rate=32000,
    )
    layers = [value for key, value in state.items() if not key.startswith("quantizer.")]
    names = [name for name in codec.state_dict() if not name.startswith("quantizer.")]
    converted = dict(zip(names, layers, strict=True))
    books = {"embed": "embed", "embed_sum": "embed_avg", "count": "cluster_size", "inited": "inited"}
    for ours, theirs in books.items():
        values = [state[f"quantizer.vq.layers.{k}._codebook.{theirs}"] for k in range(4)]
        wanted = codec.state_dict()[f"quantizer.codebooks.{ours}"]
        converted[f"quantizer.codebooks.{ours}"] = torch.stack(values).view(wanted.shape).to(wanted.dtype)
    load_strict(codec, converted)
    return codec.eval()


@pytest.fixture(scope="session")
def text_case(reference_path: Callable[..., Path]) -> dict[str, Any]:
    return torch.load(reference_path("lm", "text.pt"), weights_only=True)


@pytest.fixture(scope="session")
def read_text_lm(reference_path: Callable[..., Path], text_case: dict[str, Any]) -> Callable[..., TokenLM]:
    """The tiny text model, with the config and weights of a case where these are its own."""

    def read(case: dict[str, Any] | None = None) -> TokenLM:
        case = case or text_case
        conditioning = read_conditioning(case["config"], text_encoder=reference_path("t5"))
        lm: TokenLM = build(lm_node(case["config"], conditioning))
        load_strict(lm, convert_state(case["state_dict"] or text_case["state_dict"]))
        return lm.eval()

    return read


@pytest.fixture(scope="session")
def text_lm(read_text_lm: Callable[..., TokenLM]) -> TokenLM:
    return read_text_lm()


@pytest.fixture(scope="session")
def read_codec() -> Callable[[Mapping[str, Tensor]], EnCodec]:
    return read_tiny_codec
