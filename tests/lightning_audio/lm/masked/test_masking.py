"""Training masks: the original's table and draws; the rate that comes out."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lightning_audio.lm.masked.masking import mask_rates, mean_rate_table, span_mask


@pytest.mark.parametrize("span_length", [1, 3, 5])
def test_table_and_masks_equal_the_original(reference_path: Callable[..., Path], span_length: int) -> None:
    outputs = torch.load(reference_path("magnet", "training_masks.pt"), weights_only=True)["outputs"]
    case = outputs["masks"][f"span_len{span_length}"]
    assert list(mean_rate_table(500, span_length)) == list(case["lut"])
    generator = torch.Generator().manual_seed(53)
    rates = mask_rates(6, generator)
    assert torch.equal(rates, case["mask_probs"])
    mask = span_mask(rates, num_frames=500, span_length=span_length, generator=generator)
    assert torch.equal(mask, case["mask"])


def test_rates_follow_the_cosine() -> None:
    uniform = torch.rand(5, generator=torch.Generator().manual_seed(1))
    rates = mask_rates(5, torch.Generator().manual_seed(1))
    torch.testing.assert_close(rates, torch.cos(uniform * math.pi / 2))


@pytest.mark.parametrize("num_frames", [500, 1500])
def test_the_mean_rate_is_the_one_asked_for(num_frames: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for rate in (0.1, 0.5, 0.9):
        mask = span_mask(torch.full((200,), rate), num_frames=num_frames, span_length=3, generator=generator)
        assert mask.float().mean().item() == pytest.approx(rate, abs=0.015)


def test_masks_are_made_of_whole_spans_and_never_empty() -> None:
    generator = torch.Generator().manual_seed(0)
    for row in span_mask(torch.rand(50) * 0.2, num_frames=40, span_length=4, generator=generator):
        runs = "".join("x" if masked else " " for masked in row.tolist()).split()
        assert runs
        assert all(len(run) >= 4 for run in runs[:-1])  # the last may be cut off by the end


def test_a_clip_shorter_than_a_span_is_refused() -> None:
    with pytest.raises(ValueError, match="a span has 3 frames, the clip only 2"):
        span_mask(torch.ones(1), num_frames=2, span_length=3)
