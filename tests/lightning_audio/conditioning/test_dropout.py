"""Dropped conditions: the original's sequences of decisions, and what the options promise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_audio.conditioning.dropout import drop_all, drop_conditions


@pytest.fixture(scope="module")
def decisions(reference_path: Callable[..., Path]) -> dict[str, Any]:
    return torch.load(reference_path("dropout_modules.pt"), weights_only=True)["outputs"]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1234)


def test_guidance_dropout_equals_reference(decisions: dict[str, Any]) -> None:
    draws = generator()
    items = [{"description": "rain"}, {"description": "wind"}]
    for expected in decisions["cfg_p0.3"]:
        dropped = drop_conditions(items, cfg_dropout=0.3, generator=draws)
        assert [item["description"] is None for item in dropped] == [expected, expected]


def test_attribute_dropout_equals_reference(decisions: dict[str, Any]) -> None:
    draws, own = generator(), generator()
    item = {"description": "rain", "genre": "rock", "melody": "wav"}
    probabilities = {"description": 0.4, "genre": 0.2, "melody": 0.5}
    for expected in decisions["attribute"]:
        (dropped,) = drop_conditions(
            [item], attribute_dropout=probabilities, generator=draws, attribute_generator=own
        )
        assert [dropped[name] is None for name in probabilities] == expected


def test_stray_args_entry_of_the_melody_recipe(decisions: dict[str, Any]) -> None:
    draws, own = generator(), generator()
    for expected in decisions["attribute_chroma2music_cfg"]:
        (dropped,) = drop_conditions(
            [{"melody": "wav"}],
            attribute_dropout={"args": 0.0, "melody": 0.5},
            generator=draws,
            attribute_generator=own,
        )
        assert dropped == {"melody": None if expected else "wav"}


def test_per_item_draws_are_independent_and_have_the_right_share() -> None:
    items = [{"description": "rain", "genre": "rock"}] * 4000
    dropped = drop_conditions(
        items, cfg_dropout=0.3, attribute_dropout={"genre": 0.5}, generator=generator(), per_item=True
    )
    assert sum(item["description"] is None for item in dropped) / 4000 == pytest.approx(0.3, abs=0.03)
    genre_only = sum(item["description"] is not None and item["genre"] is None for item in dropped)
    assert genre_only / 4000 == pytest.approx(0.35, abs=0.03)


def test_dropping_keeps_the_input_and_what_is_spared() -> None:
    items = [{"description": "rain", "clap": 1}]
    assert drop_all(items, keep=["clap"]) == [{"description": None, "clap": 1}]
    assert drop_conditions(items, cfg_dropout=1.0, generator=generator(), keep=["clap"])[0]["clap"] == 1
    assert items == [{"description": "rain", "clap": 1}]
    assert drop_conditions(items, generator=generator()) == items


def test_a_resumed_generator_goes_on() -> None:
    draws = generator()
    items = [{"description": "rain"}]
    options: dict[str, Any] = {"cfg_dropout": 0.5, "attribute_dropout": {"description": 0.2}}
    drop_conditions(items, generator=draws, **options)
    state = draws.get_state()
    first = [drop_conditions(items, generator=draws, **options) for _ in range(20)]
    resumed = torch.Generator()
    resumed.set_state(state)
    assert [drop_conditions(items, generator=resumed, **options) for _ in range(20)] == first


def test_a_dropout_is_a_probability() -> None:
    with pytest.raises(ValueError, match=r"1\.5"):
        drop_conditions([{}], cfg_dropout=1.5, generator=generator())
