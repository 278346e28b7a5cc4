"""Numbers to read: the headline table with its intervals and baselines, wall times, codebook usage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eval.card import Measurement, PublishedRow
from eval.language_model import perplexity
from eval.page.markup import Markup, join, number, tag


@dataclass(frozen=True)
class Stage:
    """A part of the run and how long it took; `detail` says what it worked on."""

    name: str
    seconds: float
    detail: str = ""


def number_text(value: float, unit: str = "") -> str:
    """Three significant digits or two decimals, with a true minus sign."""
    if not math.isfinite(value):
        return f"{value}"
    digits = max(0, min(4, 2 - math.floor(math.log10(abs(value))))) if value else 0
    text = f"{value:.{digits}f}" if abs(value) < 1e6 else f"{value:.3g}"
    text = text.replace("-", "\N{MINUS SIGN}")
    if unit == "%":
        return f"{text} %"
    return f"{text} {unit}".strip()


def duration_text(seconds: float) -> str:
    """0.8 s, 42 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def verdict(measurements: Sequence[Measurement]) -> Markup | None:
    """One line: how many of the numbers that have a baseline beat it."""
    judged = [m for m in measurements if m.beats_baselines is not None]
    if not judged:
        return None
    won = sum(bool(m.beats_baselines) for m in judged)
    class_ = "verdict good" if won == len(judged) else "verdict bad"
    sign = "✓" if won == len(judged) else "✗"
    return tag("p", f"{sign} {won} of {len(judged)} measures beat every baseline", class_=class_)


def headline_table(measurements: Sequence[Measurement]) -> Markup:
    """Name and meaning, value and interval, baselines, a picture of the three, and the verdict."""
    heads = ("Measure", "Value", "Baseline", "Interval and baselines", "Better is", "Beats it")
    rows: list[Markup] = []
    group = ""
    for measurement in measurements:
        if measurement.group and measurement.group != group:
            group = measurement.group
            rows.append(tag("tr", tag("th", group, colspan="6", scope="rowgroup"), class_="group"))
        rows.append(_row(measurement))
    return tag(
        "table",
        tag("thead", tag("tr", *[tag("th", head, scope="col") for head in heads])),
        tag("tbody", *rows),
        class_="numbers",
    )


def _row(m: Measurement) -> Markup:
    interval = None
    if m.interval is not None:
        low, high = number_text(m.interval.low), number_text(m.interval.high)
        interval = tag("span", f"{m.interval.level:.0%}: {low} to {high}", class_="interval")
    baselines = [
        tag("div", tag("b", number_text(value, m.unit)), " ", tag("span", name, class_="muted"))
        for name, value in m.baselines.items()
    ]
    clips = tag("span", f" ({m.num_clips} clips)", class_="clip-count") if m.num_clips else None
    direction = "↑ higher" if m.higher_is_better else "↓ lower"
    return tag(
        "tr",
        tag("td", tag("b", m.name), tag("span", m.meaning, clips, class_="meaning"), class_="measure"),
        tag("td", tag("b", number_text(m.value, m.unit), class_="value"), interval, data_label="Value"),
        tag("td", *(baselines or [Markup("–")]), data_label="Baseline"),
        tag("td", interval_picture(m), data_label=None, class_="picture"),
        tag("td", direction, data_label="Better is", class_="direction"),
        tag("td", _judgement(m.beats_baselines), data_label="Beats it"),
    )


def published_table(measurements: Sequence[Measurement], rows: Sequence[PublishedRow]) -> Markup:
    """Each published system's values beside ours, where both measured the same."""
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    ours = {m.name: m for m in measurements}
    heads = ("Measure", "Here", *[row.system for row in rows])
    body = [
        tag(
            "tr",
            tag("td", tag("b", name), class_="measure"),
            tag(
                "td",
                number_text(ours[name].value, ours[name].unit) if name in ours else "–",
                data_label="Here",
            ),
            *[
                tag("td", number_text(row.values[name]) if name in row.values else "–", data_label=row.system)
                for row in rows
            ],
        )
        for name in names
    ]
    table = tag(
        "table",
        tag("thead", tag("tr", *[tag("th", head, scope="col") for head in heads])),
        tag("tbody", *body),
        class_="numbers",
    )
    sources = bullet_list([f"{row.system}: {row.source}" for row in rows], "muted")
    return join(tag("div", table, class_="panel flush scroll"), sources)


def _judgement(beats: bool | None) -> Markup:
    if beats is None:
        return tag("span", "–", class_="muted")
    return tag("span", "✓ yes" if beats else "✗ no", class_="badge good" if beats else "badge bad")


