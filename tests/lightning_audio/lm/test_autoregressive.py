"""Generated codes equal the original's, however the work is cut up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_audio.conditioning.conditioning import Conditioning
from lightning_audio.conditioning.text import SubwordTextConditioner
from lightning_audio.lm.autoregressive import Decoding, generate_codes, plain_steps
from lightning_audio.lm.patterns import CoarseFirstPattern, DelayPattern, FlatteningPattern, Pattern
from lightning_audio.lm.sampling import MultinomialSampler, PerItemSampler, SamplingSettings, greedy
from lightning_audio.lm.steps import StaticSteps
from lightning_audio.lm.token_lm import TokenLM


def described(texts: list[str | None]) -> list[dict[str, Any]]:
    return [{"description": text} for text in texts]


@pytest.mark.parametrize(
    "name",
    [
        "greedy_cfg3",
        "greedy_default_cfg",
        "greedy_prompt",
        "greedy_prompt_removed",
        "greedy_two_step",
        "greedy_none_text",
    ],
)
def test_greedy_codes_equal_the_original(name: str, text_case: dict[str, Any], text_lm: TokenLM) -> None:
    case, inputs = text_case["outputs"]["generate"][name], text_case["inputs"]
    texts = [None, None] if name == "greedy_none_text" else inputs["generate_texts"]
    prompt = inputs["prompt"] if "prompt" in name else None
    codes = generate_codes(
        text_lm,
        described(texts),
        num_frames=20,
        sampler=greedy,
        cfg_coef=3.0,  # the model's own: in two steps the original does not look at the call's
        two_step_cfg="two_step" in name,
        prompt=prompt,
    )
    if name == "greedy_prompt_removed":
        codes = codes[..., prompt.shape[-1] :]
    assert torch.equal(codes, case["tokens"])


@pytest.mark.parametrize("name", ["topk", "topp", "multinomial"])
def test_sampled_codes_equal_the_original(name: str, text_case: dict[str, Any], text_lm: TokenLM) -> None:
    case = text_case["outputs"]["generate"][name]
    args = case["args"]
    settings = SamplingSettings(
        temperature=args.get("temp", 1.0), top_k=args["top_k"], top_p=args.get("top_p", 0.0)
    )
    sampler = MultinomialSampler(settings, torch.Generator().manual_seed(case["seed"]))
    items = described(text_case["inputs"]["generate_texts"])
    codes = generate_codes(text_lm, items, num_frames=20, sampler=sampler, cfg_coef=args["cfg_coef"])
    assert torch.equal(codes, case["tokens"])


@pytest.mark.parametrize("name", ["parallel", "coarse_first"])
def test_other_patterns_equal_the_original(
    name: str, reference_path: Callable[..., Path], read_text_lm: Callable[..., TokenLM]
) -> None:
    case = torch.load(reference_path("lm", f"variant_{name}.pt"), weights_only=True)
    codes = generate_codes(
        read_text_lm(case), described(case["inputs"]["texts"]), num_frames=7, sampler=greedy, cfg_coef=3.0
    )
    assert torch.equal(codes, case["outputs"]["greedy"])


def tiny(way: str = "cross", pattern: Pattern | None = None, **kwargs: Any) -> TokenLM:
    torch.manual_seed(0)
    text = SubwordTextConditioner(dim=16, num_layers=1, num_buckets=128)
    lm = TokenLM(
        num_codebooks=3,
        cardinality=20,
        dim=32,
        num_heads=2,
        num_layers=2,
        pattern=pattern or DelayPattern([0, 1, 2]),
        conditioning=Conditioning(conditioners={"description": text}, dim=32, fuse={way: ["description"]}),
        **kwargs,
    )
    with torch.no_grad():
        lm.heads.weight.mul_(5)  # sharper than at the start of training, so that text makes a difference
    return lm.eval()


ITEMS = described(["a long line about a slow and mellow piano", "drums", None, "a dog"])


def uncached(
    lm: TokenLM, items: list[dict[str, Any]], num_frames: int, cfg_coef: float, prompt: Tensor
) -> Tensor:
    """The plain way: the whole sequence through the model, again for every step."""
    codes = torch.full((len(items), lm.num_codebooks, num_frames), -1)
    codes[..., : prompt.shape[-1]] = prompt
    sequence = lm.pattern.build(codes, lm.special)
    cond, null = lm.conditioning(items), lm.conditioning(described([None] * len(items)))
    for step in range(1, sequence.shape[-1]):
        fed = sequence[..., :step]
        logits, free = lm(fed, cond)[:, :, -1], lm(fed, null)[:, :, -1]
        drawn = (free + cfg_coef * (logits - free)).argmax(dim=-1)
        sequence[..., step] = torch.where(sequence[..., step] < 0, drawn, sequence[..., step])
    return lm.pattern.revert(sequence, num_frames)


@pytest.mark.parametrize("two_step", [False, True])
@pytest.mark.parametrize("way", ["cross", "prepend"])
@pytest.mark.parametrize(
    "pattern", [DelayPattern([0, 1, 2]), CoarseFirstPattern(3), FlatteningPattern([0, 1, 1])]
)
def test_cached_equals_uncached(way: str, pattern: Pattern, two_step: bool) -> None:
    lm = tiny(way, pattern)
    prompt = torch.randint(20, (4, 3, 2))
    codes = generate_codes(
        lm, ITEMS, num_frames=8, sampler=greedy, cfg_coef=2.0, two_step_cfg=two_step, prompt=prompt
    )
    with torch.no_grad():
        assert torch.equal(codes, uncached(lm, ITEMS, 8, 2.0, prompt))
    assert torch.equal(codes[..., :2], prompt)


def test_rotary_and_past_context_generate_as_they_train() -> None:
    lm = tiny(rotary=True, sinusoidal=False, past_context=4, kv_repeat=2)
    codes = generate_codes(lm, ITEMS, num_frames=9, sampler=greedy, cfg_coef=2.0)
    with torch.no_grad():
        assert torch.equal(codes, uncached(lm, ITEMS, 9, 2.0, codes[..., :0]))


@pytest.mark.parametrize("way", ["cross", "prepend"])
@pytest.mark.parametrize("two_step", [False, True])
def test_an_item_does_not_depend_on_its_batch(way: str, two_step: bool) -> None:
    lm = tiny(way)
    settings = SamplingSettings(top_k=10)
    seeds = [3, 14, 15, 9]
    options: dict[str, Any] = {"num_frames": 12, "cfg_coef": 3.0, "two_step_cfg": two_step}
    together = generate_codes(lm, ITEMS, sampler=PerItemSampler(settings, seeds), **options)
    for row in range(4):
        alone = generate_codes(
            lm, ITEMS[row : row + 1], sampler=PerItemSampler(settings, seeds[row : row + 1]), **options
        )
        assert torch.equal(alone[0], together[row])
    back = generate_codes(lm, ITEMS[::-1], sampler=PerItemSampler(settings, seeds[::-1]), **options)
    assert torch.equal(back.flip(0), together)
    other = generate_codes(lm, ITEMS, sampler=PerItemSampler(settings, [4, 14, 15, 9]), **options)
    assert not torch.equal(other[0], together[0])


def test_text_matters() -> None:
    lm = tiny()
    codes = generate_codes(lm, ITEMS, num_frames=12, sampler=greedy, cfg_coef=3.0)
    assert not torch.equal(codes[0], codes[1])


def test_frames_are_complete_when_it_says_so() -> None:
    lm = tiny()
    decoding = Decoding(lm, ITEMS[:1], num_frames=6, sampler=greedy)
    seen = []
    for done in decoding:
        codes = decoding.codes()
        seen.append((done, bool((codes[..., :done] >= 0).all()), bool((codes[..., done:] < 0).any())))
    assert [done for done, _, _ in seen] == [0, 0, 1, 2, 3, 4, 5, 6]
    assert all(complete for _, complete, _ in seen)
    assert all(unfinished for _, _, unfinished in seen[:-1])
    assert len(seen) == len(decoding)


class NoWaiting(TorchDispatchMode):
    """Refuses what would make the host wait for a GPU: reading a value, a size that depends on one, or copying."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "lift_fresh")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.overloadpacket.__name__ not in self.WAITS, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("way", ["cross", "prepend"])
