"""Chroma similarity of notes whose pitch classes are known, and against a direct computation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from eval.chroma import ChromaSimilarity
from lightning_audio.conditioning.chroma import Chromagram

RATE = 16_000


def _notes(frequencies: list[float], duration: float = 2.0) -> Tensor:
    """[1, 1, L], one after the other."""
    time = torch.arange(int(duration * RATE)) / RATE
    return torch.cat([torch.sin(2 * torch.pi * f * time) for f in frequencies])[None, None]


def test_octaves_agree_and_other_notes_do_not() -> None:
    metric = ChromaSimilarity(sample_rate=RATE)
    target = _notes([440.0])
    estimates = torch.cat([_notes([880.0]), _notes([554.37]), target])
    metric.update(estimates, target.expand(3, 1, -1), keys=["octave", "third", "same"])
    assert metric.scores_of(["octave", "third", "same"]).tolist() == [1.0, 0.0, 1.0]
    assert metric.clip_scores().tolist() == [0.0, 1.0, 1.0]
    assert float(metric.compute()) == pytest.approx(2 / 3)


@pytest.mark.parametrize("argmax", [True, False])
def test_equals_a_direct_computation_over_all_frames(argmax: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    target, estimate = 0.1 * torch.randn(2, 2, 2, 60_000, generator=generator)
    lengths = torch.tensor([60_000, 30_000])
    metric = ChromaSimilarity(sample_rate=RATE, argmax=argmax)
    metric.update(estimate, target, lengths)
    chromagram = Chromagram(sample_rate=RATE, argmax=argmax)
    frames = [
        functional.cosine_similarity(
            chromagram(estimate[i : i + 1, :, :n].mean(1, keepdim=True))[0],
            chromagram(target[i : i + 1, :, :n].mean(1, keepdim=True))[0],
            dim=1,
        )
        for i, n in enumerate(lengths.tolist())
    ]
    assert float(metric.compute()) == pytest.approx(float(torch.cat(frames).mean()), rel=1e-5)


def test_a_broken_clip_is_counted() -> None:
    metric = ChromaSimilarity(sample_rate=RATE)
    target = _notes([440.0])
    broken = target.clone()
    broken[0, 0, 3] = torch.nan
    metric.update(torch.cat([broken, target]), target.expand(2, 1, -1))
    assert int(metric.num_excluded) == 1
    assert float(metric.compute()) == 1.0
