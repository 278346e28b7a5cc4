"""Histograms: how values are spread, several groups of them over the same bins, as shares."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from eval.page.charts import Curve, ticks

NUM_BINS = 40


def bin_edges(low: float, high: float, num_bins: int = NUM_BINS, *, whole: bool = False) -> np.ndarray:
    """Round edges, float64, of about so many bins that hold both values.

    whole: the values are whole numbers; each bin has as many of them, in its middle.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"a histogram goes from a value to a larger one, got {low} and {high}")
    if whole:
        many = math.ceil((high - low + 1) / num_bins)
        return np.arange(math.floor(low) - 0.5, high + many, many)
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    inner = ticks(low, high, num_bins)
    step = inner[1] - inner[0]
    first, last = math.floor(low / step + 1e-9), math.floor(high / step + 1e-9) + 1
    return step * np.arange(first, last + 1, dtype=np.float64)


def histogram_curves(groups: Mapping[str, np.ndarray], edges: np.ndarray) -> dict[str, Curve]:
    """For each group that has values, the outline of its histogram: share of its values (%) in each bin.

    Values outside the edges are counted in the first and the last bin.
    """
    curves = {}
    for name, values in groups.items():
        if len(values):
            inside = np.clip(values, edges[0], np.nextafter(edges[-1], edges[0]))
            heights = 100.0 * np.histogram(inside, edges)[0] / len(values)
            steps = np.repeat(edges, 2)
            curves[name] = Curve(steps.tolist(), [0.0, *np.repeat(heights, 2).tolist(), 0.0])
    return curves
