"""Stems out of a mixture: what is kept, and what is said where Demucs is not there."""

from __future__ import annotations

import sys
import warnings
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_audio.conditioning import separation
from lightning_audio.conditioning.base import WavCondition
from lightning_audio.conditioning.chroma import ChromaConditioner
from lightning_audio.conditioning.separation import StemSeparator

SOURCES = ["drums", "bass", "other", "vocals"]


class FakeDemucs:
    """Four stems of which each is the mixture by another factor."""

    samplerate = 44_100
    audio_channels = 2
    sources = SOURCES

    def to(self, device: Any) -> FakeDemucs:
        return self

    def eval(self) -> FakeDemucs:
        return self


@pytest.fixture
def with_demucs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A package `demucs` of the same surface; gives the calls that it gets."""
    calls: list[Any] = []

    def get_model(name: str, repo: Any) -> FakeDemucs:
        calls.append(name)
        return FakeDemucs()

    def apply_model(model: FakeDemucs, wav: Tensor, device: Any) -> Tensor:
        calls.append(tuple(wav.shape))
        return torch.stack([wav, 10 * wav, 100 * wav, 1000 * wav], dim=1)

    contents: dict[str, dict[str, Any]] = {
        "demucs": {"pretrained": SimpleNamespace(get_model=get_model)},
        "demucs.apply": {"apply_model": apply_model},
    }
    for name, content in contents.items():
        module = ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(separation, "find_spec", lambda name: object())
    return calls


def test_vocals_and_the_rest_are_kept(with_demucs: list[Any]) -> None:
    wav = torch.randn(1, 2, 50)
    assert StemSeparator().is_ready
    torch.testing.assert_close(StemSeparator()(wav), 1100 * wav)
    torch.testing.assert_close(StemSeparator(keep=["bass"])(wav), 10 * wav)
    with pytest.raises(ValueError, match="no stems"):
        StemSeparator(keep=["piano"])(wav)
    with pytest.raises(ValueError, match="2 channels at 44100 Hz"):
        StemSeparator(sample_rate=16000)(wav)


def test_a_melody_is_separated_once(with_demucs: list[Any]) -> None:
    conditioner = ChromaConditioner(sample_rate=8000, radix2_exp=10, separator=StemSeparator())
    melody = WavCondition(torch.randn(1, 8000), 8000)
    for _ in range(2):  # rows of guidance, then the next call
        conditioner(conditioner.prepare([melody, melody, None]))
    assert with_demucs == ["htdemucs", (1, 2, 44100)]


def test_without_demucs_a_melody_is_a_stem_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(separation, "find_spec", lambda name: None)
    melody = WavCondition(torch.randn(1, 8000), 8000)
    options: dict[str, Any] = {"sample_rate": 8000, "radix2_exp": 10}
    plain = ChromaConditioner(**options)
    conditioner = ChromaConditioner(**options, separator=StemSeparator())
    with pytest.warns(UserWarning, match="pip install demucs"):
        condition = conditioner(conditioner.prepare([melody]))
    assert torch.equal(condition.embedding, plain(plain.prepare([melody])).embedding)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conditioner(conditioner.prepare([None]))  # nothing to separate, and it was said once
    with pytest.raises(ModuleNotFoundError, match="demucs"):
        ChromaConditioner(**options, separator=StemSeparator(required=True)).prepare([melody])
