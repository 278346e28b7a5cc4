"""Line charts as inline SVG: axes, ticks, a legend, units; colours come from the page's style."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eval.page.markup import Markup, join, number, tag

WIDTH, HEIGHT = 480.0, 270.0
LEFT, RIGHT, TOP, BOTTOM = 64.0, 12.0, 12.0, 44.0
NUM_COLOURS = 8
MAX_POINTS = 300


@dataclass(frozen=True)
class Curve:
    """One series; steps rise, and values that are not finite leave a gap."""

    steps: Sequence[float]
    values: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.steps) != len(self.values):
            raise ValueError(f"a curve has {len(self.steps)} steps and {len(self.values)} values; want equal")


@dataclass(frozen=True)
class Chart:
    """Curves by name over one pair of axes.

    levels: dashed lines across, by name, such as a baseline; one that is named as a curve takes its colour.
    bands: (lowest, highest) by name, shaded behind the curves: where values are expected to lie.
    smooth: curves of more than some 60 points are drawn faint with their running mean on top.
    filled: what is under a curve is shaded, down to 0.
    """

    title: str
    x_label: str
    y_label: str
    curves: Mapping[str, Curve]
    levels: Mapping[str, float] = field(default_factory=dict)
    levels_label: str = ""
    bands: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    log_y: bool = False
    smooth: bool = False
    filled: bool = False
    note: str = ""


def read_curves(path: str | Path, columns: Mapping[str, str], *, step: str = "step") -> dict[str, Curve]:
    """Curves from a CSV log such as Lightning's: {column: name to show}; empty cells are passed over.

    A column that is not in the file, or has no value in it, gives no curve.
    """
    with Path(path).open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    curves = {}
    for column, name in columns.items():
        points = [(float(r[step]), float(r[column])) for r in rows if r.get(column) and r.get(step)]
        if points:
            curves[name] = Curve(*map(list, zip(*points, strict=True)))  # type: ignore[arg-type]
    return curves


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that span about `count` steps between two values."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1.0, 2.0, 2.5, 5.0, 10.0) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_text(value: float) -> str:
    """20000 as 20k, 0.001 as 0.001, 1e-05 as 1e-5."""
    if value and abs(value) >= 10_000:
        scale, suffix = (1e6, "M") if abs(value) >= 1e6 else (1e3, "k")
        return f"{value / scale:.4g}{suffix}"
    return f"{value:.4g}".replace("e-0", "e-").replace("-", "\N{MINUS SIGN}", 1 if value < 0 else 0)


@dataclass(frozen=True)
class _Axis:
    """Maps values to pixels; a log axis maps their logarithms."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        position = math.log10(value) if self.log else value
        return self.start + (position - self.low) / (self.high - self.low) * (self.end - self.start)

    def marks(self) -> list[float]:
        if not self.log:
            return ticks(self.low, self.high)
        whole = range(math.floor(self.low), math.ceil(self.high) + 1)
        # Under one decade of span, tens alone would leave an axis with a single tick or none.
        digits = (1, 2, 5) if self.high - self.low < 2.0 else (1,)
        marks = [d * 10.0**power for power in whole for d in digits]
        return [m for m in marks if self.low - 1e-9 <= math.log10(m) <= self.high + 1e-9]


def _axis(values: Sequence[float], start: float, end: float, *, log: bool = False, pad: float = 0.0) -> _Axis:
    shown = [math.log10(v) if log else v for v in values]
    low, high = (min(shown), max(shown)) if shown else (0.0, 1.0)
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    room = (high - low) * pad
    return _Axis(low - room, high + room, start, end, log)


def line_chart(chart: Chart) -> Markup:
    """The chart as a figure with its title, legend and note."""
    curves = {
        name: [
            (float(x), float(y))
            for x, y in zip(curve.steps, curve.values, strict=True)
            if math.isfinite(x) and math.isfinite(y) and (y > 0 or not chart.log_y)
        ]
        for name, curve in chart.curves.items()
    }
    levels = {k: v for k, v in chart.levels.items() if math.isfinite(v) and (v > 0 or not chart.log_y)}
    xs = [x for points in curves.values() for x, _ in points]
    ys = [y for points in curves.values() for _, y in points] + list(levels.values())
    bands = {
        name: ends
        for name, ends in chart.bands.items()
        if all(math.isfinite(end) and (end > 0 or not chart.log_y) for end in ends)
    }
    ys += [end for ends in bands.values() for end in ends]
    x_axis = _axis(xs, LEFT, WIDTH - RIGHT)
    y_axis = _axis(ys, HEIGHT - BOTTOM, TOP, log=chart.log_y, pad=0.05)

    colours = {name: i % NUM_COLOURS for i, name in enumerate(curves)}
    areas = [
        _draw_area(points, colours[name], x_axis, y_axis) for name, points in curves.items() if chart.filled
    ]
    lines = [
        _draw_curve(points, colours[name], x_axis, y_axis, chart.smooth) for name, points in curves.items()
    ]
    dashes = [_draw_level(value, colours.get(name), y_axis) for name, value in levels.items()]
    shades = [_draw_band(low, high, y_axis) for low, high in bands.values()]
    picture = tag(
        "svg",
        *([*shades, _grid(x_axis, y_axis, chart), *dashes, *areas, *lines] if xs else [_nothing()]),
        viewBox=f"0 0 {number(WIDTH)} {number(HEIGHT)}",
        role="img",
        aria_label=f"{chart.title}: {chart.y_label} over {chart.x_label}",
        class_="chart",
    )
    return tag(
        "figure",
        tag(
            "figcaption", tag("h3", chart.title), tag("p", chart.note, class_="muted") if chart.note else None
        ),
        picture,
        _legend(colours, levels, chart.levels_label, list(bands)),
        class_="panel",
    )


