"""Tiny models with random weights, in the value that every reader gives and every writer takes."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_audio.checkpoints.stored import WHOLE, Config, StoredModel, build, node_of
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.codec.quantizer import ResidualVectorQuantizer
from lightning_audio.codec.seanet import SEANetDecoder, SEANetEncoder
from lightning_audio.codec.stereo import StereoFromMono
from lightning_audio.conditioning.conditioning import Conditioning
from lightning_audio.conditioning.labels import HashedLabelConditioner
from lightning_audio.generation.text_to_audio import TextToAudio
from lightning_audio.lm.patterns import DelayPattern
from lightning_audio.lm.sampling import SamplingSettings
from lightning_audio.lm.token_lm import TokenLM

MakeModel = Callable[..., StoredModel]


def codec_node(**options: Any) -> Config:
    seanet = {"dim": 8, "num_filters": 2, "ratios": [4, 2], **options.pop("seanet", {})}
    return node_of(
        EnCodec,
        encoder=node_of(SEANetEncoder, **seanet),
        decoder=node_of(SEANetDecoder, **seanet),
        quantizer=node_of(ResidualVectorQuantizer, dim=8, num_codebooks=2, cardinality=16),
        **{"sample_rate": 400, **options},
    )


def lm_node(**options: Any) -> Config:
    conditioning = node_of(
        Conditioning,
        dim=16,
        conditioners={"description": node_of(HashedLabelConditioner, num_bins=20, dim=6, split_words=True)},
        fuse={"cross": ["description"]},
        mask_padding=False,
    )
    shape = {"num_codebooks": 2, "cardinality": 16, "dim": 16, "num_heads": 2, "num_layers": 2}
    shape |= {"pattern": node_of(DelayPattern, delays=[0, 1]), "conditioning": conditioning}
    return node_of(TokenLM, **{**shape, **options})


def stored_of(codec: Config | None = None, lm: Config | None = None) -> StoredModel:
    """The parts with random weights, as one model where both are there."""
    torch.manual_seed(0)
    config = {name: node for name, node in (("codec", codec), ("lm", lm)) if node is not None}
    weights = {name: build(node).state_dict() for name, node in config.items()}
    if len(config) == 2:
        defaults = node_of(SamplingSettings, cfg_coef=2.5)
        config[WHOLE] = node_of(TextToAudio, _partial_=True, max_duration=2.0, defaults=defaults)
    return StoredModel(config, weights)


@pytest.fixture(scope="session")
def tiny_codec() -> MakeModel:
    return lambda **options: stored_of(codec=codec_node(**options))


@pytest.fixture(scope="session")
def tiny_lm() -> MakeModel:
    return lambda **options: stored_of(lm=lm_node(**options))


@pytest.fixture(scope="session")
def tiny_model() -> MakeModel:
    return lambda **options: stored_of(codec=codec_node(), lm=lm_node(**options))


@pytest.fixture(scope="session")
def tiny_stereo() -> MakeModel:
    def make() -> StoredModel:
        lm = lm_node(num_codebooks=4, pattern=node_of(DelayPattern, delays=[0, 0, 1, 1]))
        return stored_of(codec=node_of(StereoFromMono, codec=codec_node()), lm=lm)

    return make


@pytest.fixture
def bomb(tmp_path: Path) -> tuple[Any, Path]:
    """A value whose unpickling would create a file by way of the shell, and that file."""
    trace = tmp_path / "executed"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {trace}",)

    pickle.loads(pickle.dumps(Bomb()))  # armed: an open unpickler sets it off
    assert trace.exists()
    trace.unlink()
    return Bomb(), trace
