"""The card: it comes back as it went, is written whole, and refuses what it cannot mean."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import lightning_audio.atomic
from eval.bootstrap import Interval
from eval.card import Card, Durations, EmbedderInfo, Measurement, PublishedRow, SizeCurve
from lightning_audio.atomic import write_text


def _measurement(value: float, low: float, high: float, *, higher: bool, baseline: float) -> Measurement:
    return Measurement(
        "score", value, higher, "what it means", interval=Interval(low, high), baselines={"none": baseline}
    )


def _card(**changes: object) -> Card:
    fields = {
        "protocol": "quickstart",
        "model": "run",
        "measurements": [_measurement(2.0, 1.5, 2.5, higher=False, baseline=5.0)],
        "num_clips": 3,
        "durations": Durations.of([1.0, 2.5, 2.0]),
        "embedders": [EmbedderInfo("log-mel", 16_000, hearing="resampler julius, level as given")],
        "missing": {"clip-7": "not finite"},
        "seeds": {"generation": 3},
        "sampling": {"top_k": 250, "temperature": 1.0},
    }
    return Card(**{**fields, **changes})  # type: ignore[arg-type]


def test_round_trip(tmp_path: Path) -> None:
    card = _card(
        canaries=[_measurement(9.0, 8.0, 10.0, higher=False, baseline=1.0)],
        num_items=4,
        faults={"clip-2": "silent"},
        size_curves={"FAD∞": SizeCurve(((500, 3.0), (900, 2.5)), limit=1.9, slope=560.0, r_squared=0.98)},
        published=[PublishedRow("their model", "their paper, Table 1", {"FAD": 3.1})],
    )
    assert Card.load(card.save(tmp_path / "new" / "card.json")) == card
    assert card.versions["torch"]
    assert card.durations == Durations(total=5.5, shortest=1.0, longest=2.5)


def test_a_number_that_diverged_stays_visible(tmp_path: Path) -> None:
    path = _card(measurements=[_measurement(math.nan, 0.0, math.inf, higher=True, baseline=0.0)]).save(
        tmp_path / "card.json"
    )
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    loaded = Card.load(path).measurements[0]
    assert math.isnan(loaded.value)
    assert loaded.interval is not None
    assert loaded.interval.high == math.inf
    assert loaded.beats_baselines is False


@pytest.mark.parametrize(
    ("value", "low", "high", "higher", "baseline", "expected"),
    [
        (2.0, 1.5, 2.5, True, 1.0, True),
        (2.0, 1.5, 2.5, True, 1.7, False),  # the interval does not exclude it
        (2.0, 1.5, 2.5, False, 2.6, True),
        (2.0, 1.5, 2.5, False, 2.4, False),
    ],
)
def test_beats_baselines(
    value: float, low: float, high: float, higher: bool, baseline: float, expected: bool
) -> None:
    assert _measurement(value, low, high, higher=higher, baseline=baseline).beats_baselines is expected


def test_without_a_baseline_there_is_no_verdict() -> None:
    assert Measurement("score", 1.0, True, "").beats_baselines is None


def test_other_versions_and_other_files_are_refused(tmp_path: Path) -> None:
    path = _card().save(tmp_path / "card.json")
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "schema_version": 99}))
    with pytest.raises(ValueError, match="card version 99, this program reads version 2"):
        Card.load(path)
    path.write_text(json.dumps({**data, "schema_version": 1}))
    with pytest.raises(ValueError, match="card version 1, this"):
        Card.load(path)
    path.write_text(json.dumps({**data, "measurements": [{"name": "x"}]}))
    with pytest.raises(ValueError, match="not a whole card"):
        Card.load(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="is not a card"):
        Card.load(path)


def test_an_empty_evaluation_is_no_card() -> None:
    with pytest.raises(ValueError, match="0 clips were evaluated"):
        _card(num_clips=0)
    with pytest.raises(ValueError, match="empty"):
        Durations.of([])


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_text(tmp_path / "card.json", "old")

    def fail(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(lightning_audio.atomic.os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
