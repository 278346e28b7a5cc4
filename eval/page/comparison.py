"""Cards side by side: their numbers with paired differences, and the same clips of each to listen to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from eval.card import Card, Measurement
from eval.clip_table import ClipRow
from eval.compare import ComparedMeasurement, Disagreement, PairedDifference
from eval.page.document import Section, render_page
from eval.page.listening import Sound, encode_sounds, sound_figure
from eval.page.markup import Markup, tag
from eval.page.numbers import bullet_list, definition_table, fact_list, number_text


@dataclass(frozen=True)
class Comparison:
    """What the page shows.

    names: of the cards, short and unlike each other.   tables: the clips of each card.
    disagreements: in what the cards differ that makes the comparison void; not empty where it was asked for all the
        same.
    sounds: of some clips, by key, one for each card.
    """

    names: Sequence[str]
    cards: Sequence[Card]
    measurements: Sequence[ComparedMeasurement]
    tables: Sequence[Sequence[ClipRow]]
    sounds: Mapping[str, Sequence[Sound]]
    disagreements: Sequence[Disagreement] = ()

    @property
    def letters(self) -> str:
        """What stands for each card in a table."""
        return ascii_uppercase[: len(self.names)]


def comparison_page(comparison: Comparison) -> str:
    """The page as text."""
    sections: list[Section] = [("numbers", "Numbers", _numbers(comparison))]
    if any(comparison.tables):
        sections.append(("clips", "Clips", _clips(comparison)))
    sections.append(("cards", "Cards", _cards(comparison)))
    title = " beside ".join(comparison.names)
    return render_page(title, _header(title, comparison), sections)


def _header(title: str, comparison: Comparison) -> Markup:
    first = comparison.cards[0]
    what = f"{first.protocol}, {first.num_clips} clips each"
    warnings = [
        f"{letter}, clip {key}: {reason}"
        for letter, card in zip(comparison.letters, comparison.cards, strict=True)
        for key, reason in {**card.missing, **card.faults}.items()
    ]
    return tag(
        "header",
        tag("h1", title),
        fact_list(dict(zip(comparison.letters, comparison.names, strict=True))),
        tag("p", what) if not comparison.disagreements else _not_comparable(comparison),
        bullet_list(warnings, class_="warning"),
    )


def _not_comparable(comparison: Comparison) -> Markup:
    return tag(
        "div",
        tag("p", "✗ Not comparable", class_="verdict bad"),
        tag(
            "p",
            "These cards differ in what decides the numbers. They are shown side by side because that was asked for; "
            "no ranking follows from them.",
        ),
        bullet_list([str(difference) for difference in comparison.disagreements], class_="warning"),
    )


def _numbers(comparison: Comparison) -> Markup:
    about = (
        "Intervals are of 95 %. Differences are to A, in pairs over the clips that both have; where their interval "
        "holds 0, no system is better. A number that belongs to the whole set and to no clip has no such difference: "
        "look at how far its intervals overlap."
    )
    heads = ("Measure", *comparison.letters, "Better is")
    rows: list[Markup] = []
    group = ""
    for compared in comparison.measurements:
        if compared.any.group and compared.any.group != group:
            group = compared.any.group
            rows.append(
                tag("tr", tag("th", group, colspan=str(len(heads)), scope="rowgroup"), class_="group")
            )
        rows.append(_measurement_row(compared, comparison))
    table = tag(
        "table",
        tag("thead", tag("tr", *[tag("th", head, scope="col") for head in heads])),
        tag("tbody", *rows),
        class_="numbers",
    )
    return tag("div", tag("p", about, class_="muted"), tag("div", table, class_="panel flush scroll"))


def _measurement_row(compared: ComparedMeasurement, comparison: Comparison) -> Markup:
    known = compared.any
    judged = not comparison.disagreements
    cells = [
        tag("td", _value(m), _difference(d, known, judged), data_label=letter)
        for letter, m, d in zip(comparison.letters, compared.measurements, compared.differences, strict=True)
    ]
    return tag(
        "tr",
        tag("td", tag("b", compared.name), tag("span", known.meaning, class_="meaning"), class_="measure"),
        *cells,
        tag(
            "td",
            "↑ higher" if known.higher_is_better else "↓ lower",
            data_label="Better is",
            class_="direction",
        ),
    )


def _value(m: Measurement | None) -> Markup:
    if m is None:
        return tag("span", "not measured", class_="muted")
    interval = None
    if m.interval is not None:
        low, high = number_text(m.interval.low), number_text(m.interval.high)
        interval = tag("span", f"{low} to {high}", class_="interval")
    return tag("div", tag("b", number_text(m.value, m.unit), class_="value"), interval)


def _difference(d: PairedDifference | None, known: Measurement, judged: bool) -> Markup | None:
    if d is None:
        return None
    text = _signed(d.mean, known.unit)
    if d.interval is not None:
        text += f" ({_signed(d.interval.low)} to {_signed(d.interval.high)})"
    better = d.is_better(known.higher_is_better) if judged else None
    if better is None:
        word, class_ = (", not told apart" if judged else "", "even")
    else:
        word, class_ = (", better", "good") if better else (", worse", "bad")
    return tag("span", f"{text}{word}", class_=f"difference {class_}", title=f"{d.num_clips} pairs of clips")


def _signed(value: float, unit: str = "") -> str:
    return f"+{number_text(value, unit)}" if value > 0 else number_text(value, unit)


def _clips(comparison: Comparison) -> Markup:
    """One row per clip of any card, in the order of the first; the heads sort."""
    by_key = [{row.key: row for row in table} for table in comparison.tables]
    keys = list(dict.fromkeys(key for rows in by_key for key in rows))
    scores = [
        m
        for m in comparison.measurements
        if any(m.name in row.scores for t in comparison.tables for row in t)
    ]
    sounds = [sound for key in keys for sound in comparison.sounds.get(key, ())]
    media_type, files = encode_sounds(sounds)
    remaining = iter(files)
    rows = [_clip_row(key, by_key, scores, comparison, media_type, remaining) for key in keys]
    about = f"{len(comparison.sounds)} of {len(keys)} clips have their sound on this page. A column's head sorts by it."
    table = tag(
        "table",
        tag("thead", tag("tr", *_clip_heads(comparison, scores))),
        tag("tbody", *rows),
        class_="sortable",
    )
    return tag("div", tag("p", about, class_="muted"), tag("div", table, class_="panel flush scroll"))


def _score_columns(comparison: Comparison, name: str) -> list[str]:
    """The names of a score's columns: of each card, and of two cards the difference."""
    columns = [
        *comparison.letters,
        *(["B\N{NO-BREAK SPACE}−\N{NO-BREAK SPACE}A"] if len(comparison.letters) == 2 else []),
    ]
    return [f"{name} {column}" for column in columns]


