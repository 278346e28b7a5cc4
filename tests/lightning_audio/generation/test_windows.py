"""Beyond what a model was trained on: windows, and melodies that move along with them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_audio.conditioning.base import WavCondition
from lightning_audio.generation.text_to_audio import TextToAudio
from lightning_audio.generation.windows import Windows
from lightning_audio.lm.autoregressive import generate_codes
from lightning_audio.lm.sampling import greedy


def by_hand(model: TextToAudio, text: str, melody: Tensor, total: int, stride: int) -> Tensor:
    """AudioCraft's way, written out: each window hears the melody from its own time on, round and round."""
    codes = torch.zeros(1, 3, 0, dtype=torch.long)
    start = 0
    while codes.shape[-1] < total:
        around = (torch.arange(1600) + start * 32) % melody.shape[-1]
        items = [{"description": text, "melody": WavCondition(melody[:, around], 1600)}]
        written = generate_codes(
            model.lm,
            items,
            num_frames=min(50, total - start),
            sampler=greedy,
            cfg_coef=3.0,
            prompt=codes[..., start:],
        )
        codes = torch.cat([codes[..., :start], written], dim=-1)
        start += stride
    return codes


@pytest.mark.parametrize("seconds", [0.7, 2.5])
def test_a_melody_slides_along(listener: TextToAudio, seconds: float) -> None:
    """One that is shorter than a window begins anew, one that is longer is heard in its own time."""
    melody = 0.5 * torch.randn(1, int(1600 * seconds), generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"use_sampling": False, "extend_stride": 0.6}
    given: dict[str, Any] = {"melody": melody, "melody_sample_rate": 1600}
    codes = listener.generate_tokens(["drums"], duration=2.5, **options, **given)
    assert torch.equal(codes, by_hand(listener, "drums", melody, 125, 30))
    still = WavCondition(melody, 1600)
    windows = Windows(length=50, stride=30, duration=1.0, frame_rate=50.0, sliding=["melody"])
    (first,) = windows.items_at(0, [{"melody": still}], [125])
    (later,) = windows.items_at(30, [{"melody": still}], [125])
    assert not torch.equal(first["melody"].wav, later["melody"].wav)
    (short,) = windows.items_at(0, [{"melody": still}], [50])
    assert short["melody"] is still


def test_a_style_stays_where_it_is(listener: TextToAudio, tune: Tensor) -> None:
    assert listener._windows(None, follows_audiocraft=False).sliding == ["melody"]
    assert {"melody", "style"} <= set(listener._windows(None, follows_audiocraft=True).sliding)
    given: dict[str, Any] = {"style": tune, "style_sample_rate": 1600, "extend_stride": 0.6}
    long = listener.generate_tokens(["drums"], duration=2.0, seed=2, **given)
    assert torch.equal(long[..., :50], listener.generate_tokens(["drums"], duration=1.0, seed=2, **given))


def test_each_window_takes_the_seed_up_where_the_last_one_stopped(model: TextToAudio) -> None:
    """What is drawn is a function of the frame, so a later stride only changes the context."""
    near = model.generate_tokens(["drums"], duration=1.8, seed=1, extend_stride=0.4)
    far = model.generate_tokens(["drums"], duration=1.8, seed=1, extend_stride=0.8)
    assert near.shape == far.shape
    assert torch.equal(near[..., :50], far[..., :50])
    assert not torch.equal(near, far)


@pytest.mark.parametrize(
    ("total", "known", "runs"),
    [
        (50, 0, [(0, 50)]),
        (125, 0, [(0, 50), (30, 50), (60, 50), (90, 35)]),
        (60, 55, [(30, 30)]),
        (200, 120, [(90, 50), (120, 50), (150, 50)]),
    ],
)
def test_runs(total: int, known: int, runs: list[tuple[int, int]]) -> None:
    windows = Windows(length=50, stride=30, duration=1.0, frame_rate=50.0, sliding=[])
    assert list(windows.over(total, known)) == runs
