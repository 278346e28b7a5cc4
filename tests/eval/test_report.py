"""The page: well formed, self-contained, escaped, playable, and whole whatever it is given."""

from __future__ import annotations

import base64
import io
import re
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import eval.page.listening
from eval.bootstrap import Interval
from eval.card import Card, Durations, EmbedderInfo, Measurement, PublishedRow, SizeCurve
from eval.page.charts import tick_text, ticks
from eval.page.markup import VOID_ELEMENTS, tag
from eval.page.numbers import duration_text, number_text
from eval.page.pictures import colour_map, png, spectrogram
from eval.report import (
    Chart,
    Clip,
    Curve,
    Fact,
    Listening,
    Report,
    Sound,
    Stage,
    card_report,
    read_curves,
    render_report,
    write_report,
)

NASTY = "<script>alert('x')</script> & \"quoted\" $title <b>bold</b>"
RATE = 8000


class _Page(HTMLParser):
    """Checks that elements nest, and collects what the page refers to and says."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] or "" for _, attributes in self.elements if name in attributes]


def _tone(seconds: float = 0.5, channels: int = 1) -> torch.Tensor:
    time = torch.arange(round(seconds * RATE)) / RATE
    return (0.5 * torch.sin(2 * torch.pi * 440 * time)).expand(channels, -1).clone()


def _report(**changes: object) -> Report:
    fields = {
        "title": NASTY,
        "summary": NASTY,
        "facts": {"Run": NASTY},
        "stages": [Stage("Corpus", 12.0, NASTY), Stage("Codec", 290.0)],
        "measurements": [
            Measurement(
                "SI-SDR", 9.4, True, NASTY, "dB", Interval(8.0, 10.0), {"untrained": -20.0}, 48, "Codec"
            ),
            Measurement("diverged", float("nan"), False, "", baselines={"chance": 1.0}),
            Measurement("alone", 0.0, False, ""),
        ],
        "listening": [
            Listening(
                "Generations",
                NASTY,
                [
                    Clip(
                        NASTY,
                        [Sound("Generated", _tone(), RATE), Sound("stereo", _tone(channels=2), RATE, NASTY)],
                        [Fact("seed", "3"), Fact("tempo", NASTY, False)],
                    )
                ],
            )
        ],
        "charts": [
            Chart("Loss", "steps", NASTY, {NASTY: Curve(range(3), [3.0, 2.0, float("nan")])}, {NASTY: 2.5}),
            Chart("Empty", "steps", "loss", {}, log_y=True),
            Chart("Flat", "steps", "loss", {"a": Curve([5], [1.0]), "b": Curve([1, 2], [1.0, 1.0])}),
        ],
        "codebook_counts": torch.tensor([[4, 3, 2, 1], [9, 0, 0, 0]]),
        "config": f"text: {NASTY}",
        "versions": {"torch": "2"},
        "warnings": [NASTY],
        "notes": [NASTY],
    }
    return Report(**{**fields, **changes})  # type: ignore[arg-type]


def test_the_page_is_well_formed_and_refers_to_nothing_outside(tmp_path: Path) -> None:
    path = write_report(_report(), tmp_path / "new" / "report.html")
    page = _Page(path.read_text(encoding="utf-8"))
    for reference in page.attributes("src"):
        assert reference.startswith("data:")
    for reference in page.attributes("href"):
        assert reference.startswith(("#", "data:"))
    anchors = {reference[1:] for reference in page.attributes("href") if reference.startswith("#")}
    assert anchors <= set(page.attributes("id"))
    assert "http:" not in path.read_text()
    assert "https:" not in path.read_text()
    assert "url(" not in path.read_text()
    assert list(path.parent.iterdir()) == [path]


def test_text_is_escaped_everywhere() -> None:
    text = render_report(_report())
    page = _Page(text)
    assert [name for name, _ in page.elements].count("script") == 1
    assert "<script>alert" not in text
    assert "<b>bold" not in text
    assert page.text.count(NASTY) >= 12


def test_only_our_script_may_run() -> None:
    text = render_report(_report())
    (policy,) = [
        a["content"] for name, a in _Page(text).elements if "content-security-policy" in str(a).lower()
    ]
    assert policy is not None
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/=]{44}'$", policy)


def _sources(page: str) -> list[str]:
    return [(a["src"] or "").partition(",")[2] for name, a in _Page(page).elements if name == "audio"]


def _audio(page: str) -> list[tuple[np.ndarray, int]]:
    return [soundfile.read(io.BytesIO(base64.b64decode(source))) for source in _sources(page)]


def test_the_audio_is_the_audio() -> None:
    mono, stereo = _audio(render_report(_report()))
    assert mono[1] == stereo[1] == RATE
    assert np.abs(mono[0] - _tone()[0].numpy()).max() < 1e-4
    assert stereo[0].shape == (RATE // 2, 2)


def test_a_large_page_turns_to_mp3_and_then_leaves_players_out(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = Sound("odd rate", _tone(2.0), 7000)
    report = _report(listening=[Listening("Many", "", [Clip("clip", [sound] * 3)])])
    monkeypatch.setattr(eval.page.listening, "LARGEST_LOSSLESS", 1000)
    page = render_report(report)
    assert page.count("data:audio/mpeg") == 3
    assert _audio(page)[0][1] == RATE  # MP3 has no 7000 Hz
    monkeypatch.setattr(eval.page.listening, "LARGEST_TOTAL", len(base64.b64decode(_sources(page)[0])) + 1)
    page = render_report(report)
    assert page.count("data:audio/mpeg") == 1
    assert page.count("left out of the page for its size") == 2


def test_broken_and_empty_sounds_are_said() -> None:
    broken = _tone()
    broken[0, 5:8] = torch.nan
    broken[0, 8] = torch.inf
    clips = [Clip("a", [Sound("x", broken, RATE), Sound("y", torch.zeros(1, 0), RATE)]), Clip("none", [])]
    page = render_report(_report(listening=[Listening("Bad", "", clips), Listening("Nothing", "", [])]))
    assert "4 samples are not finite" in page
    assert "this sound is empty" in page
    assert "No clips were given" in page
    ((samples, _),) = _audio(page)
    assert np.abs(samples[5:9]).max() == 0.0


def test_an_empty_report_is_a_page() -> None:
    _Page(render_report(Report(title="nothing")))


def test_verdict_counts_what_has_a_baseline() -> None:
    assert "✗ 1 of 2 measures beat every baseline" in render_report(_report())


def test_png_decodes() -> None:
    data = spectrogram(_tone(1.0, channels=2), RATE)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    assert height == 80
    indices = np.arange(200, dtype=np.uint8).reshape(10, 20)
    packed = png(indices, colour_map())
    start = packed.index(b"IDAT") + 4
    rows = np.frombuffer(zlib.decompressobj().decompress(packed[start:]), dtype=np.uint8).reshape(10, 21)
    assert np.array_equal(rows[:, 1:], indices)
    assert width <= 500


def test_lightness_rises_evenly() -> None:
    linear = (colour_map() / 255.0) ** 2.2
    lightness = np.cbrt(linear @ [0.2126, 0.7152, 0.0722])
    assert (np.diff(lightness) > 0).all()


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 7.9), (0.0001, 0.0002), (0, 1234567), (99.0, 99.1)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    marks = ticks(low, high)
    assert 3 <= len(marks) <= 7
    assert all(low - 1e-9 <= m <= high * (1 + 1e-9) for m in marks)


def test_texts() -> None:
    assert [tick_text(v) for v in (20_000, 1_500_000, 0.5, 1e-5, -2.0, 0.0)] == [
        "20k",
        "1.5M",
        "0.5",
        "1e-5",
        "−2",
        "0",
    ]
    assert [number_text(v) for v in (9.432, -24.13, 310.4, 0.0213, 0.0, 83.25)] == [
        "9.43",
        "−24.1",
        "310",
        "0.0213",
        "0",
        "83.2",
    ]
    assert number_text(25.0, "%") == "25.0 %"
    assert [duration_text(s) for s in (0.84, 42.4, 185, 7800)] == [
        "0.8 s",
        "42 s",
        "3 min 05 s",
        "2 h 10 min",
    ]
    assert (
        tag("p", "a<b", tag("br"), class_="x", hidden=True, title=None)
        == '<p class="x" hidden>a&lt;b<br></p>'
    )


def test_curves_from_a_lightning_log(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,train/loss,val/loss\n0,9,3.5,\n0,9,,4.0\n0,19,3.0,\n")
    curves = read_curves(path, {"train/loss": "training", "val/loss": "validation", "absent": "absent"})
    assert curves == {"training": Curve([9.0, 19.0], [3.5, 3.0]), "validation": Curve([9.0], [4.0])}
    with pytest.raises(ValueError, match="2 steps and 1 values"):
        Curve([1, 2], [1.0])


def test_long_curves_are_thinned_and_keep_their_spikes() -> None:
    values = [1.0] * 5000
    values[1234] = 50.0
    chart = Chart("t", "x", "y", {"a": Curve(range(5000), values)}, smooth=True)
    text = render_report(_report(charts=[chart], codebook_counts=None))
    lines = re.findall(r'points="([^"]*)" class="curve', text)
    assert len(lines) == 2
    assert all(len(line.split()) < 700 for line in lines)
    heights = [float(point.split(",")[1]) for point in lines[0].split()]
    assert min(heights) < 25


def test_a_card_makes_a_page() -> None:
    card = Card(
        protocol="quickstart",
        model="run",
        measurements=[Measurement("FAD", 3.0, False, "distance", baselines={"noise": 50.0})],
        num_clips=2,
        durations=Durations.of([1.0, 2.0]),
        embedders=[EmbedderInfo("log-mel", 16_000)],
        missing={"clip-3": "not finite"},
        canaries=[Measurement("FAD of silence", 90.0, False, "")],
    )
    page = _Page(render_report(card_report(card, notes=["a note"])))
    for expected in ("log-mel at 16000 Hz", "clip-3", "Canaries", "a note", "1 of 1 measures"):
        assert expected in page.text


def test_a_card_shows_what_was_published_and_how_a_distance_depends_on_the_number_of_clips() -> None:
    card = Card(
        protocol="p",
        model="m",
        measurements=[Measurement("FAD", 4.5, False, "")],
        num_clips=3,
        num_items=4,
        durations=Durations(3.0, 1.0, 1.0),
        faults={"clip7": "silent"},
        size_curves={"FAD": SizeCurve(((2, 8.0), (4, 6.0)), 4.0, 8.0, 0.987)},
        published=[PublishedRow(NASTY, "a paper", {"FAD": 3.1, "KL": 1.4})],
    )
    report = card_report(card, charts=[Chart("mine", "x", "y", {})])
    assert [chart.title for chart in report.charts] == ["FAD: how it depends on the number of clips", "mine"]
    assert report.charts[0].curves["line"].values == [4.0, 8.0]
    page = _Page(render_report(report))
    for text in ("3 of 4", "clip7 was scored and is silent", "a paper", "3.10", "4.50", "98.7%", NASTY):
        assert text in page.text
