"""Networks and processors of the reference vectors, and a small decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_audio.checkpoints.audiocraft.mbd import RULES
from lightning_audio.checkpoints.keymap import load_strict, rename_keys
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.codec.quantizer import ResidualVectorQuantizer
from lightning_audio.codec.seanet import SEANetDecoder, SEANetEncoder
from lightning_audio.diffusion.band import BandDiffusion
from lightning_audio.diffusion.multiband import Bands, MultiBandDiffusion
from lightning_audio.diffusion.processor import BandProcessor
from lightning_audio.diffusion.schedule import NoiseSchedule
from lightning_audio.layers.unet import LSTMBottleneck, UNet

ReadNetwork = Callable[..., UNet]


@pytest.fixture(scope="session")
def mbd_reference(reference_path: Callable[..., Path]) -> Callable[[str], dict[str, Any]]:
    return lambda name: torch.load(reference_path("mbd", f"{name}.pt"), weights_only=True)


@pytest.fixture(scope="session")
def read_network() -> ReadNetwork:
    """The small network of the vectors, with an LSTM."""

    def read(state: Mapping[str, Tensor], num_steps: int = 1000) -> UNet:
        network = UNet(
            hidden=8, depth=3, growth=2.0, condition_dim=16, num_steps=num_steps, bottleneck=LSTMBottleneck
        )
        load_strict(network, rename_keys(state, RULES))
        return network.eval()

    return read


def tiny_codec(**options: Any) -> EnCodec:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"dim": 16, "num_filters": 2, "ratios": (8, 5, 4, 2), "num_lstm_layers": 0}
    return EnCodec(
        encoder=SEANetEncoder(**shape),
        decoder=SEANetDecoder(**shape),
        quantizer=ResidualVectorQuantizer(dim=16, num_codebooks=4, cardinality=32),
        **{"sample_rate": 16000, **options},
    ).eval()


def tiny_band(band: int = 0, *, processor: bool = False, **options: Any) -> BandDiffusion:
    torch.manual_seed(1 + band)
    made = BandDiffusion(
        network=UNet(hidden=8, depth=2, growth=2.0, condition_dim=16),
        schedule=NoiseSchedule(),
        band=band,
        num_bands=2,
        processor=BandProcessor(sample_rate=16000, num_bands=4, num_samples=4) if processor else None,
        **{"sample_rate": 16000, **options},
    )
    if made.processor is not None:
        made.processor.update(0.1 * torch.randn(4, 1, 3200))
    return made.eval()


@pytest.fixture
def codec() -> EnCodec:
    return tiny_codec()


@pytest.fixture
def make_codec() -> Callable[..., EnCodec]:
    return tiny_codec


@pytest.fixture
def make_band() -> Callable[..., BandDiffusion]:
    return tiny_band


@pytest.fixture
def mbd() -> MultiBandDiffusion:
    """Two bands, of which one has a processor."""
    bands = Bands(bands=[tiny_band(0), tiny_band(1, processor=True)])
    return MultiBandDiffusion(codec=tiny_codec(), bands=bands).eval()
