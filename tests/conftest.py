"""Shared fixtures: where the reference vectors and the real audio lie, when they are beside the project."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"
COPIES = Path(__file__).parent / "reference"

torch.set_num_threads(1)


def _folder_or_skip(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"needs shared/{name} beside the project, which is absent")
    return folder


@pytest.fixture(scope="session")
def reference_path() -> Callable[..., Path]:
    """The path of a file or folder of numbers made with the original implementation, by its parts.

    It is looked for beside the project, where all of them are, and among the small ones that are kept with the tests.
    """

    def path(*parts: str) -> Path:
        places = [folder.joinpath(*parts) for folder in (SHARED / "reference", COPIES)]
        found = next((place for place in places if place.exists()), None)
        if found is None:
            pytest.skip(f"needs shared/reference/{'/'.join(parts)} beside the project, which is absent")
        return found

    return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real recordings."""
    return _folder_or_skip("data")
