"""Shared fixtures: where the reference vectors and the real audio lie, when they are beside the project."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")

from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"

torch.set_num_threads(1)


def _folder_or_skip(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"needs shared/{name} beside the project, which is absent")
    return folder


@pytest.fixture(scope="session")
def shared_reference() -> Path:
    """The folder of numbers made with the original implementation."""
    return _folder_or_skip("reference")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real recordings."""
    return _folder_or_skip("data")
