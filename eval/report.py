"""The report: one HTML page that shows, plays and explains what a run made, and needs nothing but itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from eval.card import Card, Measurement, PublishedRow, SizeCurve
from eval.page.charts import Chart, Curve, line_chart, read_curves
from eval.page.document import Section, render_page
from eval.page.listening import Clip, Fact, Listening, Sound, listening_sections
from eval.page.markup import Markup, join, tag
from eval.page.numbers import (
    Stage,
    bullet_list,
    definition_table,
    fact_list,
    frequency_curves,
    headline_table,
    number_text,
    published_table,
    stage_bars,
    usage_bars,
    verdict,
)
from lightning_audio.atomic import write_text

__all__ = [
    "Chart",
    "Clip",
    "Curve",
    "Fact",
    "Listening",
    "Report",
    "Sound",
    "Stage",
    "card_report",
    "read_curves",
    "render_report",
    "write_report",
]


@dataclass(frozen=True)
class Report:
    """What the page shows; a part that is empty has no section.

    summary: one or two plain sentences below the title.
    facts: run name, date, device, ... by label.
    codebook_counts: how often each code of each codebook occurs, [K, cardinality].
    config: the resolved configuration as YAML.   versions: package to version.
    warnings: what a reader must know before trusting a number.   notes: the rest worth saying.
    published: what papers say of other systems by the same protocol.
    """

    title: str
    summary: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    stages: Sequence[Stage] = ()
    measurements: Sequence[Measurement] = ()
    listening: Sequence[Listening] = ()
    charts: Sequence[Chart] = ()
    codebook_counts: Tensor | None = None
    config: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ()
    published: Sequence[PublishedRow] = ()


def write_report(report: Report, path: str | Path) -> Path:
    """Writes the page, whole or not at all, and gives back its path."""
    return write_text(path, render_report(report))


def render_report(report: Report) -> str:
    """The page as text."""
    return render_page(
        report.title, _header(report), [section for section in _sections(report) if section is not None]
    )


def card_report(card: Card, *, charts: Sequence[Chart] = (), **parts: object) -> Report:
    """A page for an evaluation card.

    charts: to stand behind those of the card's own.   parts: further fields of Report, such as `listening`.
    """
    provenance = {
        "Protocol": card.protocol,
        "Model": f"{card.model} ({card.model_hash})" if card.model_hash else card.model,
        "Embedders": "; ".join(
            f"{e.name} at {e.sample_rate} Hz, weights {e.weights_hash or 'none'}{e.hearing and ', ' + e.hearing}"
            for e in card.embedders
        ),
        "Reference": f"{card.reference} ({card.reference_hash})" if card.reference_hash else card.reference,
        "Resampler": card.resampler,
        "Loudness": card.loudness,
        "Clips": f"{_num_clips(card)}, {card.durations.shortest:.2f} to {card.durations.longest:.2f} s each, "
        f"{card.durations.total:.0f} s together",
        "Seeds": ", ".join(f"{name} {seed}" for name, seed in card.seeds.items()),
        "Sampling": ", ".join(f"{name} {value}" for name, value in card.sampling.items()),
    }
    broken = [
        *(f"Clip {key} could not be used: {reason}" for key, reason in card.missing.items()),
        *(f"Clip {key} was scored and is {reason}" for key, reason in card.faults.items()),
    ]
    canaries = [
        replace(canary, group="Canaries: what scores look like on this set") for canary in card.canaries
    ]
    report = Report(
        title=f"{card.protocol}: {card.model}",
        facts={"Date": card.created, "Device": card.device, "Clips": _num_clips(card)},
        measurements=[*card.measurements, *canaries],
        versions=card.versions,
        charts=[*(_size_chart(name, curve) for name, curve in card.size_curves.items()), *charts],
        published=card.published,
        provenance={name: value for name, value in provenance.items() if value},
        warnings=[*card.warnings, *broken],
    )
    return replace(report, **parts)  # type: ignore[arg-type]


def _num_clips(card: Card) -> str:
    few = card.num_items is not None and card.num_items != card.num_clips
    return f"{card.num_clips} of {card.num_items}" if few else str(card.num_clips)


def _size_chart(name: str, curve: SizeCurve) -> Chart:
    """The distance over 1 / number of embeddings, with the line whose end at 0 is the limit."""
    inverse = [1.0 / count for count, _ in curve.points]
    end = max(inverse)
    return Chart(
        title=f"{name}: how it depends on the number of clips",
        x_label="1 / number of embeddings",
        y_label=name,
        curves={
            "line": Curve([0.0, end], [curve.limit, curve.limit + curve.slope * end]),
            "measured": Curve(inverse, [value for _, value in curve.points]),
        },
        note=f"At infinitely many: {number_text(curve.limit)}; the line explains {curve.r_squared:.1%} "
        "of the spread. Too few clips make the distance look larger than it is.",
    )


def _header(report: Report) -> Markup:
    return tag(
        "header",
        tag("h1", report.title),
        tag("p", report.summary, class_="summary") if report.summary else None,
        verdict(report.measurements),
        fact_list(report.facts) if report.facts else None,
        bullet_list(report.warnings, class_="warning"),
    )


def _sections(report: Report) -> list[Section | None]:
    clips = zip(report.listening, listening_sections(report.listening), strict=True)
    return [
        _numbers(report),
        ("published", "Published", tag("div", published_table(report.measurements, report.published)))
        if report.published
        else None,
        *[(f"listen-{i}", section.title, body) for i, (section, body) in enumerate(clips)],
        ("curves", "Curves", tag("div", *map(line_chart, report.charts), class_="charts"))
        if report.charts
        else None,
        _codebooks(report.codebook_counts),
        ("time", "Time", tag("div", stage_bars(report.stages), class_="panel")) if report.stages else None,
        _details(report),
    ]


def _numbers(report: Report) -> Section | None:
    if not report.measurements:
        return None
    return "numbers", "Numbers", tag("div", headline_table(report.measurements), class_="panel flush")


def _codebooks(counts: Tensor | None) -> Section | None:
    if counts is None:
        return None
    curves = {name: Curve(*xy) for name, xy in frequency_curves(counts.cpu()).items()}
    even = 100.0 / counts.shape[1]
    chart = Chart(
        title="How evenly codes are used",
        x_label="code, from the most to the least frequent",
        y_label="share of frames (%)",
        curves={name: Curve(c.steps, [v or float("nan") for v in c.values]) for name, c in curves.items()},
        levels={f"all codes equally often ({number_text(even, '%')})": even},
        log_y=True,
    )
    about = (
        "Effective codes are exp(entropy) of how often each code occurs: all of them is the most a codebook "
        "can do, a few means that it has collapsed. The pale bar is the share of codes that occur at all."
    )
    usage = tag(
        "div",
        tag("h3", "Effective codes"),
        tag("p", about, class_="muted"),
        usage_bars(counts.cpu()),
        class_="panel",
    )
    return "codebooks", "Codebooks", tag("div", usage, line_chart(chart), class_="charts")


def _details(report: Report) -> Section | None:
    parts = [
        bullet_list(report.notes),
        _folded("How the numbers were made", definition_table(report.provenance))
        if report.provenance
        else None,
        _folded("Configuration", tag("pre", report.config)) if report.config else None,
        _folded("Versions", definition_table(report.versions)) if report.versions else None,
    ]
    return ("details", "Details", join(*parts)) if any(parts) else None


def _folded(title: str, body: Markup) -> Markup:
    return tag("details", tag("summary", title), body, class_="panel")