@pytest.mark.parametrize("sampler", [greedy, PerItemSampler(SamplingSettings(top_k=10), [1, 2, 3, 4])])
@pytest.mark.parametrize("stepping", [plain_steps, StaticSteps])
def test_no_step_waits_for_the_device(stepping: Any, sampler: Any, way: str) -> None:
    decoding = Decoding(tiny(way), ITEMS, num_frames=6, sampler=sampler, cfg_coef=3.0, stepping=stepping)
    steps = iter(decoding)
    next(steps)
    with NoWaiting():
        assert list(steps)[-1] == 6


def test_prepared_equals_plain() -> None:
    """Decoding reorders the weights; the codes are those of the plain products."""
    lm = tiny()
    options: dict[str, Any] = {"num_frames": 8, "sampler": greedy, "cfg_coef": 2.0}
    prepared = generate_codes(lm, ITEMS, **options)
    assert lm.heads._packed is not None
    lm.prepare_for_inference = lambda: lm.train().eval()  # type: ignore[method-assign]  # drops what was reordered
    assert torch.equal(generate_codes(lm, ITEMS, **options), prepared)
    assert lm.heads._packed is None


def test_bfloat16_weights_generate_nearly_the_same() -> None:
    lm = tiny()
    conditions = lm.conditioning(ITEMS)
    sequence = lm.pattern.build(torch.randint(20, (4, 3, 6)), lm.special)
    with torch.inference_mode():
        wanted = lm(sequence, conditions)
        low = lm.bfloat16().prepare_for_inference()
        conditions = low.conditioning(ITEMS)
        cache = low.new_cache(4, sequence.shape[-1], conditions)
        steps = [low(column, conditions, cache) for column in sequence.split(1, dim=-1)]
    assert cache.keys[0].dtype == torch.float32  # on CPU: attention to bfloat16 is slow there
    assert steps[0].dtype == torch.bfloat16
    error = torch.cat(steps, dim=2).float() - wanted
    assert error.norm() < 0.02 * wanted.norm()  # some roundings in a row, of 0.4 % each


def test_a_prompt_that_fills_the_clip_is_refused() -> None:
    with pytest.raises(ValueError, match="prompt has 5 frames, and 5"):
        generate_codes(tiny(), ITEMS[:1], num_frames=5, sampler=greedy, prompt=torch.zeros(1, 3, 5).long())
