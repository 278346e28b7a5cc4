"""The codec of a whole model, by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lightning_audio.checkpoints.audiocraft.codec import read_codec
from lightning_audio.checkpoints.codecs import load_codec
from lightning_audio.checkpoints.native import write_native
from lightning_audio.checkpoints.stored import StoredModel, node_of
from lightning_audio.diffusion.processor import BandProcessor


def test_a_language_models_codec_is_loaded_alone(reference_path: Callable[..., Path]) -> None:
    folder = reference_path("pkg", "musicgen_tiny")
    codec, wanted = load_codec(folder), read_codec(folder / "compression_state_dict.bin").assemble()
    assert codec.state_dict().keys() == wanted.state_dict().keys()
    assert all(torch.equal(value, wanted.state_dict()[name]) for name, value in codec.state_dict().items())
    assert not codec.training


def test_what_holds_no_codec_is_named(tmp_path: Path) -> None:
    node = node_of(BandProcessor, sample_rate=16000, num_bands=2)
    weights = BandProcessor(sample_rate=16000, num_bands=2).state_dict()
    write_native(StoredModel({"processor": node}, {"processor": weights}), tmp_path / "other")
    with pytest.raises(ValueError, match=r"other holds no codec; it holds \['processor'\]"):
        load_codec(tmp_path / "other")
