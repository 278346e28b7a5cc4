"""Tiny models of 50 frames a second that write, hear and draw like the large ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from lightning_audio.codec.encodec import EnCodec
from lightning_audio.codec.quantizer import ResidualVectorQuantizer
from lightning_audio.codec.seanet import SEANetDecoder, SEANetEncoder
from lightning_audio.codec.stereo import StereoFromMono
from lightning_audio.conditioning.chroma import ChromaConditioner
from lightning_audio.conditioning.conditioning import Conditioning
from lightning_audio.conditioning.features import CodecFeatures
from lightning_audio.conditioning.labels import LabelConditioner
from lightning_audio.conditioning.style import StyleConditioner
from lightning_audio.conditioning.text import SubwordTextConditioner
from lightning_audio.generation.text_to_audio import SamplingSettings, TextToAudio
from lightning_audio.lm.patterns import DelayPattern, Pattern
from lightning_audio.lm.token_lm import TokenLM

BuildCodec = Callable[..., EnCodec]
BuildLM = Callable[..., TokenLM]
SAMPLE_RATE = 1600


def build_codec(**options: Any) -> EnCodec:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"dim": 8, "num_filters": 4, "ratios": (4, 4, 2), **options}
    codec = EnCodec(
        encoder=SEANetEncoder(**shape),
        decoder=SEANetDecoder(**shape),
        quantizer=ResidualVectorQuantizer(dim=8, num_codebooks=3, cardinality=20),
        sample_rate=SAMPLE_RATE,
    )
    codec.quantizer.codebooks.embed.normal_()
    codec.quantizer.codebooks.inited.fill_(True)
    return codec.eval()


def build_lm(
    num_codebooks: int = 3,
    *,
    hears: Sequence[str] = (),
    pattern: Pattern | None = None,
    mask_padding: bool = True,
    kind: type[TokenLM] = TokenLM,
    **options: Any,
) -> TokenLM:
    """hears: which of "melody" and "style" it takes besides texts and genres."""
    torch.manual_seed(1)
    waveforms = {
        "melody": lambda: ChromaConditioner(sample_rate=SAMPLE_RATE, duration=1.0, radix2_exp=8),
        "style": lambda: StyleConditioner(
            features=CodecFeatures(dim=8, cardinality=20, num_codebooks=2),
            quantizer=None,
            sample_rate=SAMPLE_RATE,
            num_heads=2,
            num_layers=1,
            downsampling=3,
            excerpt=0.3,
            code_frame=32,
        ),
    }
    lm = kind(
        num_codebooks=num_codebooks,
        cardinality=20,
        dim=32,
        num_heads=2,
        num_layers=2,
        pattern=pattern or DelayPattern(range(num_codebooks)),
        conditioning=Conditioning(
            conditioners={
                "description": SubwordTextConditioner(dim=16, num_layers=1, num_buckets=128),
                "genre": LabelConditioner(labels=["rock", "jazz"], dim=4),
                **{name: waveforms[name]() for name in hears},
            },
            dim=32,
            fuse={"cross": ["description"], "sum": ["genre"], "prepend": list(hears)},
            mask_padding=mask_padding,
        ),
        **options,
    )
    with torch.no_grad():
        lm.heads.weight.mul_(4)
        for name in hears:
            lm.conditioning.output_proj[name].get_parameter("weight").mul_(8)
    return lm.eval()


@pytest.fixture(scope="session")
def tiny_codec() -> BuildCodec:
    return build_codec


@pytest.fixture(scope="session")
def tiny_lm() -> BuildLM:
    return build_lm


@pytest.fixture(scope="session")
def model() -> TextToAudio:
    defaults = SamplingSettings(top_k=10)
    return TextToAudio(codec=build_codec(), lm=build_lm(), max_duration=1.0, defaults=defaults)


@pytest.fixture(scope="session")
def listener() -> TextToAudio:
    """It knows melodies and styles too."""
    return TextToAudio(codec=build_codec(), lm=build_lm(hears=["melody", "style"]), max_duration=1.0)


@pytest.fixture(scope="session")
def stereo() -> TextToAudio:
    delays = DelayPattern([0, 0, 1, 1, 2, 2])
    codec = StereoFromMono(codec=build_codec())
    return TextToAudio(codec=codec, lm=build_lm(6, pattern=delays, hears=["melody"]), max_duration=1.0)


@pytest.fixture
def tune() -> torch.Tensor:
    """0.7 s of two tones, [1, L] at the rate of the tiny codec."""
    time = torch.arange(1120) / SAMPLE_RATE
    return torch.cat([torch.sin(440 * 6.283 * time[:560]), torch.sin(330 * 6.283 * time[560:])])[None] * 0.5
