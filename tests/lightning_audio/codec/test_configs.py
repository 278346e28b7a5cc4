"""The codec configs build, and have the sizes of the published models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.nn.utils.parametrize import is_parametrized
from transformers import EncodecConfig, EncodecModel

from experiments.compose import compose_config
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.codec.seanet import ResidualBlock
from lightning_audio.codec.stereo import StereoFromMono
from lightning_audio.layers.conv import Conv1d, ConvTranspose1d

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


# RECIPES 1.1: causal, ratios, filters, norm, padding, whether the shortcut is x itself, numbers of codebooks trained.
PUBLISHED = {
    "encodec_24khz": (True, [8, 5, 4, 2], 32, "weight", "reflect", False, [2, 4, 8, 16, 32]),
    "encodec_48khz": (False, [8, 5, 4, 2], 32, "time_group", "reflect", False, [2, 4, 8, 16]),
    "encodec_24khz_causal": (True, [8, 5, 4, 2], 32, "weight", "constant", True, list(range(1, 33))),
    "encodec_32khz": (False, [8, 5, 4, 4], 64, "weight", "constant", True, [4]),
    "encodec_16khz": (False, [8, 5, 4, 2], 64, "weight", "constant", True, [4]),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_the_recipes_say_of_each_model(name: str) -> None:
    causal, ratios, filters, norm, padding, true_skip, numbers = PUBLISHED[name]
    codec = build(name)
    assert codec.encoder.causal == codec.decoder.causal == causal
    assert codec.encoder.dim == 128
    convs = [layer for layer in codec.modules() if isinstance(layer, Conv1d)]
    assert {layer.pad_mode for layer in convs} == {padding}
    up = [layer for layer in codec.decoder.layers if isinstance(layer, ConvTranspose1d)]
    assert [layer.conv.stride[0] for layer in up] == ratios
    assert [layer.conv.kernel_size[0] for layer in up] == [2 * ratio for ratio in ratios]
    assert all(layer.trim_left == 0 for layer in up) or not causal
    # Channels double from the first layer on; kernels of 7 at both ends.
    first, last = codec.encoder.layers[0], codec.encoder.layers[-1]
    assert isinstance(first, Conv1d)
    assert isinstance(last, Conv1d)
    assert (first.conv.out_channels, last.conv.in_channels) == (filters, 16 * filters)
    assert first.conv.kernel_size == last.conv.kernel_size == (7,)
    for layer in (*convs, *up):
        assert isinstance(layer.norm, torch.nn.GroupNorm) == (norm == "time_group")
        assert is_parametrized(layer.conv, "weight") == (norm == "weight")
    blocks = [layer for layer in codec.modules() if isinstance(layer, ResidualBlock)]
    assert len(blocks) == 8
    for block in blocks:
        narrow, wide = (layer for layer in block.block if isinstance(layer, Conv1d))
        assert (narrow.conv.kernel_size[0], narrow.dilation, wide.conv.kernel_size[0]) == (3, 1, 1)
        assert narrow.conv.out_channels == narrow.conv.in_channels // 2
        assert isinstance(block.shortcut, torch.nn.Identity) == true_skip
    lstms = [layer for layer in codec.modules() if isinstance(layer, torch.nn.LSTM)]
    assert [lstm.num_layers for lstm in lstms] == [2, 2]
    quantizer = codec.quantizer
    trained = quantizer.dropout_numbers or list(range(1, quantizer.max_codebooks + 1))
    assert (trained if quantizer.dropout else [quantizer.max_codebooks]) == numbers
    assert (quantizer.learning.decay, quantizer.learning.kmeans_iterations) == (0.99, 50)
    chunked = (codec.normalize, codec.chunk_length, codec.chunk_stride)
    assert chunked == ((True, 48000, 47520) if name == "encodec_48khz" else (False, None, None))


def test_stereo_from_the_32_khz_codec() -> None:
    codec = compose_config("train", ["experiment=musicgen_stereo_small", "data.path=/data"])["codec"]
    with torch.device("meta"):
        stereo = instantiate(codec, _convert_="all")
    assert isinstance(stereo, StereoFromMono)
    assert (stereo.sample_rate, stereo.num_codebooks, stereo.cardinality) == (32000, 8, 2048)
    assert stereo.bandwidth(8) == pytest.approx(4.4)
