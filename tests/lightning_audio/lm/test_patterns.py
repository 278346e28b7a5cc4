"""Patterns put each code where the original implementation puts it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lightning_audio.lm.patterns import (
    CoarseFirstPattern,
    DelayPattern,
    FlatteningPattern,
    GroupedPattern,
    ParallelPattern,
    Pattern,
)

PATTERNS: dict[str, Pattern] = {
    "delay": DelayPattern([0, 1, 2, 3]),
    "delay_0023": DelayPattern([0, 0, 2, 3]),
    "delay_stereo8": DelayPattern([0, 0, 1, 1, 2, 2, 3, 3]),
    "delay_flatten_first2": DelayPattern([0, 1, 2, 3], flatten_first=2),
    "delay_empty_initial2": DelayPattern([0, 1, 2, 3], empty_initial=2),
    "parallel": ParallelPattern(4),
    "parallel_empty_initial-1": ParallelPattern(4, has_start=False),
    "unroll": FlatteningPattern([0, 1, 2, 3]),
    "unroll_flattening0112": FlatteningPattern([0, 1, 1, 2]),
    "unroll_flattening011_delays033": FlatteningPattern([0, 1, 1], delays=[0, 3, 3]),
    "coarse_first": CoarseFirstPattern(4),
    "coarse_first_delays012": CoarseFirstPattern(4, delays=[0, 1, 2]),
    "musiclm_group2": GroupedPattern(4, group_size=2),
    "musiclm_group1": GroupedPattern(4, group_size=1),
}


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("num_frames", [1, 3, 8])
def test_equals_the_original(name: str, num_frames: int, reference_path: Callable[..., Path]) -> None:
    reference = torch.load(reference_path("patterns.pt"), weights_only=True)
    inputs = reference["inputs"][f"{name}/T{num_frames}"]
    outputs = reference["outputs"][f"{name}/T{num_frames}"]
    pattern, codes = PATTERNS[name], inputs["codes"]
    for kept in (False, True):
        expected, logits = outputs[f"keep{int(kept)}"], inputs[f"logits_keep{int(kept)}"]
        length = (pattern.num_training_steps if kept else pattern.num_steps)(num_frames)
        sequence = pattern.build(codes, special=100, num_steps=length)
        assert torch.equal(sequence, expected["sequence"])
        assert torch.equal(pattern.revert(sequence, num_frames), expected["reverted"])
        predictions, there = pattern.revert_predictions(logits.permute(0, 2, 3, 1), num_frames)
        assert torch.equal(there, expected["logits_mask"])
        wanted = expected["logits"].permute(0, 2, 3, 1)
        assert torch.equal(predictions[:, there], wanted[:, there])
        assert bool(wanted[:, ~there].isnan().all())


@pytest.mark.parametrize("name", PATTERNS)
def test_every_code_is_written_once_and_comes_back(name: str) -> None:
    pattern = PATTERNS[name]
    codes = torch.arange(pattern.num_codebooks * 5).view(1, -1, 5)
    sequence = pattern.build(codes, special=-7)
    assert torch.equal(sequence[sequence >= 0].sort().values, codes.flatten())
    assert torch.equal(pattern.revert(sequence, 5), codes)


def test_bad_patterns_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[1, 0\]"):
        DelayPattern([1, 0])
    with pytest.raises(ValueError, match="share their delay"):
        FlatteningPattern([0, 1, 1], delays=[0, 3, 2])
    with pytest.raises(ValueError, match="3 delays"):
        CoarseFirstPattern(4, delays=[0])
    with pytest.raises(ValueError, match="groups of 3"):
        GroupedPattern(4, group_size=3)
