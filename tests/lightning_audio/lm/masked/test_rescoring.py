"""Rescoring: what another model says of the draws, and that it decides which of them stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lightning_audio.conditioning.conditioning import Conditioning
from lightning_audio.conditioning.text import SubwordTextConditioner
from lightning_audio.lm.masked import MaskedLM, MaskedSettings, generate_masked
from lightning_audio.lm.masked.rescoring import AutoregressiveRescorer, MaskedRescorer, combined, rescorer_of
from lightning_audio.lm.patterns import DelayPattern, ParallelPattern, Pattern
from lightning_audio.lm.token_lm import TokenLM

TEXTS = [{"description": "a bell"}, {"description": "a slow piano in the rain"}]
SETTINGS = MaskedSettings(decoding_steps=(5, 4, 3), temperature=1.0, max_cfg_coef=2.0)


def musicgen(pattern: Pattern | None = None, cardinality: int = 16) -> TokenLM:
    torch.manual_seed(1)
    text = SubwordTextConditioner(dim=8, num_layers=1, num_buckets=64)
    lm = TokenLM(
        num_codebooks=3,
        cardinality=cardinality,
        dim=16,
        num_heads=2,
        num_layers=2,
        pattern=pattern or DelayPattern([0, 1, 2]),
        conditioning=Conditioning(
            conditioners={"description": text}, dim=16, fuse={"cross": ["description"]}
        ),
    )
    with torch.no_grad():
        lm.heads.weight.mul_(6)
    return lm.eval()


@torch.no_grad()
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_an_autoregressive_model_says_what_it_would_have_said_itself(stage: int) -> None:
    lm = musicgen()
    codes = torch.randint(16, (2, 3, 12))
    codes[:, stage + 1 :] = lm.special
    masked = codes.clone()
    unknown = torch.rand(2, 12) < 0.5
    masked[:, stage][unknown] = lm.special
    found = AutoregressiveRescorer(lm, TEXTS, 12)(masked, codes[:, stage], unknown, stage)
    logits, there = lm.predictions(codes, lm.conditioning(TEXTS))
    own = logits[:, stage].softmax(dim=-1).gather(-1, codes[:, stage, :, None])[..., 0]
    assert int(there[stage].sum()) == 12 - stage  # it has no word on the last ones; the rescorer has
    torch.testing.assert_close(found[:, there[stage]], own[:, there[stage]], rtol=1e-4, atol=1e-6)
    assert ((found > 0) & (found < 1)).all()


@torch.no_grad()
def test_the_last_frame_of_the_last_codebook_depends_on_what_stands_before_it() -> None:
    rescorer = AutoregressiveRescorer(musicgen(), TEXTS[:1], 12)
    codes = torch.randint(16, (1, 3, 12))
    unknown = torch.ones(1, 12, dtype=torch.bool)
    drawn = codes[:, 2].clone()
    first = rescorer(codes, drawn, unknown, 2)
    earlier, later = drawn.clone(), drawn.clone()
    earlier[0, 3] = (earlier[0, 3] + 1) % 16
    changed = rescorer(codes, earlier, unknown, 2)
    assert torch.equal(changed[0, :3], first[0, :3])
    assert changed[0, 11] != first[0, 11]
    later[0, 11] = (later[0, 11] + 1) % 16
    assert torch.equal(rescorer(codes, later, unknown, 2)[0, :11], first[0, :11])


@torch.no_grad()
def test_a_masked_model_judges_behind_the_masks(tiny_magnet: Callable[..., MaskedLM]) -> None:
    lm = tiny_magnet()
    codes = torch.randint(16, (2, 3, 12))
    codes[:, 1, 3:9] = codes[:, 2] = lm.special
    drawn = torch.randint(16, (2, 12))
    found = MaskedRescorer(lm, TEXTS, 12)(codes, drawn, codes[:, 1] == lm.special, 1)
    own = lm.stage_logits(codes, lm.conditioning(TEXTS), 1).softmax(dim=-1)
    torch.testing.assert_close(found, own.gather(-1, drawn[..., None])[..., 0])


def test_weight_zero_is_no_rescoring_and_one_is_only_that(tiny_magnet: Callable[..., MaskedLM]) -> None:
    lm, other = tiny_magnet(), musicgen()
    own, others = torch.rand(2, 5), torch.rand(2, 5)
    torch.testing.assert_close(combined(own, others, 0.25), 0.25 * others + 0.75 * own)
    options: dict[str, Any] = {"num_frames": 24, "settings": SETTINGS, "seeds": [3, 4]}
    plain = generate_masked(lm, TEXTS, **options)
    assert torch.equal(generate_masked(lm, TEXTS, rescorer=other, rescore_weight=0.0, **options), plain)
    judged = generate_masked(lm, TEXTS, rescorer=other, rescore_weight=1.0, **options)
    assert not torch.equal(judged, plain)
    # The first pass of the first codebook draws the same; what is kept of it is another matter.
    alone = generate_masked(lm, TEXTS[1:], rescorer=other, rescore_weight=1.0, **options | {"seeds": [4]})
    assert torch.equal(alone[0], judged[1])


@torch.no_grad()
def test_codes_that_the_rescorer_likes_are_kept(tiny_magnet: Callable[..., MaskedLM]) -> None:
    """A rescorer that knows one code only: more of it is in what stays than without it."""
    lm, other = tiny_magnet(span_length=1), musicgen()
    other.heads.bias = torch.nn.Parameter(torch.full((48,), -30.0))
    other.heads.bias[[5, 21, 37]] = 30.0  # code 5 of each codebook
    settings = MaskedSettings((8, 8, 8), top_p=0.0, max_cfg_coef=1.0, anneal_temperature=False)
    options: dict[str, Any] = {"num_frames": 24, "settings": settings, "seeds": range(16)}
    texts = TEXTS[:1] * 16
    plain = generate_masked(lm, texts, **options)
    judged = generate_masked(lm, texts, rescorer=other, rescore_weight=0.9, **options)
    assert (judged == 5).float().mean() > 1.3 * (plain == 5).float().mean()


def test_models_of_other_codes_are_refused(tiny_magnet: Callable[..., MaskedLM]) -> None:
    lm = tiny_magnet()
    with pytest.raises(ValueError, match="rescorer has 3 codebooks of 8 codes, the model 3 of 16"):
        rescorer_of(musicgen(cardinality=8), lm, TEXTS, 12)
    with pytest.raises(ValueError, match="without a start token the rescorer would see"):
        rescorer_of(musicgen(ParallelPattern(3, has_start=False)), lm, TEXTS, 12)
    with pytest.raises(ValueError, match=r"rescore_weight is a share in \[0, 1\], got 1.5"):
        generate_masked(lm, TEXTS, num_frames=24, settings=SETTINGS, rescorer=lm, rescore_weight=1.5)
    with pytest.raises(ValueError, match="24 frames are more than the 9"):
        generate_masked(lm, TEXTS, num_frames=24, settings=SETTINGS, rescorer=tiny_magnet(segment_frames=9))
