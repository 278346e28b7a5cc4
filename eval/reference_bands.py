"""What curves of a training may be held against: published values and values that follow from a definition.

Where no source states a number there is none here: a band that is a guess would be taken for knowledge.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from eval.page.charts import Chart

_TABLE_5 = (
    "Copet et al. 2023 (MusicGen), table 5: perplexity of 4 codebooks of 2048 codes at 50 Hz, on 528 tracks that are "
    "not public"
)


@dataclass(frozen=True)
class Reference:
    """A value, or a range from `low` to `high`, of a logged quantity.

    column: as it is logged.   name: as it stands in the legend.   source: where it is from, or why it must be so.
    """

    column: str
    name: str
    low: float
    high: float
    source: str


def _perplexity(size: str, value: float) -> tuple[Reference, Reference]:
    name = f"MusicGen {size}, published"
    nats = math.log(value)
    return (
        Reference("valid/perplexity", name, value, value, _TABLE_5),
        Reference("valid/loss", name, nats, nats, f"{_TABLE_5}; the logarithm of {value}"),
    )


MUSICGEN = [*_perplexity("300 M", 56.1), *_perplexity("1.5 B", 48.4), *_perplexity("3.3 B", 46.1)]
"""Of mean cross-entropy over codebooks. Another codec or another set makes other values: to look at, no target."""

ENCODEC_24KHZ = [
    Reference(
        "valid/si_sdr",
        "EnCodec 24 kHz at 6 kbit/s, published",
        6.67,
        7.46,
        "Défossez et al. 2022 (EnCodec): SI-SNR in dB, streamable and not, on the paper's mix of music and speech",
    )
]


def guessing(num_codebooks: int, cardinality: int) -> list[Reference]:
    """Cross-entropy and perplexity of a model that takes all codes for equally likely: training starts about there."""
    nats, why = math.log(cardinality), f"ln {cardinality}: every code equally likely"
    name = "guessing"
    columns = ["loss", *(f"cross_entropy_q{k}" for k in range(1, num_codebooks + 1))]
    return [
        Reference(f"{stage}/{column}", name, nats, nats, why)
        for stage in ("train", "valid")
        for column in columns
    ]


def with_references(chart: Chart, columns: Iterable[str], references: Iterable[Reference]) -> Chart:
    """The chart with the references of its columns: values as dashed lines, ranges shaded, sources below.

    columns: that the chart's curves were read from.
    """
    wanted = set(columns)
    found = {reference.name: reference for reference in references if reference.column in wanted}
    levels = {name: r.low for name, r in found.items() if r.low == r.high}
    bands: Mapping[str, tuple[float, float]] = {
        name: (r.low, r.high) for name, r in found.items() if r.low != r.high
    }
    if not found:
        return chart
    sources = dict.fromkeys(f"{name}: {r.source}" for name, r in found.items())
    note = ". ".join([*([chart.note.rstrip(".")] if chart.note else []), *sources])
    return replace(chart, levels={**chart.levels, **levels}, bands={**chart.bands, **bands}, note=note)