def interval_picture(m: Measurement) -> Markup | None:
    """The value as a dot in its interval, each baseline as an upright line, on one scale."""
    ends = [m.interval.low, m.interval.high] if m.interval else []
    values = [v for v in (m.value, *ends, *m.baselines.values()) if math.isfinite(v)]
    if len(values) < 2 or not math.isfinite(m.value):
        return None
    low, high = min(values), max(values)
    span = (high - low) or 1.0

    def x(value: float) -> float:
        return 8.0 + 124.0 * (value - low) / span

    marks = [
        tag("line", x1=x(v), x2=x(v), y1=3, y2=21, class_="baseline")
        for v in m.baselines.values()
        if math.isfinite(v)
    ]
    bar = tag("line", x1=x(ends[0]), x2=x(ends[1]), y1=12, y2=12, class_="range") if ends else None
    label = f"value {number_text(m.value, m.unit)} beside its baselines"
    return tag(
        "svg",
        tag("line", x1=4, x2=136, y1=12, y2=12, class_="grid"),
        *marks,
        bar,
        tag("circle", cx=x(m.value), cy=12, r=4.5, class_="point"),
        viewBox="0 0 140 24",
        class_="interval-picture",
        role="img",
        aria_label=label,
    )


def stage_bars(stages: Sequence[Stage]) -> Markup:
    """Wall time per stage, as bars on one scale."""
    total = sum(stage.seconds for stage in stages) or 1.0
    rows = [
        _bar(stage.name, stage.seconds / total, duration_text(stage.seconds), stage.detail)
        for stage in stages
    ]
    rows.append(
        tag(
            "li",
            tag("span", tag("b", "Together"), class_="bar-name"),
            tag("b", duration_text(total)),
            class_="sum",
        )
    )
    return tag("ul", *rows, class_="bars")


def usage_bars(counts: Tensor) -> Markup:
    """For each codebook, how many codes occur and how many are in use effectively.  counts [K, card]"""
    cardinality = counts.shape[1]
    used, effective = (counts > 0).sum(1).tolist(), perplexity(counts).tolist()
    rows = [
        _bar(
            f"Codebook {k + 1}",
            effective[k] / cardinality,
            f"{effective[k]:.0f} of {cardinality}",
            f"{used[k]} codes occur",
            behind=used[k] / cardinality,
        )
        for k in range(len(counts))
    ]
    return tag("ul", *rows, class_="bars")


def share_bars(shares: Mapping[str, tuple[float, str]]) -> Markup:
    """For each name, its share (of 1) as a bar and in %, with a detail below the name."""
    rows = [
        _bar(name, share, number_text(100 * share, "%"), detail) for name, (share, detail) in shares.items()
    ]
    return tag("ul", *rows, class_="bars")


def frequency_curves(counts: Tensor) -> dict[str, tuple[list[float], list[float]]]:
    """Per codebook, the share of each code from the most to the least frequent, in %: (rank, share)."""
    share = 100.0 * counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
    ordered = share.sort(1, descending=True).values
    ranks = torch.arange(1, counts.shape[1] + 1).double().tolist()
    return {f"codebook {k + 1}": (ranks, row.tolist()) for k, row in enumerate(ordered)}


def _bar(name: str, share: float, text: str, detail: str, *, behind: float | None = None) -> Markup:
    fills = [
        tag("i", style=f"width:{number(100 * part)}%", class_=class_)
        for part, class_ in ((behind, "behind"), (share, None))
        if part is not None
    ]
    return tag(
        "li",
        tag("span", name, tag("small", detail) if detail else None, class_="bar-name"),
        tag("span", *fills, class_="track"),
        tag("span", text, class_="bar-value"),
    )


def definition_table(rows: Mapping[str, str]) -> Markup:
    """Two columns: name and value."""
    return tag(
        "table",
        tag("tbody", *[tag("tr", tag("th", k, scope="row"), tag("td", v)) for k, v in rows.items()]),
        class_="pairs",
    )


def bullet_list(lines: Sequence[str], class_: str | None = None) -> Markup | None:
    return tag("ul", *[tag("li", line) for line in lines], class_=class_) if lines else None


def fact_list(facts: Mapping[str, str]) -> Markup:
    """The run's name, date, device, ... as a row that wraps."""
    return tag(
        "dl", *[tag("div", join(tag("dt", k), tag("dd", v))) for k, v in facts.items()], class_="run-facts"
    )