def _clip_heads(comparison: Comparison, scores: Sequence[ComparedMeasurement]) -> list[Markup]:
    def button(text: str, kind: str) -> Markup:
        return tag("th", tag("button", text, type="button"), scope="col", data_kind=kind)

    columns = [column for m in scores for column in _score_columns(comparison, m.name)]
    return [
        button("Clip", "text"),
        *[tag("th", letter, scope="col") for letter in comparison.letters],
        *[button(column, "number") for column in columns],
    ]


def _clip_row(
    key: str,
    by_key: Sequence[Mapping[str, ClipRow]],
    scores: Sequence[ComparedMeasurement],
    comparison: Comparison,
    media_type: str,
    files: Iterator[bytes | None],
) -> Markup:
    rows = [table.get(key) for table in by_key]
    prompt = next((row.prompt for row in rows if row is not None and row.prompt), "")
    sounds = comparison.sounds.get(key, ())
    peak = max(0.05, *(sound.peak for sound in sounds)) if sounds else 1.0
    listening = [
        tag("td", sound_figure(sound, peak, media_type, next(files)), class_="listen") for sound in sounds
    ] or [tag("td", class_="listen") for _ in rows]
    cells: list[Markup] = []
    for measurement in scores:
        values = [math.nan if row is None else row.scores.get(measurement.name, math.nan) for row in rows]
        if len(values) == 2:
            values.append(values[1] - values[0])
        for column, value in zip(_score_columns(comparison, measurement.name), values, strict=True):
            shown = number_text(value, measurement.any.unit) if math.isfinite(value) else "–"
            data = repr(value) if math.isfinite(value) else None
            cells.append(
                tag("td", tag("span", shown), data_label=column, data_value=data, class_="direction")
            )
    title = tag(
        "td",
        tag("b", prompt or key),
        tag("small", key) if prompt else None,
        data_value=prompt or key,
        class_="prompt",
    )
    return tag("tr", title, *listening, *cells)


def _cards(comparison: Comparison) -> Markup:
    parts = [
        tag(
            "details",
            tag("summary", f"{letter}: {name}"),
            definition_table(
                {
                    "Model": f"{card.model} ({card.model_hash or 'no hash'})",
                    "Made": f"{card.created} on {card.device}",
                    "Protocol": card.protocol,
                    "Reference": f"{card.reference} ({card.reference_hash or 'no hash'})",
                    "Resampler": card.resampler,
                    "Loudness": card.loudness,
                    "Sampling": ", ".join(f"{key} {value}" for key, value in card.sampling.items()),
                    "Versions": ", ".join(f"{key} {value}" for key, value in card.versions.items()),
                }
            ),
            class_="panel",
        )
        for letter, name, card in zip(comparison.letters, comparison.names, comparison.cards, strict=True)
    ]
    return tag("div", *parts)
