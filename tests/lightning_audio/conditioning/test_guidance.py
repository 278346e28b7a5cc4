"""Guidance formulas, and the rows they are made from."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_audio.conditioning.base import WavCondition
from lightning_audio.conditioning.conditioning import Conditioning
from lightning_audio.conditioning.guidance import (
    conditions_of,
    guide,
    guide_double,
    guided_logits,
    with_null,
    with_wav_only_and_null,
)
from lightning_audio.conditioning.text import SubwordTextConditioner


def test_rows() -> None:
    wav = WavCondition(torch.zeros(1, 8), 16000)
    items: list[dict[str, Any]] = [{"description": "rain", "melody": wav, "clap": 1}, {"description": "wind"}]
    assert with_null(items, keep=["clap"])[2:] == [
        {"description": None, "melody": None, "clap": 1},
        {"description": None},
    ]
    triple = with_wav_only_and_null(items)
    assert len(triple) == 6
    assert triple[2]["melody"] is wav
    assert triple[2]["description"] is None
    assert triple[4]["melody"] is None


def test_coefficients() -> None:
    cond, wav, null = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(guide(cond, null, 1.0), cond)
    torch.testing.assert_close(guide(cond, null, 3.0), 3 * cond - 2 * null)
    torch.testing.assert_close(guide_double(cond, wav, null, 3.0, 1.0), guide(cond, null, 3.0))
    torch.testing.assert_close(guide_double(cond, wav, null, 2.0, 0.0), guide(wav, null, 2.0))
    assert torch.equal(guided_logits(torch.cat([cond, null]), coef=3.0), guide(cond, null, 3.0))
    assert torch.equal(
        guided_logits(torch.cat([cond, wav, null]), coef=3.0, text_coef=5.0),
        guide_double(cond, wav, null, 3.0, 5.0),
    )
    per_item = torch.tensor([1.0, 3.0])[:, None, None]
    torch.testing.assert_close(guide(cond, null, per_item)[0], cond[0])


def test_rows_that_are_no_multiple_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2 rows per item.*5 rows"):
        guided_logits(torch.zeros(5, 3), coef=3.0)


@pytest.mark.parametrize("way", ["cross", "prepend"])
def test_rows_apart_are_what_each_item_has_alone(way: str) -> None:
    """In the order of the guided rows; what the longer neighbour brings is masked, also where padding counts."""
    torch.manual_seed(0)
    text = SubwordTextConditioner(dim=8, num_layers=1, num_buckets=64)
    conditioning = Conditioning(
        conditioners={"description": text}, dim=8, fuse={way: ["description"]}, mask_padding=False
    ).eval()
    items = [{"description": "rain"}, {"description": "a long wind over the sea at night"}]
    rows = with_wav_only_and_null(items)
    together = conditions_of(conditioning, rows, num_items=2)
    assert getattr(together, f"{way}_mask") is None
    apart = conditions_of(conditioning, rows, num_items=2, apart=True)
    vectors, mask = getattr(apart, way), getattr(apart, f"{way}_mask")
    for item in range(2):
        alone = getattr(conditioning(rows[item::2]), way)
        assert mask[item::2].sum(dim=1).tolist() == [alone.shape[1]] * 3
        torch.testing.assert_close(vectors[item::2, : alone.shape[1]], alone)
    assert not mask[0].all()
    # Nothing is masked where nothing is padded: attention without a mask is faster.
    same = conditions_of(conditioning, with_null(items[:1] * 2), num_items=2, apart=True)
    assert getattr(same, f"{way}_mask") is None
