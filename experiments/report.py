"""Show what is in a dataset of shards, as one page with plots."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

import numpy as np
import torch

from eval.page.charts import Chart, Curve, line_chart
from eval.page.document import Section, render_page
from eval.page.histogram import bin_edges, histogram_curves
from eval.page.markup import Markup, join, tag
from eval.page.numbers import bullet_list, fact_list, frequency_curves, number_text, share_bars, usage_bars
from experiments.progress import progress_report
from lightning_audio.atomic import write_text
from sharding.checking.statistics import (
    CAPTION_ATTRIBUTE,
    NUM_DECODED,
    SplitStatistics,
    dataset_statistics,
    quantile,
)

EXAMPLE = """\
examples:
  lightning-audio report shards                   # writes shards.html
  lightning-audio report shards --full --out page.html"""

_MOST_ATTRIBUTES = 40  # rows of the table
_MOST_VALUES = 15  # bars of an attribute
_MOST_CHARTS = 12  # attributes whose values are shown

Splits = Mapping[str, SplitStatistics]


def main(arguments: list[str]) -> None:
    """The verb `report`."""
    parser = argparse.ArgumentParser(
        prog="lightning-audio report",
        description="Write a page that shows what is in a dataset: hours, durations, rates, attributes, captions, "
        "loudness, use of the codebooks, split beside split.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--out", type=Path, help="the page (default: beside the dataset, with its name)")
    parser.add_argument(
        "--clips",
        type=int,
        default=NUM_DECODED,
        help=f"clips of each split whose audio and codes are read ({NUM_DECODED})",
    )
    parser.add_argument("--full", action="store_true", help="read the audio and codes of all clips")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    dataset: Path = options.dataset
    out = options.out or dataset.resolve().with_name(f"{dataset.resolve().name}.html")
    with progress_report("reading") as progress:
        splits = dataset_statistics(
            dataset,
            num_decoded=None if options.full else options.clips,
            workers=options.workers,
            progress=progress,
        )
    write_text(out, dataset_page(dataset.resolve().name, splits))
    print("\n".join(_summary(splits)))
    print(f"written: {out}")


def _summary(splits: Splits) -> list[str]:
    return [
        f"{name}: {split.num_clips} clips, {split.seconds / 3600:.3f} h, {split.num_shards} shards"
        for name, split in splits.items()
    ]


def dataset_page(name: str, splits: Splits) -> str:
    """The page as text."""
    num_clips = sum(split.num_clips for split in splits.values())
    facts = {
        "Clips": f"{num_clips:,}",
        "Audio": _hours(sum(split.seconds for split in splits.values())),
        "Size": _bytes(sum(split.num_bytes for split in splits.values())),
        "Splits": ", ".join(splits),
        "Made": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
    }
    header = tag(
        "header", tag("h1", name), fact_list(facts), bullet_list(_warnings(splits), class_="warning")
    )
    charts = [line_chart(chart) for chart in _histograms(splits) if chart is not None]
    sections = [
        ("splits", "Splits", _split_table(splits)),
        ("clips", "Clips", tag("div", *charts, class_="charts")) if charts else None,
        _codebooks(splits),
        _attributes(splits),
    ]
    return render_page(f"{name}: the dataset", header, [section for section in sections if section])


def _warnings(splits: Splits) -> list[str]:
    lines = []
    for name, split in splits.items():
        if split.num_unreadable:
            lines.append(
                f"{name}: {split.num_unreadable} clips could not be read; lightning-audio check names them"
            )
        if split.num_skipped:
            lines.append(
                f"{name}: {split.num_skipped} clips were left out when it was made; see skipped.jsonl"
            )
        if len(split.sample_rates) > 1:
            lines.append(
                f"{name} has {len(split.sample_rates)} sample rates: {_counted(split.sample_rates, 'Hz')}"
            )
    missing = [
        f"{name}: {split.num_clips - _captioned(split)} of {split.num_clips} clips have no {CAPTION_ATTRIBUTE}"
        for name, split in splits.items()
        if 0 < _captioned(split) < split.num_clips
    ]
    return [*lines, *missing]


def _captioned(split: SplitStatistics) -> int:
    return split.attributes[CAPTION_ATTRIBUTE].num_clips if CAPTION_ATTRIBUTE in split.attributes else 0


def _split_table(splits: Splits) -> Markup:
    rows: dict[str, Callable[[SplitStatistics], str]] = {
        "Clips": lambda split: f"{split.num_clips:,}",
        "Audio": lambda split: _hours(split.seconds),
        "Shards": lambda split: f"{split.num_shards:,}",
        "Size": lambda split: _bytes(split.num_bytes),
        "Shortest": lambda split: number_text(quantile(split.durations, 0), "s"),
        "Median": lambda split: number_text(quantile(split.durations, 0.5), "s"),
        "Longest": lambda split: number_text(quantile(split.durations, 1), "s"),
        "Sample rate": lambda split: _counted(split.sample_rates, "Hz"),
        "Channels": lambda split: _counted(split.channels, ""),
        "Parts": lambda split: ", ".join(f".{part}" for part in sorted(split.parts)),
        "With a caption": lambda split: _percent(_captioned(split), split.num_clips),
        "Median loudness": lambda split: (
            number_text(float(np.median(split.loudness)), "LUFS") if split.loudness else "–"
        ),
        "Clipped": lambda split: _percent(split.num_clipped, len(split.loudness)),
        "Left out when made": lambda split: f"{split.num_skipped:,}",
    }
    cells = {row: [cell(split) for split in splits.values()] for row, cell in rows.items()}
    return _table(list(splits), {row: texts for row, texts in cells.items() if set(texts) != {"–"}})


def _table(heads: list[str], rows: Mapping[str, list[str]]) -> Markup:
    table = tag(
        "table",
        tag("thead", tag("tr", *[tag("th", head, scope="col") for head in ("", *heads)])),
        tag(
            "tbody",
            *[
                tag("tr", tag("th", name, scope="row"), *[tag("td", cell) for cell in cells])
                for name, cells in rows.items()
            ],
        ),
    )
    return tag("div", table, class_="panel flush", style="overflow-x:auto")


def _histograms(splits: Splits) -> list[Chart | None]:
    read = ", ".join(
        f"{'all' if len(split.loudness) == split.num_clips else len(split.loudness)} of {split.num_clips} of {name}"
        for name, split in splits.items()
    )
    durations = {name: np.concatenate([np.zeros(0), *split.durations]) for name, split in splits.items()}
    loudness = {name: np.array(split.loudness) for name, split in splits.items()}
    peaks = {name: np.array(split.peaks) for name, split in splits.items()}
    words = {
        name: np.repeat(list(split.num_words), list(split.num_words.values()))
        for name, split in splits.items()
        if split.num_words
    }
    return [
        _histogram("How long clips are", "duration (s)", "clips", durations),
        _histogram("How long captions are", "words", "captions", words, whole=True),
        _histogram("Loudness", "integrated loudness (LUFS)", "clips", loudness, note=f"Measured on {read}."),
        _histogram("Peaks", "largest sample (dBFS)", "clips", peaks, note="Of the same clips."),
    ]


def _histogram(
    title: str,
    x_label: str,
    of: str,
    groups: Mapping[str, np.ndarray],
    *,
    note: str = "",
    whole: bool = False,
) -> Chart | None:
    """Shares of each split over common bins, from the lowest value to all but the highest thousandth."""
    together = np.concatenate([np.zeros(0), *groups.values()])
    if not len(together):
        return None
    edges = bin_edges(float(together.min()), float(np.quantile(together, 0.999)), whole=whole)
    if together.max() > edges[-1]:
        note = f"{note} What is above {number_text(edges[-1])} is in the last bin.".strip()
    curves = histogram_curves(groups, edges)
    return Chart(title, x_label, f"share of {of} (%)", curves, filled=True, note=note)


def _codebooks(splits: Splits) -> Section | None:
    counts = [split.code_counts for split in splits.values() if split.code_counts is not None]
    if not counts:
        return None
    together = torch.from_numpy(np.sum(counts, axis=0))
    even = 100.0 / together.shape[1]
    chart = Chart(
        title="How evenly codes are used",
        x_label="code, from the most to the least frequent",
        y_label="share of frames (%)",
        curves={
            name: Curve(ranks, [share or float("nan") for share in shares])
            for name, (ranks, shares) in frequency_curves(together).items()
        },
        levels={f"all codes equally often ({number_text(even, '%')})": even},
        log_y=True,
    )
    num_clips = sum(split.num_code_clips for split in splits.values())
    about = (
        f"Of {num_clips} clips of all splits. Effective codes are exp(entropy) of how often each code occurs: all of "
        "them is the most a codebook can do. The pale bar is the share of codes that occur at all."
    )
    usage = tag(
        "div",
        tag("h3", "Effective codes"),
        tag("p", about, class_="muted"),
        usage_bars(together),
        class_="panel",
    )
    return "codebooks", "Codebooks", tag("div", usage, line_chart(chart), class_="charts")


def _attributes(splits: Splits) -> Section | None:
    counts: Counter[str] = Counter()
    for split in splits.values():
        counts.update({name: about.num_clips for name, about in split.attributes.items()})
    names = [name for name, _ in counts.most_common(_MOST_ATTRIBUTES)]
    if not names:
        return None
    rows = {name: [*_presence(name, splits), _num_values(name, splits)] for name in names}
    table = _table([*splits, "values"], rows)
    left_out = (
        [f"{len(counts) - len(names)} more attributes are not shown"] if len(counts) > len(names) else []
    )
    bars = [bars for name in names if (bars := _value_bars(name, splits)) is not None][:_MOST_CHARTS]
    body = join(
        tag("p", "Share of the clips that have an attribute, and how many values it takes.", class_="muted"),
        table,
        bullet_list(left_out),
        tag("div", *bars, class_="charts", style="margin-top:1rem") if bars else None,
    )
    return "attributes", "Attributes", body


def _presence(name: str, splits: Splits) -> list[str]:
    """The share of each split's clips that have the attribute."""
    return [
        _percent(split.attributes[name].num_clips if name in split.attributes else 0, split.num_clips)
        for split in splits.values()
    ]


