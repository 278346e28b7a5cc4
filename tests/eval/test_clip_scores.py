"""Scores by clip: none vanishes, each is found by its name, and the mean does not depend on order."""

from __future__ import annotations

import pytest
import torch

from eval.clip_scores import ClipMean, pair_by_key


class Given(ClipMean):
    """The mean of scores that are there already."""

    def update(self, scores: torch.Tensor, keys: list[str] | None = None) -> None:
        self.add(scores, keys)


def test_every_clip_is_found_by_its_name() -> None:
    metric = Given()
    metric.update(torch.tensor([1.0, torch.nan]), ["a", "b"])
    metric.update(torch.tensor([4.0, 2.0, 6.0]), ["c", "d", "d"])
    found = metric.scores_of(["d", "b", "a"])
    assert found[[0, 2]].tolist() == [4.0, 1.0]  # "d" twice: its mean
    assert found[1].isnan()
    assert int(metric.num_excluded) == 1
    assert metric.clip_scores().tolist() == [1.0, 2.0, 4.0, 6.0]
    with pytest.raises(ValueError, match="2 clips were never given, e first"):
        metric.scores_of(["e", "a", "f"])
    with pytest.raises(ValueError, match="1 clips have 2 names"):
        metric.update(torch.zeros(1), ["a", "b"])


def test_a_row_with_a_hole_is_left_out_whole() -> None:
    metric = Given(num_scores=2)
    metric.update(torch.tensor([[1.0, torch.nan], [3.0, 4.0]]))
    assert metric.compute().tolist() == [3.0, 4.0]
    assert int(metric.num_excluded) == 1


def test_the_mean_does_not_depend_on_order() -> None:
    scores = torch.randn(10_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1e3
    values = set()
    for seed in range(4):
        metric = Given()
        for part in scores[torch.randperm(10_000, generator=torch.Generator().manual_seed(seed))].split(999):
            metric.update(part)
        values.add(float(metric.compute()))
    assert len(values) == 1


def test_pairs_by_name() -> None:
    assert pair_by_key(["b", "a"], ["a", "b"]) == ["a", "b"]
    with pytest.raises(
        ValueError,
        match=r"3 generated and 2 reference clips share 1 names; only generated: 2 \(a, b.*reference: 1 \(d",
    ):
        pair_by_key(["a", "b", "c"], ["c", "d"])
    with pytest.raises(ValueError, match="0 generated and 0 reference clips"):
        pair_by_key([], [])
