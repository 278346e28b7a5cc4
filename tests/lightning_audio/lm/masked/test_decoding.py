"""Decoding: the original's codes exactly; what a prompt, a seed and the batch change, and what they do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from lightning_audio.lm.masked import SOUND, MaskedLM, MaskedSettings, generate_masked
from lightning_audio.lm.masked.decoding import schedule

TEXTS = [{"description": "a bell"}, {"description": "a slow piano in the rain"}, {}]
STEPS = MaskedSettings(decoding_steps=(4, 3, 2), max_cfg_coef=3.0)


def original_run(lm: MaskedLM, texts: list[str], params: dict[str, Any], **options: Any) -> Tensor:
    """`generate_masked` with parameters under the names of the original."""
    names = {"temp": "temperature", "anneal_temp": "anneal_temperature"}
    settings = MaskedSettings(**{names.get(name, name): value for name, value in params.items()})
    return generate_masked(lm, [{"description": text} for text in texts], settings=settings, **options)


@pytest.mark.parametrize(
    "name",
    [
        "greedy",
        "greedy_noanneal_prod",
        "greedy_stride1",
        "sampled",
        "sampled_topk",
        "greedy_prompt8",
        "greedy_T29",
    ],
)
def test_codes_equal_the_original(magnet: MaskedLM, span3: dict[str, Any], name: str) -> None:
    inputs, case = span3["inputs"], span3["outputs"]["generate"][name]
    params = dict(case["args"])
    num_frames = params.pop("max_gen_len")
    codes = original_run(
        magnet,
        inputs["texts"],
        params,
        num_frames=num_frames,
        generator=None if case["seed"] is None else torch.Generator().manual_seed(case["seed"]),
        prompt=inputs["prompt"] if "prompt" in name else None,
    )
    assert torch.equal(codes, case["tokens"])


@pytest.mark.parametrize("name", ["greedy", "greedy_stride1", "sampled_seed0"])
def test_codes_of_a_packaged_model_equal_the_original(
    reference_path: Callable[..., Path], read_magnet: Callable[..., MaskedLM], name: str
) -> None:
    folder = reference_path("pkg", "magnet_tiny")
    package = torch.load(folder / "state_dict.bin", weights_only=True)
    state = {key: value.float() for key, value in package["best_state"].items()}
    lm = read_magnet(yaml.safe_load(package["xp.cfg"]), state)
    case = torch.load(folder / "expected.pt", weights_only=True)["outputs"]["cases"][name]
    generator = torch.Generator().manual_seed(0) if name == "sampled_seed0" else None
    codes = original_run(lm, case["args"][0], case["params"], num_frames=150, generator=generator)
    assert torch.equal(codes, case["tokens"])


def test_the_schedule_is_the_published_one() -> None:
    passes = schedule(MaskedSettings(), 20, 166)
    assert [passes[0].num_masked, passes[-1].num_masked] == [166, 1]
    assert [now.num_masked for now in passes] == sorted((now.num_masked for now in passes), reverse=True)
    assert passes[0].temperature == pytest.approx(3.0 * 19 / 20)
    assert passes[-1].temperature == 0.01
    assert passes[0].cfg_coef == 10.0
    assert passes[-1].cfg_coef == pytest.approx(1.0, abs=1e-6)
    assert schedule(SOUND, 10, 166)[0].cfg_coef == 20.0
    flat = schedule(MaskedSettings(anneal_temperature=False), 5, 10)
    assert {now.temperature for now in flat} == {3.0}


@pytest.mark.parametrize("arrangement", ["nonoverlap", "stride1"])
def test_an_item_depends_on_its_own_seed_and_text_only(
    tiny_magnet: Callable[..., MaskedLM], arrangement: str
) -> None:
    lm = tiny_magnet()
    settings = MaskedSettings(decoding_steps=(4, 3, 2), max_cfg_coef=3.0, span_arrangement=arrangement)
    together = generate_masked(lm, TEXTS, num_frames=24, settings=settings, seeds=[5, 6, 7])
    for row, seed in enumerate([5, 6, 7]):
        alone = generate_masked(lm, TEXTS[row : row + 1], num_frames=24, settings=settings, seeds=[seed])
        assert torch.equal(alone[0], together[row])
    swapped = generate_masked(lm, TEXTS[::-1], num_frames=24, settings=settings, seeds=[7, 6, 5])
    assert torch.equal(swapped.flip(0), together)
    others = generate_masked(lm, TEXTS, num_frames=24, settings=settings, seeds=[8, 9, 10])
    assert (others != together).flatten(1).any(dim=1).all()


def test_with_seeds_the_padding_of_other_texts_does_not_matter(
    tiny_magnet: Callable[..., MaskedLM],
) -> None:
    lm = tiny_magnet()
    lm.conditioning.mask_padding = False  # AudioCraft's way, in which padding is attended to
    options: dict[str, Any] = {"num_frames": 24, "settings": STEPS}
    together = generate_masked(lm, TEXTS[:2], seeds=[0, 1], **options)
    alone = generate_masked(lm, TEXTS[:1], seeds=[0], **options)
    assert torch.equal(alone[0], together[0])
    assert not torch.equal(generate_masked(lm, TEXTS[:2], **options)[0], alone[0])


def test_draws_at_one_temperature_follow_the_model(tiny_magnet: Callable[..., MaskedLM]) -> None:
    """One pass, one codebook: the share of each code is its probability."""
    lm = tiny_magnet(segment_frames=8, span_length=1)
    settings = MaskedSettings(
        (1, 1, 1), temperature=1.0, top_p=0.0, anneal_temperature=False, max_cfg_coef=1.0
    )
    rows = 4000
    text = TEXTS[0]
    codes = generate_masked(lm, [text] * rows, num_frames=1, settings=settings, seeds=range(rows))[:, 0, 0]
    masks = torch.full((1, 3, 1), lm.special)
    with torch.no_grad():
        expected = lm.stage_logits(masks, lm.conditioning([text]), 0)[0, 0].softmax(dim=-1)
    found = torch.bincount(codes, minlength=16) / rows
    torch.testing.assert_close(found, expected, rtol=0, atol=0.03)


@pytest.mark.parametrize("arrangement", ["nonoverlap", "stride1"])
@pytest.mark.parametrize("prompt_frames", [3, 7])
def test_a_prompt_is_kept_and_matters(
    tiny_magnet: Callable[..., MaskedLM], arrangement: str, prompt_frames: int
) -> None:
    lm = tiny_magnet()
    settings = MaskedSettings(decoding_steps=(4, 3, 2), span_arrangement=arrangement, use_sampling=False)
    prompts = torch.randint(16, (2, 1, 3, prompt_frames))
    codes = [
        generate_masked(lm, TEXTS[:1], num_frames=23, settings=settings, prompt=prompt) for prompt in prompts
    ]
    for made, prompt in zip(codes, prompts, strict=True):
        assert torch.equal(made[..., :prompt_frames], prompt)
        assert made.max() < lm.special
        assert made.shape[-1] == (21 if arrangement == "nonoverlap" else 23)
    assert not torch.equal(codes[0][..., prompt_frames:], codes[1][..., prompt_frames:])


def test_text_and_its_guidance_matter(tiny_magnet: Callable[..., MaskedLM]) -> None:
    lm = tiny_magnet()

    def codes(text: str, coef: float) -> Tensor:
        settings = MaskedSettings((4, 3, 2), max_cfg_coef=coef, use_sampling=False)
        return generate_masked(lm, [{"description": text}], num_frames=24, settings=settings)

    bell = codes("a bell", 5.0)
    assert not torch.equal(bell, codes("loud drums", 5.0))
    assert not torch.equal(bell, codes("a bell", 1.0))


def test_nothing_waits_for_the_host(tiny_magnet: Callable[..., MaskedLM]) -> None:
    """On the meta device there are no values that a step could ask for."""
    lm = tiny_magnet().to("meta")
    for arrangement in ("nonoverlap", "stride1"):
        settings = MaskedSettings((4, 3, 2), span_arrangement=arrangement)
        codes = generate_masked(lm, TEXTS, num_frames=24, settings=settings, rescorer=lm)
        assert codes.device.type == "meta"
        assert codes.shape == (3, 3, 24)


def test_the_conditions_are_projected_once(
    tiny_magnet: Callable[..., MaskedLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = tiny_magnet()
    calls: list[int] = []
    for layer in lm.transformer.layers:
        layer.cross_attention.key_value.register_forward_hook(lambda *_: calls.append(1))
    lm.conditioning.register_forward_hook(lambda *_: calls.append(1))
    seen = []
    generate_masked(
        lm, TEXTS, num_frames=24, settings=STEPS, progress=lambda done, total: seen.append((done, total))
    )
    assert len(calls) == 3  # two layers, and the conditioning itself
    assert seen == [(done, 9) for done in range(1, 10)]


def test_bad_settings_are_refused(tiny_magnet: Callable[..., MaskedLM]) -> None:
    lm = tiny_magnet()
    with pytest.raises(ValueError, match="are for 4 codebooks, the model has 3"):
        generate_masked(lm, TEXTS, num_frames=24)
    with pytest.raises(ValueError, match="48 frames are more than the 24"):
        generate_masked(lm, TEXTS, num_frames=48, settings=STEPS)
    with pytest.raises(ValueError, match="2 frames were asked for; a span alone has 3"):
        generate_masked(lm, TEXTS, num_frames=2, settings=STEPS)
    prompt = torch.zeros(3, 3, 9, dtype=torch.long)
    with pytest.raises(ValueError, match="the prompt has 9 frames, and 11 in all were asked for, of which 9"):
        generate_masked(lm, TEXTS, num_frames=11, settings=STEPS, prompt=prompt)
    with pytest.raises(ValueError, match="2 seeds for 3 items"):
        generate_masked(lm, TEXTS, num_frames=24, settings=STEPS, seeds=[1, 2])
    with pytest.raises(ValueError, match="unknown span_arrangement 'stride2'"):
        MaskedSettings(span_arrangement="stride2")
    with pytest.raises(ValueError, match="unknown span_scoring 'mean'"):
        MaskedSettings(span_scoring="mean")
    with pytest.raises(ValueError, match=r"at least one decoding step per codebook, got \[4, 0, 2\]"):
        MaskedSettings(decoding_steps=(4, 0, 2))
    with pytest.raises(ValueError, match="top_p in"):
        MaskedSettings(top_p=1.5)
