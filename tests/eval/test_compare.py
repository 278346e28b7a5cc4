"""Cards that may be compared and cards that may not, and differences in pairs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from eval.bootstrap import bootstrap_mean
from eval.card import Card, Durations, EmbedderInfo, Measurement
from eval.clip_table import ClipRow
from eval.compare import compare_measurements, disagreements, paired_difference, scores_by_key


def _card(**changes: Any) -> Card:
    card = Card(
        protocol="musicgen-musiccaps",
        model="runs/a",
        model_hash="aaaa",
        measurements=[Measurement("SI-SDR", 3.0, True, "", "dB"), Measurement("FAD", 5.0, False, "")],
        num_clips=4,
        durations=Durations(total=40.0, shortest=10.0, longest=10.0),
        embedders=[EmbedderInfo("vggish", 16000, "beef")],
        resampler="julius",
        loudness="-14 LUFS",
        reference="MusicCaps",
        reference_hash="1234",
        seeds={"generation": 1},
        sampling={"top_k": 250, "cfg_coef": 3.0},
    )
    return replace(card, **changes)


def test_another_model_may_be_compared() -> None:
    other = _card(
        model="runs/b", model_hash="bbbb", device="cuda:0", created="later", versions={"torch": "9"}
    )
    assert disagreements([_card(), other]) == []


@pytest.mark.parametrize(
    ("changes", "name", "values"),
    [
        ({"protocol": "magnet"}, "protocol", ["musicgen-musiccaps", "magnet"]),
        ({"embedders": [EmbedderInfo("vggish", 16000, "dead")]}, "embedders", ["beef", "dead"]),
        ({"embedders": [EmbedderInfo("clap", 16000, "beef")]}, "embedders", ["vggish", "clap"]),
        ({"embedders": [EmbedderInfo("vggish", 16000, "beef", "peak -1")]}, "embedders", ["peak -1"]),
        ({"resampler": "sox"}, "resampler", ["julius", "sox"]),
        ({"loudness": "as generated"}, "loudness", ["-14 LUFS", "as generated"]),
        ({"reference_hash": "5678"}, "reference", ["1234", "5678"]),
        ({"num_clips": 3}, "number of clips", ["4", "3"]),
        ({"durations": Durations(20.0, 5.0, 5.0)}, "durations", ["10.000", "5.000"]),
        ({"seeds": {"generation": 2}}, "seeds", ["1", "2"]),
        ({"sampling": {"top_k": 0}}, "sampling top_k", ["250", "0"]),
        ({"schema_version": 99}, "card version", ["99"]),
    ],
)
def test_what_must_agree(changes: dict[str, Any], name: str, values: list[str]) -> None:
    (found,) = disagreements([_card(), _card(**changes)])
    assert found.name == name
    for value in values:
        assert value in str(found)


def test_settings_that_only_one_kind_of_model_has_do_not_count() -> None:
    assert disagreements([_card(), _card(sampling={"top_k": 250, "decoding_steps": [20, 10]})]) == []


def test_the_order_of_embedders_does_not_count() -> None:
    a, b = EmbedderInfo("a", 1), EmbedderInfo("b", 1)
    assert disagreements([_card(embedders=[a, b]), _card(embedders=[b, a])]) == []


def test_one_card_is_no_comparison() -> None:
    with pytest.raises(ValueError, match="at least 2 cards, got 1"):
        disagreements([_card()])


def test_a_paired_difference_is_the_mean_of_the_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    hard = 10.0 * torch.randn(50, generator=generator, dtype=torch.float64)
    noise = 0.2 * torch.randn(50, generator=generator, dtype=torch.float64)
    first = {f"{i}": float(v) for i, v in enumerate(hard)}
    other = {f"{i}": float(v) for i, v in enumerate(hard + 0.5 + noise)}
    found = paired_difference(first, other)
    assert found is not None
    assert found.interval is not None
    assert found.mean == pytest.approx(float((0.5 + noise).mean()), abs=1e-12)
    assert found.interval == bootstrap_mean(
        torch.tensor([other[k] - first[k] for k in first], dtype=torch.float64)
    )
    # Clips differ by 10 dB from one another, systems by half of one: only in pairs does that show.
    assert found.is_better(True) is True
    assert found.is_better(False) is False
    alone = bootstrap_mean(torch.tensor(list(first.values())))
    assert alone.low < sum(other.values()) / 50 < alone.high


def test_pairs_are_by_name_and_only_of_clips_that_both_scored() -> None:
    tables = [
        [ClipRow("b", scores={"x": 2.0}), ClipRow("a", scores={"x": 1.0}), ClipRow("c", scores={"x": 9.0})],
        [
            ClipRow("a", scores={"x": 2.0}),
            ClipRow("b", scores={"x": 4.0}),
            ClipRow("c", scores={"x": math.nan}),
        ],
    ]
    found = paired_difference(*(scores_by_key(table, "x") for table in tables))
    assert found is not None
    assert (found.mean, found.num_clips) == (1.5, 2)
    assert paired_difference({"a": 1.0}, {"b": 1.0}) is None


def test_nothing_is_claimed_where_the_interval_holds_zero() -> None:
    same = {str(i): float(i % 3) for i in range(9)}
    other = {str(i): float((i + 1) % 3) for i in range(9)}
    found = paired_difference(same, other)
    assert found is not None
    assert found.is_better(True) is None
    single = paired_difference({"a": 1.0}, {"a": 2.0})
    assert single is not None
    assert single.interval is None
    assert single.is_better(True) is None


def test_every_measurement_of_any_card() -> None:
    other = _card(
        measurements=[Measurement("CLAP", 0.3, True, ""), Measurement("SI-SDR", 4.0, True, "", "dB")]
    )
    tables = [[ClipRow("a", scores={"SI-SDR": 3.0})], [ClipRow("a", scores={"SI-SDR": 4.0})]]
    compared = compare_measurements([_card(), other], tables)
    assert [c.name for c in compared] == ["SI-SDR", "FAD", "CLAP"]
    assert [m and m.value for m in compared[1].measurements] == [5.0, None]
    assert compared[2].any.value == 0.3
    assert compared[0].differences[1] is not None
    assert compared[0].differences[1].mean == 1.0
    assert compared[1].differences == [None, None]


def test_one_name_for_two_things() -> None:
    other = _card(measurements=[Measurement("FAD", 5.0, True, "")])
    with pytest.raises(ValueError, match="different things by 'FAD'"):
        compare_measurements([_card(), other], [[], []])