def _values(name: str, splits: Splits) -> tuple[Counter[str], bool]:
    values: Counter[str] = Counter()
    complete = True
    for split in splits.values():
        if name in split.attributes:
            values.update(split.attributes[name].values)
            complete &= split.attributes[name].complete
    return values, complete


def _num_values(name: str, splits: Splits) -> str:
    values, complete = _values(name, splits)
    return f"{len(values):,}" if complete else "texts" if not values else f"more than {len(values):,}"


def _value_bars(name: str, splits: Splits) -> Markup | None:
    """The most frequent values of an attribute that has some; None where nearly each clip has its own."""
    values = _values(name, splits)[0]
    num_clips = sum(split.attributes[name].num_clips for split in splits.values() if name in split.attributes)
    if len(values) < 2 or len(values) > 0.5 * num_clips:
        return None
    shares = {}
    for value, count in values.most_common(_MOST_VALUES):
        parts = [
            f"{split_name} {_percent(split.attributes[name].values[value], split.attributes[name].num_clips)}"
            for split_name, split in splits.items()
            if name in split.attributes
        ]
        shares[value] = (count / num_clips, " · ".join(parts))
    about = f"The most frequent {len(shares)} of {_num_values(name, splits)} values; share of the clips that have it."
    return tag("div", tag("h3", name), tag("p", about, class_="muted"), share_bars(shares), class_="panel")


def _counted(counts: Mapping[int, int], unit: str) -> str:
    """The one value, or each with its share."""
    total = sum(counts.values())
    if len(counts) == 1:
        return f"{next(iter(counts))} {unit}".strip()
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    shown = ", ".join(
        f"{value} {unit}".strip() + f" ({_percent(count, total)})" for value, count in ordered[:6]
    )
    return f"{shown}, …" if len(ordered) > 6 else shown or "–"


def _percent(count: int, total: int) -> str:
    if not total:
        return "–"
    share = 100 * count / total
    text = f"{share:.0f}" if share in (0, 100) else "< 0.1" if share < 0.1 else f"{share:.1f}"
    return f"{text}\N{NO-BREAK SPACE}%"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} h" if seconds >= 36_000 else f"{seconds / 60:,.1f} min"


def _bytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
