from __future__ import annotations

import numpy as np
import pytest

from eval.page.charts import Chart, line_chart
from eval.page.histogram import bin_edges, histogram_curves


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (3.0, 3.0), (-70.0, -5.6), (0.013, 4000.0), (1e-9, 2e-9), (0.0, 0.0)]
)
def test_edges_are_round_and_hold_both_ends(low: float, high: float) -> None:
    edges = bin_edges(low, high)
    slack = 1e-6 * (edges[1] - edges[0])
    assert edges[0] <= low + slack
    assert edges[-1] >= high - slack
    assert 1 <= len(edges) - 1 <= 100
    assert np.allclose(np.diff(edges), edges[1] - edges[0])


@pytest.mark.parametrize(("low", "high"), [(1, 2), (0, 39), (3, 1000), (5, 5)])
def test_whole_numbers_lie_in_the_middle_of_bins_of_equal_many(low: int, high: int) -> None:
    edges = bin_edges(low, high, whole=True)
    numbers = np.arange(low, high + 1)
    counts = np.histogram(numbers, edges)[0]
    assert counts.sum() == len(numbers)
    assert len(set(counts[:-1].tolist())) <= 1
    assert len(counts) <= 41


def test_edges_of_nothing_are_refused() -> None:
    for low, high in ((1.0, 0.0), (0.0, float("inf")), (float("nan"), 1.0)):
        with pytest.raises(ValueError, match="from a value to a larger one"):
            bin_edges(low, high)


def test_outlines_hold_all_values() -> None:
    groups = {"a": np.array([0.1, 0.2, 0.9, 50.0, -3.0]), "none": np.zeros(0)}
    curves = histogram_curves(groups, np.array([0.0, 0.5, 1.0]))
    assert curves.keys() == {"a"}
    assert curves["a"].steps == [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]
    assert curves["a"].values == [0.0, 60.0, 60.0, 40.0, 40.0, 0.0]
    chart = Chart("t", "x", "y", curves, filled=True)
    assert line_chart(chart).count("<polygon") == 1
    assert "<polygon" not in line_chart(Chart("t", "x", "y", curves))
