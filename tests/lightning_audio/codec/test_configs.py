"""The codec configs build, and have the sizes of the published models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from transformers import EncodecConfig, EncodecModel

from lightning_audio.codec.encodec import EnCodec

CONFIGS = Path(__file__).resolve().parents[3] / "experiments" / "configs" / "codec"


def build(name: str) -> EnCodec:
    """The model as an experiment builds it: the group lies at `codec` and the task refers to it."""
    tree = OmegaConf.create(
        {"codec": OmegaConf.load(CONFIGS / f"{name}.yaml"), "task": {"model": "${codec}"}}
    )
    resolved = OmegaConf.to_container(tree, resolve=True)
    with torch.device("meta"):
        return instantiate(resolved["task"]["model"], _convert_="all")  # type: ignore[index,call-overload]


@pytest.mark.parametrize(
    ("name", "rate", "frame_rate", "num_codebooks", "cardinality", "bandwidth"),
    [
        ("encodec_32khz", 32000, 50, 4, 2048, 2.2),
        ("encodec_16khz", 16000, 50, 4, 2048, 2.2),
        ("encodec_24khz_causal", 24000, 75, 32, 1024, 24.0),
        ("encodec_24khz", 24000, 75, 32, 1024, 24.0),
        ("encodec_48khz", 48000, 150, 16, 1024, 24.0),
        ("tiny", 16000, 50, 4, 256, 1.6),
    ],
)
def test_rates(
    name: str, rate: int, frame_rate: int, num_codebooks: int, cardinality: int, bandwidth: float
) -> None:
    codec = build(name)
    assert (codec.sample_rate, codec.frame_rate) == (rate, frame_rate)
    assert (codec.num_codebooks, codec.cardinality) == (num_codebooks, cardinality)
    assert codec.bandwidth(num_codebooks) == pytest.approx(bandwidth)


def conv(inputs: int, outputs: int, kernel: int) -> int:
    """Parameters of a weight-normed convolution: its directions, one length per output, a bias."""
    return inputs * outputs * kernel + 2 * outputs


def seanet_parameters(width: int, ratios: tuple[int, ...], dim: int = 128) -> int:
    """Encoder and decoder with identity shortcuts and a two-layer LSTM each, by arithmetic."""
    top = width * 2 ** len(ratios)
    total = conv(1, width, 7) + conv(top, dim, 7) + conv(dim, top, 7) + conv(width, 1, 7)
    total += 2 * 2 * (2 * 4 * top * top + 2 * 4 * top)  # LSTMs
    for ratio in reversed(ratios):
        total += 2 * (conv(width, width // 2, 3) + conv(width // 2, width, 1))  # residual blocks of both
        total += conv(width, 2 * width, 2 * ratio)
        # A transposed convolution's weight is stored by input: one length per input channel.
        total += 2 * width * width * 2 * ratio + 2 * width + width
        width *= 2
    return total


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_sizes_by_arithmetic() -> None:
    assert parameters(build("encodec_32khz")) == seanet_parameters(64, (8, 5, 4, 4)) == 56_884_674
    assert parameters(build("encodec_16khz")) == seanet_parameters(64, (8, 5, 4, 2)) == 56_819_138
    assert parameters(build("encodec_24khz_causal")) == seanet_parameters(32, (8, 5, 4, 2)) == 14_675_810


def test_sizes_of_the_published_models() -> None:
    with torch.device("meta"):
        mono = EncodecModel(EncodecConfig())
        stereo = EncodecModel(
            EncodecConfig(audio_channels=2, use_causal_conv=False, norm_type="time_group_norm")
        )
    assert parameters(build("encodec_24khz")) == parameters(mono)
    assert parameters(build("encodec_48khz")) == parameters(stereo)
