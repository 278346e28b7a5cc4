"""References behind one's own curves: the right ones, drawn, with their source."""

from __future__ import annotations

import math

import pytest

from eval.page.charts import Chart, Curve, line_chart
from eval.reference_bands import ENCODEC_24KHZ, MUSICGEN, Reference, guessing, with_references

CHART = Chart("Loss", "step", "nats", {"loss": Curve([0, 1], [7.0, 5.0])}, {"mine": 6.0}, note="Of mine.")


def test_the_published_perplexities_and_their_logarithms() -> None:
    nats = [r.low for r in MUSICGEN if r.column == "valid/loss"]
    assert nats == pytest.approx([4.0271, 3.8795, 3.8308], abs=1e-4)
    assert [r.low for r in MUSICGEN if r.column == "valid/perplexity"] == [56.1, 48.4, 46.1]
    assert all(r.source for r in [*MUSICGEN, *ENCODEC_24KHZ, *guessing(4, 2048)])


def test_only_those_of_the_columns_are_drawn() -> None:
    chart = with_references(CHART, ["valid/loss"], [*MUSICGEN, *ENCODEC_24KHZ, *guessing(1, 2048)])
    assert list(chart.levels) == [
        "mine",
        "MusicGen 300 M, published",
        "MusicGen 1.5 B, published",
        "MusicGen 3.3 B, published",
        "guessing",
    ]
    assert chart.levels["guessing"] == math.log(2048)
    assert chart.bands == {}
    assert chart.note.startswith("Of mine. MusicGen 300 M, published: Copet")
    assert with_references(CHART, ["train/other"], MUSICGEN) == CHART


def test_a_range_is_a_shaded_band_that_the_axis_holds() -> None:
    chart = with_references(CHART, ["x"], [Reference("x", "expected", 1.0, 2.0, "a paper")])
    assert chart.bands == {"expected": (1.0, 2.0)}
    text = line_chart(chart)
    assert text.count("<rect") == 1
    assert 'class="swatch band"' in text
    assert "expected: a paper" in text
    top, height = (float(text.partition(f' {name}="')[2].partition('"')[0]) for name in ("y", "height"))
    assert 12.0 <= top < top + height <= 226.0


def test_a_band_that_no_axis_can_hold_is_left_out() -> None:
    chart = with_references(CHART, ["x"], [Reference("x", "expected", 0.0, math.inf, "a paper")])
    assert "<rect" not in line_chart(chart)
