"""A stereo model that starts from a mono one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_audio.checkpoints.keymap import load_strict
from lightning_audio.conditioning.conditioning import Conditioning
from lightning_audio.lm.patterns import DelayPattern
from lightning_audio.lm.stereo import stereo_weights
from lightning_audio.lm.token_lm import TokenLM


def model(delays: list[int]) -> TokenLM:
    torch.manual_seed(0)
    return TokenLM(
        num_codebooks=len(delays),
        cardinality=16,
        dim=16,
        num_heads=2,
        num_layers=2,
        pattern=DelayPattern(delays),
        conditioning=Conditioning(conditioners={}, dim=16, fuse={}),
        bias_heads=True,
    ).eval()


@pytest.fixture
def pair() -> tuple[TokenLM, TokenLM]:
    mono, stereo = model([0, 1, 2, 3]), model([0, 0, 1, 1, 2, 2, 3, 3])
    torch.nn.init.normal_(mono.heads.bias)
    load_strict(stereo, stereo_weights(mono.state_dict()))
    return mono, stereo


def conditions(lm: TokenLM) -> Any:
    return lm.conditioning([{}, {}])


@torch.no_grad()
def test_both_channels_begin_as_the_mono_model(pair: tuple[TokenLM, TokenLM]) -> None:
    mono, stereo = pair
    codes = torch.randint(16, (2, 4, 10))
    twice = codes.repeat_interleave(2, dim=1)
    logits, there = stereo.predictions(twice, conditions(stereo))
    assert torch.equal(there[::2], there[1::2])
    assert torch.equal(logits[:, ::2], logits[:, 1::2])
    # Two equal embeddings per codebook are summed, as in AudioCraft: what the mono model makes of twice its table.
    mono.embedding.weight *= 2
    wanted, mono_there = mono.predictions(codes, conditions(mono))
    assert torch.equal(there[::2], mono_there)
    torch.testing.assert_close(logits[:, ::2][:, mono_there], wanted[:, mono_there], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_it_cannot_tell_left_from_right_yet(pair: tuple[TokenLM, TokenLM]) -> None:
    _, stereo = pair
    codes = torch.randint(16, (2, 8, 10))
    swapped = codes.unflatten(1, (4, 2)).flip(2).flatten(1, 2)
    found, other = (stereo.predictions(each, conditions(stereo))[0] for each in (codes, swapped))
    torch.testing.assert_close(found, other, rtol=1e-4, atol=1e-5)


def test_other_weights_are_refused() -> None:
    with pytest.raises(ValueError, match=r"lack \['embedding.weight', 'heads.weight'\]"):
        stereo_weights({"encoder.weight": torch.zeros(1)})
