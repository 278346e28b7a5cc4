"""Labels and numbers as conditions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lightning_audio.conditioning.conditioning import Conditioning
from lightning_audio.conditioning.labels import HashedLabelConditioner, LabelConditioner, NumberConditioner


def test_hashed_labels_equal_reference(reference_path: Callable[..., Path]) -> None:
    vector = torch.load(reference_path("lm", "lut_cross.pt"), weights_only=True)
    (genre_bins, genre_dim), (word_bins, word_dim) = vector["config"]["lut"].values()
    conditioning = Conditioning(
        conditioners={
            "genre": HashedLabelConditioner(num_bins=genre_bins, dim=genre_dim),
            "description": HashedLabelConditioner(num_bins=word_bins, dim=word_dim, split_words=True),
        },
        dim=32,
        fuse=vector["config"]["fuse2cond"],
        mask_padding=False,
    )
    for name in ("genre", "description"):
        prefix = f"condition_provider.conditioners.{name}."
        part = {k.removeprefix(prefix): v for k, v in vector["state_dict"].items() if k.startswith(prefix)}
        conditioning.conditioners[name].load_state_dict({"embed.weight": part["embed.weight"]})
        conditioning.output_proj[name].load_state_dict(
            {key: part[f"output_proj.{key}"] for key in ("weight", "bias")}
        )
    prepared = conditioning.prepare(vector["inputs"]["attributes"])
    for name, tokens in vector["inputs"]["tokens"].items():
        assert torch.equal(prepared[name]["ids"], tokens["ids"].long())
        assert torch.equal(prepared[name]["mask"], tokens["mask"].bool())
    expected = vector["outputs"]["condition_tensors"]
    for name, condition in conditioning.encode(prepared).items():
        torch.testing.assert_close(condition.embedding, expected[name]["cond"])
        assert torch.equal(condition.mask, expected[name]["mask"].bool())
    fused = conditioning(vector["inputs"]["attributes"])
    torch.testing.assert_close(fused.sum, expected["genre"]["cond"])
    torch.testing.assert_close(fused.cross, expected["description"]["cond"])
    assert fused.cross_mask is None


def test_known_labels() -> None:
    conditioner = LabelConditioner(labels=["piano", "flute"], dim=4)
    condition = conditioner(conditioner.prepare(["flute", None, ["piano", "flute"]]))
    assert condition.mask.tolist() == [[True, False], [False, False], [True, True]]
    assert torch.equal(condition.embedding[0, 0], condition.embedding[2, 1])
    with pytest.raises(ValueError, match=r"'oboe'.*'piano', 'flute'"):
        conditioner.prepare(["oboe"])


def test_numbers_near_each_other_are_near() -> None:
    conditioner = NumberConditioner(low=40, high=240, dim=16, log=True)
    condition = conditioner(conditioner.prepare([60, 62, 200, None, 1000, 240.0]))
    assert condition.embedding.shape == (6, 1, 16)
    assert condition.mask[:, 0].tolist() == [True, True, True, False, True, True]
    rows = condition.embedding[:, 0]
    assert (rows[0] - rows[1]).norm() < (rows[0] - rows[2]).norm()
    assert torch.equal(rows[4], rows[5])  # beyond the range is its end
    with pytest.raises(ValueError, match="nan"):
        conditioner.prepare([float("nan")])
