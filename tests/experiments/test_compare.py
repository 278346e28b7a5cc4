"""The verb `compare`: refuses unlike cards, shows like ones, and carries votes from the page to the cards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from eval.bootstrap import Interval
from eval.card import Card, Durations, Measurement
from eval.clip_table import ClipRow, save_clips
from eval.listening_test import empty_votes, plan_test
from experiments.compare import main
from lightning_audio.audio import write

RATE = 8000
KEYS = [f"item{i}" for i in range(6)]


def _evaluation(folder: Path, gain: float, **changes: Any) -> Path:
    """A card with its table and six short sounds."""
    generator = torch.Generator().manual_seed(round(100 * gain))
    scores = {key: gain + i for i, key in enumerate(KEYS)}
    rows = []
    for i, key in enumerate(KEYS):
        wav = gain * torch.rand(1, RATE // 4, generator=generator)
        (folder / "generated").mkdir(parents=True, exist_ok=True)
        write(folder / f"generated/{i}.wav", wav, RATE)
        rows.append(ClipRow(key, f"<b>rain {i}</b>", f"generated/{i}.wav", {"SI-SDR": scores[key]}))
    save_clips(folder, rows)
    fields: dict[str, Any] = {
        "protocol": "quickstart",
        "model": f"runs/{folder.name}",
        "measurements": [
            Measurement("SI-SDR", gain + 2.5, True, "", "dB", Interval(gain, gain + 5.0)),
            Measurement("Fréchet distance", 3.0, False, ""),
        ],
        "num_clips": 6,
        "durations": Durations(1.5, 0.25, 0.25),
        "created": f"now {folder.name}",
        "seeds": {"generation": 0},
    }
    return Card(**{**fields, **changes}).save(folder / "card.json")


def test_the_page_of_two_cards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = _evaluation(tmp_path / "alpha", 0.25), _evaluation(tmp_path / "beta", 0.5)
    page = tmp_path / "page.html"
    main([str(a.parent), str(b), "--out", str(page), "--sounds", "2"])
    text = page.read_text()
    assert "+0.250 dB (+0.250 to +0.250), better" in text
    assert text.count("<audio") == 4
    assert "<b>rain" not in text
    assert "Not comparable" not in text
    assert 'data-value="0.25"' in text
    assert "SI-SDR: 2.750 | 3.000 dB" in capsys.readouterr().out
    first = page.read_bytes()
    main([str(a.parent), str(b), "--out", str(page), "--sounds", "2"])
    assert page.read_bytes() == first


def test_unlike_cards_are_refused_and_shown_only_when_forced(tmp_path: Path) -> None:
    a = _evaluation(tmp_path / "alpha", 0.25)
    b = _evaluation(tmp_path / "beta", 0.5, seeds={"generation": 7}, resampler="sox")
    page = tmp_path / "page.html"
    with pytest.raises(ValueError, match=r'differ in resampler: +\| sox; seeds: \{"generation": 0\}.*: 7\}'):
        main([str(a), str(b), "--out", str(page)])
    assert not page.exists()
    main([str(a), str(b), "--out", str(page), "--force"])
    text = page.read_text()
    assert "Not comparable" in text
    assert ", better" not in text
    with pytest.raises(ValueError, match="differ in"):
        main([str(a), str(b), "--blind", str(page), "--force"])


def test_from_the_blind_page_to_the_cards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = _evaluation(tmp_path / "alpha", 0.25), _evaluation(tmp_path / "beta", 0.5)
    page = tmp_path / "blind.html"
    main([str(a), str(b), "--blind", str(page), "--items", "4", "--seed", "3"])
    text = page.read_text()
    assert text.count("<audio") == 8
    assert "alpha" not in text
    assert "beta" not in text
    test = plan_test([Card.load(a), Card.load(b)], KEYS, seed=3, num_items=4)
    choices = {
        item: ("first" if f == 1 else "second") for item, f in zip(test.items, test.first, strict=True)
    }
    choices[test.items[0]] = "tie"
    votes = tmp_path / "votes.json"
    votes.write_text(json.dumps({**empty_votes(test), "listener": "x", "votes": choices}))
    for _ in range(2):  # a second time changes nothing
        main([str(b), str(a), "--votes", str(votes)])
        (wins_a,) = (m for m in Card.load(a).measurements if m.name.startswith("Preferred"))
        (wins_b,) = (m for m in Card.load(b).measurements if m.name.startswith("Preferred"))
        assert (wins_a.value, wins_b.value) == (0.0, 100.0)
    assert (
        "3 of 3 decided votes prefer it to runs/alpha; 1 more heard no difference" in capsys.readouterr().out
    )
    main([str(a), str(b), "--out", str(tmp_path / "page.html")])
    assert "Preferred by ear" in (tmp_path / "page.html").read_text()


def test_three_cards_and_cards_without_clips(tmp_path: Path) -> None:
    cards = [_evaluation(tmp_path / name, gain) for name, gain in [("a", 0.1), ("b", 0.2), ("c", 0.3)]]
    (tmp_path / "c" / "clips.json").unlink()
    page = tmp_path / "page.html"
    main([*map(str, cards), "--out", str(page)])
    assert page.read_text().count("<audio") == 0
    assert "a beside b beside c" in page.read_text()


def test_what_is_not_there(tmp_path: Path) -> None:
    a, b = _evaluation(tmp_path / "alpha", 0.25), _evaluation(tmp_path / "beta", 0.5)
    with pytest.raises(FileNotFoundError, match=r"there is no card .*nothing"):
        main([str(a), str(tmp_path / "nothing")])
    with pytest.raises(ValueError, match="at least 2 cards, got 1"):
        main([str(a)])
    with pytest.raises(ValueError, match="cards are 1 files"):
        main([str(a), str(a)])
    (tmp_path / "beta" / "generated" / "0.wav").unlink()
    with pytest.raises(FileNotFoundError, match=r"clip item0 is gone from .*beta"):
        main([str(a), str(b), "--out", str(tmp_path / "x.html")])
