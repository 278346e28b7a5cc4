"""The hybrid mode: an autoregressive beginning, the rest masked."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from lightning_audio.conditioning.conditioning import Conditioning
from lightning_audio.lm.autoregressive import Decoding
from lightning_audio.lm.masked import MaskedLM, MaskedSettings, generate_hybrid, generate_masked
from lightning_audio.lm.patterns import DelayPattern
from lightning_audio.lm.sampling import PerItemSampler, SamplingSettings
from lightning_audio.lm.token_lm import TokenLM

ITEMS = [{"description": "a bell"}, {"description": "a slow piano"}]
SETTINGS = MaskedSettings(decoding_steps=(4, 3, 2), max_cfg_coef=2.0)
SAMPLING = SamplingSettings(top_k=0, cfg_coef=1.0)


def beginner(cardinality: int = 16) -> TokenLM:
    torch.manual_seed(2)
    return TokenLM(
        num_codebooks=3,
        cardinality=cardinality,
        dim=16,
        num_heads=2,
        num_layers=1,
        pattern=DelayPattern([0, 1, 2]),
        conditioning=Conditioning(conditioners={}, dim=16, fuse={}),
    ).eval()


def test_the_beginning_is_the_autoregressive_models_and_the_rest_goes_on_from_it(
    tiny_magnet: Callable[..., MaskedLM],
) -> None:
    lm, first = tiny_magnet(), beginner()
    seen: list[tuple[int, int]] = []
    codes = generate_hybrid(
        lm,
        first,
        ITEMS,
        num_frames=24,
        autoregressive_frames=9,
        settings=SETTINGS,
        sampling=SAMPLING,
        seeds=[3, 4],
        progress=lambda done, total: seen.append((done, total)),
    )
    decoding = Decoding(first, ITEMS, num_frames=9, sampler=PerItemSampler(SAMPLING, [3, 4]))
    steps = len(list(decoding))
    assert torch.equal(codes[..., :9], decoding.codes())
    rest = generate_masked(lm, ITEMS, num_frames=24, settings=SETTINGS, seeds=[3, 4], prompt=decoding.codes())
    assert torch.equal(codes, rest)
    assert seen == [(done, steps + 9) for done in range(1, steps + 10)]


def test_a_seed_does_not_depend_on_the_batch(tiny_magnet: Callable[..., MaskedLM]) -> None:
    lm, first = tiny_magnet(), beginner()

    def run(rows: slice) -> torch.Tensor:
        return generate_hybrid(
            lm,
            first,
            ITEMS[rows],
            num_frames=24,
            autoregressive_frames=6,
            settings=SETTINGS,
            sampling=SAMPLING,
            seeds=[3, 4][rows],
        )

    assert torch.equal(run(slice(0, 2))[1], run(slice(1, 2))[0])


def test_what_does_not_fit_is_refused(tiny_magnet: Callable[..., MaskedLM]) -> None:
    lm = tiny_magnet()
    with pytest.raises(ValueError, match="autoregressive model has 3 codebooks of 8 codes"):
        generate_hybrid(lm, beginner(8), ITEMS, num_frames=24, autoregressive_frames=6)
    with pytest.raises(
        ValueError, match="autoregressive_frames is 24; want more than 0 and less than the 24"
    ):
        generate_hybrid(lm, beginner(), ITEMS, num_frames=24, autoregressive_frames=24)