def _nothing() -> Markup:
    text = "no values were logged"
    return tag("text", text, x=WIDTH / 2, y=HEIGHT / 2, class_="tick", text_anchor="middle")


def _grid(x_axis: _Axis, y_axis: _Axis, chart: Chart) -> Markup:
    parts: list[Markup] = []
    for mark in y_axis.marks():
        y = y_axis(mark)
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(tag("text", tick_text(mark), x=LEFT - 6, y=y + 4, class_="tick", text_anchor="end"))
    for mark in x_axis.marks():
        x = x_axis(mark)
        parts.append(tag("line", x1=x, x2=x, y1=HEIGHT - BOTTOM, y2=HEIGHT - BOTTOM + 4, class_="axis"))
        label = tag("text", tick_text(mark), x=x, y=HEIGHT - BOTTOM + 18, class_="tick", text_anchor="middle")
        parts.append(label)
    bottom = HEIGHT - BOTTOM
    parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=bottom, y2=bottom, class_="axis"))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(tag("text", chart.x_label, x=middle, y=HEIGHT - 5, class_="label", text_anchor="middle"))
    centre = (TOP + bottom) / 2
    turned = f"rotate(-90 12 {number(centre)})"
    parts.append(
        tag("text", chart.y_label, x=12, y=centre, class_="label", text_anchor="middle", transform=turned)
    )
    return join(*parts)


def _draw_curve(
    points: list[tuple[float, float]], colour: int, x_axis: _Axis, y_axis: _Axis, smooth: bool
) -> Markup | None:
    if not points:
        return None
    if len(points) == 1:
        return tag("circle", cx=x_axis(points[0][0]), cy=y_axis(points[0][1]), r=3.5, class_=f"dot c{colour}")
    thinned = _thin(points)
    if not smooth or len(points) < 60:
        return _polyline(thinned, f"curve c{colour}", x_axis, y_axis)
    return join(
        _polyline(thinned, f"curve faint c{colour}", x_axis, y_axis),
        _polyline(_thin(_running_mean(points, len(points) // 25)), f"curve c{colour}", x_axis, y_axis),
    )


def _draw_area(points: list[tuple[float, float]], colour: int, x_axis: _Axis, y_axis: _Axis) -> Markup | None:
    if len(points) < 2:
        return None
    closed = [(points[0][0], 0.0), *_thin(points), (points[-1][0], 0.0)]
    path = " ".join(f"{number(x_axis(x))},{number(y_axis(y))}" for x, y in closed)
    return tag("polygon", points=path, class_=f"c{colour}", fill="currentColor", fill_opacity="0.15")


def _polyline(points: list[tuple[float, float]], class_: str, x_axis: _Axis, y_axis: _Axis) -> Markup:
    path = " ".join(f"{number(x_axis(x))},{number(y_axis(y))}" for x, y in points)
    return tag("polyline", points=path, class_=class_)


def _draw_band(low: float, high: float, y_axis: _Axis) -> Markup:
    top, bottom = sorted((y_axis(low), y_axis(high)))
    return tag("rect", x=LEFT, y=top, width=WIDTH - RIGHT - LEFT, height=bottom - top, class_="band")


def _draw_level(value: float, colour: int | None, y_axis: _Axis) -> Markup:
    y = y_axis(value)
    class_ = "level" if colour is None else f"level c{colour}"
    return tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_=class_)


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most about MAX_POINTS points: the lowest and highest of each bucket, so that no spike is lost."""
    if len(points) <= MAX_POINTS:
        return points
    size = math.ceil(2 * len(points) / MAX_POINTS)
    kept: list[tuple[float, float]] = [points[0]]
    for start in range(0, len(points), size):
        bucket = points[start : start + size]
        extremes = {min(bucket, key=lambda p: p[1]), max(bucket, key=lambda p: p[1])}
        kept.extend(sorted(extremes))
    return [*kept, points[-1]]


def _running_mean(points: list[tuple[float, float]], span: int) -> list[tuple[float, float]]:
    """Mean of the `span` values around each step, fewer at the ends."""
    sums = [0.0, *itertools.accumulate(y for _, y in points)]
    half = span // 2
    ends = [(max(0, i - half), min(len(points), i + half + 1)) for i in range(len(points))]
    return [(x, (sums[j] - sums[i]) / (j - i)) for (x, _), (i, j) in zip(points, ends, strict=True)]


def _legend(
    colours: Mapping[str, int], levels: Mapping[str, float], levels_label: str, bands: Sequence[str]
) -> Markup | None:
    entries = [
        tag("li", tag("i", class_=f"swatch c{colour}"), name)
        for name, colour in colours.items()
        if len(colours) > 1 or levels or bands
    ]
    own = [name for name in levels if name not in colours]
    entries += [tag("li", tag("i", class_="swatch dashed"), name) for name in own]
    if len(own) < len(levels) and levels_label:
        entries.append(tag("li", tag("i", class_="swatch dashed"), levels_label))
    entries += [tag("li", tag("i", class_="swatch band"), name) for name in bands]
    return tag("ul", *entries, class_="legend") if entries else None
