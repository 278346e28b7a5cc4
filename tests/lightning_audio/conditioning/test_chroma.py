"""The chromagram against the original's numbers, and as a condition."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_audio.conditioning.base import Precomputed, WavCondition
from lightning_audio.conditioning.chroma import ChromaConditioner, Chromagram, chroma_filters


@pytest.fixture(scope="module")
def vector(reference_path: Callable[..., Path]) -> dict[str, Any]:
    return torch.load(reference_path("chroma_musicgen.pt"), weights_only=True)


def test_filters_and_chroma_equal_reference(vector: dict[str, Any]) -> None:
    torch.testing.assert_close(chroma_filters(32000, 2**14), vector["state_dict"]["fbanks"])
    chromagram = Chromagram(sample_rate=32000)
    assert not chromagram.state_dict()
    assert torch.equal(chromagram(vector["inputs"]["x"]), vector["outputs"]["chroma"])
    assert torch.equal(chromagram(vector["inputs"]["short"]), vector["outputs"]["chroma_short"])
    assert torch.equal(chromagram(torch.zeros(2, 1, 1)), vector["outputs"]["chroma_null"])


def tone(frequency: float, seconds: float, rate: int = 8000) -> WavCondition:
    time = torch.arange(int(seconds * rate)) / rate
    return WavCondition(torch.sin(2 * torch.pi * frequency * time)[None], rate)


def make(**options: Any) -> ChromaConditioner:
    return ChromaConditioner(sample_rate=8000, radix2_exp=12, **options)


def test_a_pure_tone_is_its_pitch_class_at_any_rate() -> None:
    conditioner = make()
    for frequency, pitch_class in ((261.63, 0), (440.0, 9), (880.0, 9), (493.88, 11)):
        for rate in (8000, 16000, 11025):
            condition = conditioner(conditioner.prepare([tone(frequency, 1.0, rate)]))
            assert set(condition.embedding[0].argmax(-1).tolist()) == {pitch_class}
    soft = make(argmax=False)
    frames = soft(soft.prepare([tone(440.0, 1.0)])).embedding
    assert frames.amax(-1).eq(1).all()
    assert (frames > 0).sum() > frames[..., 0].numel()


def test_neighbours_do_not_matter_and_lengths_are_masked() -> None:
    conditioner = make()
    melodies = [tone(440.0, 2.0), None, tone(300.0, 1.0)]
    together = conditioner(conditioner.prepare(melodies))
    assert together.mask.sum(1).tolist() == [1 + 16000 // 1024, 0, 1 + 8000 // 1024]
    for row, melody in enumerate(melodies):
        alone = conditioner(conditioner.prepare([melody]))
        steps = int(together.mask[row].sum())
        assert torch.equal(alone.embedding[0, :steps], together.embedding[row, :steps])


def test_a_duration_repeats_and_cuts() -> None:
    conditioner = make(duration=3.0, silence_for_none=True).eval()
    condition = conditioner(conditioner.prepare([tone(440.0, 1.0), tone(440.0, 9.0), None]))
    assert condition.embedding.shape == (3, 1 + 24000 // 1024, 12)
    assert condition.mask.all()
    assert torch.equal(condition.embedding[0], condition.embedding[1])
    assert set(condition.embedding[2].argmax(-1).tolist()) == {0}
    assert not make(duration=3.0).eval()(conditioner.prepare([None])).mask.any()
    learning = conditioner.train()(conditioner.prepare([tone(440.0, 1.0), None]))
    assert learning.mask.sum(dim=1).tolist() == [1 + 8000 // 1024, 0]


class FirstChannel:
    """Separates by keeping one channel."""

    sample_rate = 16000
    channels = 2
    is_ready = True

    def __call__(self, wav: Tensor) -> Tensor:
        return wav[:, :1].expand(-1, 2, -1)


def test_a_separator_decides_what_is_heard() -> None:
    both = WavCondition(torch.cat([0.2 * tone(440.0, 1.0).wav, tone(523.25, 1.0).wav]), 8000)
    for separator, pitch_class in ((None, 0), (FirstChannel(), 9)):
        conditioner = make(separator=separator)
        frames = conditioner(conditioner.prepare([both, None])).embedding[0]
        assert set(frames[1:-1].argmax(-1).tolist()) == {pitch_class}


def test_precomputed_frames_equal_the_waveform_s() -> None:
    for options in ({}, {"duration": 3.0}):
        conditioner = make(**options).eval()
        melodies = [tone(440.0, 2.0), tone(300.0, 1.0), None]
        live = conditioner(conditioner.prepare(melodies))
        plain = make()
        frames = [plain(plain.prepare([melody])).embedding[0] for melody in melodies[:2]]
        ahead = conditioner(conditioner.prepare([Precomputed(frames[0]), melodies[1], None]))
        assert torch.equal(ahead.mask, live.mask)
        assert torch.equal(ahead.embedding * ahead.mask[..., None], live.embedding * live.mask[..., None])
    with pytest.raises(ValueError, match="7 classes, the model 12"):
        make().prepare([Precomputed(torch.zeros(4, 7))])


def test_a_melody_that_comes_again_is_not_computed_again() -> None:
    conditioner = make(cache_size=1)
    melody = tone(440.0, 2.0)
    first = conditioner(conditioner.prepare([melody, melody])).embedding
    conditioner.chromagram.forward = None  # type: ignore[method-assign, assignment]
    assert torch.equal(conditioner(conditioner.prepare([melody, melody])).embedding, first)
    with pytest.raises(TypeError):
        conditioner(conditioner.prepare([tone(441.0, 2.0)]))


def test_what_is_no_waveform_is_refused() -> None:
    with pytest.raises(ValueError, match="'a tune'"):
        make().prepare(["a tune"])
    with pytest.raises(ValueError, match="one sample"):
        make().prepare([WavCondition(torch.zeros(1, 0), 8000)])
