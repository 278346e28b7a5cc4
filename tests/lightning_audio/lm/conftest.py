"""Models of the reference vectors, read as checkpoints are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_audio.checkpoints.audiocraft.lm import build_lm, convert_state
from lightning_audio.checkpoints.keymap import load_strict
from lightning_audio.lm.token_lm import TokenLM


@pytest.fixture(scope="session")
def text_case(shared_reference: Path) -> dict[str, Any]:
    return torch.load(shared_reference / "lm" / "text.pt", weights_only=True)


@pytest.fixture(scope="session")
def read_text_lm(shared_reference: Path, text_case: dict[str, Any]) -> Callable[..., TokenLM]:
    """The tiny text model, with the config and weights of a case where these are its own."""

    def read(case: dict[str, Any] | None = None) -> TokenLM:
        case = case or text_case
        lm = build_lm(case["config"], text_encoder=shared_reference / "t5")
        load_strict(lm, convert_state(case["state_dict"] or text_case["state_dict"]))
        return lm.eval()

    return read


@pytest.fixture(scope="session")
def text_lm(read_text_lm: Callable[..., TokenLM]) -> TokenLM:
    return read_text_lm()
