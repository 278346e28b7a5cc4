"""Renaming and loading are strict."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_audio.checkpoints.keymap import load_strict, rename_keys

TENSOR = torch.zeros(1)


def test_each_key_is_claimed_by_one_rule() -> None:
    rules = [(r"layers\.(\d+)\.w", r"blocks.\1.weight"), (r"window", "")]
    assert set(rename_keys({"layers.3.w": TENSOR, "window": TENSOR}, rules)) == {"blocks.3.weight"}
    with pytest.raises(ValueError, match=r"'layers\.3\.b'"):
        rename_keys({"layers.3.b": TENSOR}, rules)
    with pytest.raises(ValueError, match=r"exactly one"):
        rename_keys({"window": TENSOR}, [*rules, (r"win.*", "other")])
    with pytest.raises(ValueError, match="another key"):
        rename_keys({"a1": TENSOR, "a2": TENSOR}, [(r"a\d", "a")])


def test_loading_names_everything_that_does_not_fit() -> None:
    layer = nn.Linear(2, 3)
    before = layer.weight.detach().clone()
    with pytest.raises(
        ValueError, match=r"(?s)missing: bias.*unexpected: scale.*weight is \(2, 2\).*wants \(3, 2\)"
    ):
        load_strict(layer, {"weight": torch.zeros(2, 2), "scale": TENSOR})
    assert torch.equal(layer.weight, before)
    load_strict(layer, {"weight": torch.ones(3, 2), "bias": torch.ones(3)})
    assert layer.weight.sum() == 6
