"""MAGNeT as users have it: its clip length, seeds, prompts, a rescorer, an autoregressive beginning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lightning_audio.codec.encodec import EnCodec
from lightning_audio.conditioning.conditioning import Conditioning
from lightning_audio.conditioning.text import SubwordTextConditioner
from lightning_audio.generation.masked import MaskedSettings, MaskedTextToAudio
from lightning_audio.generation.text_to_audio import TextToAudio
from lightning_audio.lm.masked import MaskedLM, generate_hybrid, generate_masked


def build_lm(*, mask_padding: bool = True) -> MaskedLM:
    torch.manual_seed(2)
    text = SubwordTextConditioner(dim=16, num_layers=1, num_buckets=128)
    lm = MaskedLM(
        num_codebooks=3,
        cardinality=20,
        dim=32,
        num_heads=2,
        num_layers=2,
        segment_frames=50,
        conditioning=Conditioning(
            conditioners={"description": text},
            dim=32,
            fuse={"cross": ["description"]},
            mask_padding=mask_padding,
        ),
    )
    with torch.no_grad():
        lm.heads.weight.mul_(4)
    return lm.eval()


@pytest.fixture(scope="module")
def masked(tiny_codec: Callable[..., EnCodec]) -> MaskedTextToAudio:
    settings = MaskedSettings(decoding_steps=(4, 2, 2))
    return MaskedTextToAudio(codec=tiny_codec(), lm=build_lm(), max_duration=1.0, defaults=settings)


def test_a_clip_is_as_long_as_the_model_knows_but_for_broken_spans(masked: MaskedTextToAudio) -> None:
    assert masked.generate(["drums", None]).shape == (2, 1, 48 * 32)
    assert masked.generate_tokens(["drums"], duration=1.0).shape == (1, 3, 48)
    assert masked.generate_tokens(["drums"], duration=0.5, span_arrangement="stride1").shape == (1, 3, 25)


@pytest.mark.parametrize("mask_padding", [True, False])
def test_a_seed_does_not_depend_on_the_batch(tiny_codec: Callable[..., EnCodec], mask_padding: bool) -> None:
    lm = build_lm(mask_padding=mask_padding)
    model = MaskedTextToAudio(codec=tiny_codec(), lm=lm, max_duration=1.0)
    texts = ["a slow piano with a long reverb", "drums"]
    together = model.generate_tokens(texts, seed=5, decoding_steps=(4, 2, 2))
    alone = model.generate_tokens(["drums"], seed=6, decoding_steps=(4, 2, 2))
    assert torch.equal(together[1], alone[0])


def test_it_is_generate_masked_with_items_and_prompt(masked: MaskedTextToAudio) -> None:
    prompt = 0.1 * torch.randn(1, 640)
    tokens = masked.generate_tokens(["a", "b"], seed=[3, 8], prompt=prompt, prompt_sample_rate=1600)
    with torch.inference_mode():
        codes = masked.codec.encode(prompt[None]).codes.expand(2, -1, -1)
    items = [{"description": "a"}, {"description": "b"}]
    expected = generate_masked(
        masked.lm, items, num_frames=50, settings=masked.defaults, seeds=[3, 8], prompt=codes
    )
    assert torch.equal(tokens, expected)
    assert torch.equal(tokens[..., :20], codes)


def test_an_autoregressive_model_begins(masked: MaskedTextToAudio, model: TextToAudio) -> None:
    tokens = masked.generate_tokens(["drums"], seed=4, first=model, first_duration=0.4)
    begun = model.generate_tokens(["drums"], seed=4, duration=0.4)
    assert torch.equal(tokens[..., :20], begun)
    expected = generate_hybrid(
        masked.lm,
        model.lm,
        [{"description": "drums"}],
        num_frames=50,
        autoregressive_frames=20,
        settings=masked.defaults,
        sampling=model.defaults,
        seeds=[4],
    )
    assert torch.equal(tokens, expected)


def test_another_model_rescores(masked: MaskedTextToAudio, model: TextToAudio) -> None:
    plain = masked.generate_tokens(["drums"], seed=4)
    rescored = masked.generate_tokens(["drums"], seed=4, rescorer=model, rescore_weight=0.9)
    assert not torch.equal(plain, rescored)
    assert torch.equal(
        rescored, masked.generate_tokens(["drums"], seed=4, rescorer=model.lm, rescore_weight=0.9)
    )
    assert torch.equal(plain, masked.generate_tokens(["drums"], seed=4, rescorer=model, rescore_weight=0.0))


def test_progress_counts_passes(masked: MaskedTextToAudio) -> None:
    calls: list[tuple[int, int]] = []
    masked.generate(["drums"], progress=lambda done, total: calls.append((done, total)))
    assert calls == [(step, 8) for step in range(1, 9)]


def test_what_it_cannot_do_is_said(masked: MaskedTextToAudio, model: TextToAudio, tiny_codec: Any) -> None:
    other = TextToAudio(codec=tiny_codec(num_filters=2), lm=model.lm, max_duration=1.0)
    for match, options in {
        "1.2 s; this model sees a clip as a whole and was trained on 1.0 s": {"duration": 1.2},
        "duration is nan": {"duration": float("nan")},
        "one duration for all": {"duration": [0.5]},
        "takes no melody; it takes description": {"melody": torch.zeros(1, 9), "melody_sample_rate": 16},
        "unknown sampling settings \\['cfg_coef'\\]": {"cfg_coef": 3.0},
        "first_duration is 0.2 s, but there is no": {"first_duration": 0.2},
        "give first_duration": {"first": model},
        "first_duration is 3 s, but `first` was trained on 1.0": {"first": model, "first_duration": 3},
        "`first` are of another codec": {"first": other, "first_duration": 0.5},
        "`rescorer` are of another codec": {"rescorer": other},
        "2 prompts for 1 items": {"prompt": torch.zeros(2, 1, 320), "prompt_sample_rate": 1600},
        "2 seeds for 1 items": {"seed": [1, 2]},
    }.items():
        with pytest.raises(ValueError, match=match):
            masked.generate(["drums"], **options)  # type: ignore[arg-type]
    unlike = [torch.zeros(1, 320), None]
    with pytest.raises(ValueError, match="prompts of one length"):
        masked.generate(["drums"] * 2, prompt=unlike, prompt_sample_rate=1600)
    with pytest.raises(ValueError, match="nothing to generate"):
        masked.generate([])
