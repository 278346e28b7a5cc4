"""Static steps give the codes of plain ones, wait for nothing, and can be recorded and replayed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from lightning_audio.conditioning.base import FusedConditions
from lightning_audio.conditioning.conditioning import Conditioning
from lightning_audio.conditioning.labels import LabelConditioner
from lightning_audio.conditioning.text import SubwordTextConditioner
from lightning_audio.layers.transformer import KVCache, StaticKVCache
from lightning_audio.lm.autoregressive import Decoding, plain_steps
from lightning_audio.lm.captured import WARM_UP, Replayed, captured_steps
from lightning_audio.lm.patterns import CoarseFirstPattern, DelayPattern, FlatteningPattern
from lightning_audio.lm.sampling import MultinomialSampler, PerItemSampler, Sampler, SamplingSettings, greedy
from lightning_audio.lm.steps import GuidedLM, Pass, PlainSteps, StaticSteps, Work
from lightning_audio.lm.token_lm import TokenLM

ITEMS = [
    {"description": text, "genre": genre}
    for text, genre in [
        ("a long line about a slow and mellow piano", "rock"),
        ("drums", None),
        (None, "jazz"),
    ]
]
PROMPT = torch.randint(20, (3, 3, 5), generator=torch.Generator().manual_seed(1))
Case = tuple[dict[str, Any], dict[str, Any]]
CASES: dict[str, Case] = {  # what the model is, how it decodes
    "guided in one pass": ({}, {}),
    "guided in two passes": ({}, {"two_step_cfg": True}),
    "guided doubly": ({}, {"cfg_coef_beta": 1.5}),
    "guided doubly in three passes": ({}, {"cfg_coef_beta": 1.5, "two_step_cfg": True}),
    "not guided": ({}, {"cfg_coef": 1.0}),
    "padded prefixes": ({"way": "prepend"}, {}),
    "prefixes of unlike length": ({"way": "prepend"}, {"two_step_cfg": True, "prompt": PROMPT}),
    "prefixes of each item": ({"way": "prepend", "mask_padding": False}, {"apart": True}),
    "texts of each item": ({"mask_padding": False}, {"apart": True}),
    "a condition that moves along": ({"way": "input_interpolate"}, {"prompt": PROMPT}),
    "a prompt": ({}, {"prompt": PROMPT}),
    "items that end early": ({}, {"lengths": [20, 7, 12]}),
    "a window": ({"past_context": 4}, {}),
    "a window over prefixes": ({"past_context": 4, "way": "prepend"}, {}),
    "rotary": ({"rotary": True, "sinusoidal": False}, {}),
    "rotary, xpos and padded prefixes": ({"rotary": True, "xpos": True, "way": "prepend"}, {}),
    "shared heads": ({"kv_repeat": 2, "qk_norm": True}, {}),
    "norm after": ({"pre_norm": False, "layer_scale": 0.5}, {}),
    "not causal": ({"causal": False}, {}),
    "a flat pattern": ({"pattern": FlatteningPattern([0, 1, 1])}, {"prompt": PROMPT}),
    "coarse first": ({"pattern": CoarseFirstPattern(3)}, {"prompt": PROMPT}),
    "bfloat16": ({"dtype": torch.bfloat16}, {}),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def build(
    *,
    way: str = "cross",
    mask_padding: bool = True,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    **options: Any,
) -> TokenLM:
    torch.manual_seed(0)
    conditioning = Conditioning(
        conditioners={
            "description": SubwordTextConditioner(dim=16, num_layers=1, num_buckets=128),
            "genre": LabelConditioner(labels=["rock", "jazz"], dim=4),
        },
        dim=32,
        fuse={way: ["description"], "sum": ["genre"]},
        mask_padding=mask_padding,
    )
    settings: dict[str, Any] = {"pattern": DelayPattern([0, 1, 2]), **options}
    lm = TokenLM(
        num_codebooks=3,
        cardinality=20,
        dim=32,
        num_heads=4,
        num_layers=2,
        conditioning=conditioning,
        **settings,
    )
    with torch.no_grad():
        lm.heads.weight.mul_(5)  # sharper than at the start of training, so that conditions make a difference
    return lm.eval().to(device, dtype)


def decode(lm: TokenLM, sampler: Sampler, stepping: Any, options: dict[str, Any]) -> Tensor:
    """Codes [B, K, T] on the CPU."""
    settings: dict[str, Any] = {"num_frames": 20, "cfg_coef": 2.0, **options}
    decoding = Decoding(lm, ITEMS, sampler=sampler, stepping=stepping, **settings)
    assert list(decoding)[-1] == 20
    return decoding.codes().cpu()


@pytest.fixture(autouse=True)
def short_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few steps need several of them."""
    monkeypatch.setattr(StaticKVCache, "SPAN", 8)


class Listening:
    """A greedy sampler that keeps the logits."""

    def __init__(self) -> None:
        self.heard: list[Tensor] = []

    def __call__(self, logits: Tensor, frames: Tensor) -> Tensor:
        self.heard.append(logits.clone())
        return greedy(logits, frames)


@every_case
def test_static_steps_equal_plain_ones(case: Case) -> None:
    model, options = case
    lm = build(**model)
    plain, static = Listening(), Listening()
    codes = decode(lm, plain, plain_steps, options)
    assert torch.equal(decode(lm, static, StaticSteps, options), codes)
    assert torch.equal(decode(lm, greedy, StaticSteps, options), codes)
    ours, expected = torch.stack(static.heard), torch.stack(plain.heard)
    error = (ours - expected).abs().max() / expected.abs().max()  # guidance makes both larger
    assert error < (1e-5 if lm.heads.weight.dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize("settings", [SamplingSettings(top_k=10), SamplingSettings(top_p=0.8)])
def test_static_steps_draw_what_plain_ones_draw(settings: SamplingSettings) -> None:
    lm = build()
    seeded = PerItemSampler(settings, [3, 14, 15])
    codes = decode(lm, seeded, plain_steps, {"first_frame": 7})
    assert torch.equal(decode(lm, seeded, StaticSteps, {"first_frame": 7}), codes)
    assert not torch.equal(decode(lm, seeded, StaticSteps, {}), codes)  # the frames' numbers reach the noise
    drawn = [
        decode(lm, MultinomialSampler(settings, torch.Generator().manual_seed(5)), stepping, {})
        for stepping in (plain_steps, StaticSteps)
    ]
    assert torch.equal(*drawn)


class Tape(TorchDispatchMode):
    """Keeps each operation with its arguments, as a CUDA graph keeps kernels with their addresses.

    Replaying repeats them on the same tensors with the same numbers: what Python would have decided otherwise
    this time stays as it was. Like a capture, recording leaves all tensors as they were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.before: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self.before.append((value, value.clone()))
        result = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, result))
        return result

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for tensor, value in reversed(self.before):
            tensor.copy_(value)

    def replay(self) -> None:
        made: dict[int, Any] = {}

        def now(value: Any) -> Any:
            return made.get(id(value), value)

        for func, args, kwargs, result in self.calls:
            again = func(*tree_map(now, args), **tree_map(now, kwargs))
            made |= {id(a): b for a, b in zip(tree_flatten(result)[0], tree_flatten(again)[0], strict=True)}


class Tapes:
    """Stands for a CUDA device, and counts what is asked of it."""

    def __init__(self) -> None:
        self.warmed_up = self.recorded = self.replayed = 0

    def warm_up(self, work: Work) -> None:
        self.warmed_up += 1
        work()

    def record(self, work: Work) -> Callable[[], None]:
        self.recorded += 1
        tape = Tape()
        with tape:
            work()

        def replay() -> None:
            self.replayed += 1
            tape.replay()

        return replay


@every_case
@pytest.mark.parametrize("draw", ["greedy", "seeded", "in order"])
def test_recorded_steps_equal_plain_ones(case: Case, draw: str) -> None:
    model, options = case
    lm = build(**model)
    settings = SamplingSettings(top_k=10)

    def sampler() -> Sampler:
        if draw == "in order":
            return MultinomialSampler(settings, torch.Generator().manual_seed(5))
        return greedy if draw == "greedy" else PerItemSampler(settings, [3, 14, 15])

    tapes = Tapes()
    codes = decode(lm, sampler(), lambda plain: StaticSteps(plain, Replayed(tapes)), options)
    assert torch.equal(codes, decode(lm, sampler(), plain_steps, options))
    assert tapes.recorded >= 2
    assert tapes.replayed > 2 * tapes.recorded


def test_a_step_is_recorded_once_for_each_span() -> None:
    tapes = Tapes()
    decode(build(), greedy, lambda plain: StaticSteps(plain, Replayed(tapes)), {})
    # 22 steps; the first is plain, and writes key 0. The others write keys 1 .. 21: 7 in the first span, 8, 6.
    assert (tapes.warmed_up, tapes.recorded, tapes.replayed) == (3 * WARM_UP, 3, 21 - 3 * WARM_UP)


def test_spans_grow_until_the_memory_is_full() -> None:
    transformer = build().transformer
    cache = KVCache(transformer, batch_size=1, capacity=21)
    with pytest.raises(ValueError, match="first steps"):
        StaticKVCache(cache)
    cache.advance(3)
    static = StaticKVCache(cache)
    assert [static.reach(position) for position in (3, 7, 8, 15, 16, 20)] == [8, 8, 16, 16, 21, 21]
    with pytest.raises(ValueError, match="by 1 step at a time, got 2"):
        transformer(torch.zeros(1, 2, 32), cross=torch.zeros(1, 1, 32), cache=static)
    with pytest.raises(ValueError, match="before a cache is made static"):
        transformer(
            torch.zeros(1, 1, 32),
            cross=torch.zeros(1, 1, 32),
            visible=torch.ones(1, 1, dtype=torch.bool),
            cache=static,
        )


def test_nothing_a_static_step_needs_is_on_the_host() -> None:
    """On the `meta` device a value that is read is an error: a step goes through without any."""
    lm = build(way="input_interpolate").to("meta")
    conditions = FusedConditions(sum=torch.zeros(6, 22, 32, device="meta"))
    cache = lm.new_cache(6, 21, conditions)
    cache.advance(1)
    sequence = torch.zeros(3, 3, 22, dtype=torch.long, device="meta")
    sampler = PerItemSampler(SamplingSettings(top_k=10), [1, 2, 3])
    sampler.keys = sampler.keys.to("meta")
    plain = PlainSteps(GuidedLM(lm, [Pass(conditions, cache, 2)], 3.0, None), sampler, sequence, sequence[0])
    plain.fed = 1
    with torch.inference_mode():
        step = StaticSteps(plain)
        for number in range(2, 22):
            step(number)
    with pytest.raises(RuntimeError, match="meta"):
        step.logits.sum().item()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("draw", ["greedy", "seeded", "in order"])
@pytest.mark.parametrize(
    "case",
    [case for case in CASES.values() if "dtype" not in case[0]],
    ids=[n for n in CASES if n != "bfloat16"],
)
def test_captured_steps_equal_plain_ones_on_a_gpu(case: Case, draw: str) -> None:
    model, options = case
    lm = build(device="cuda", **model)
    settings = SamplingSettings(top_k=10)

    def sampler() -> Sampler:
        if draw == "in order":
            return MultinomialSampler(settings, torch.Generator("cuda").manual_seed(5))
        return greedy if draw == "greedy" else PerItemSampler(settings, [3, 14, 15], "cuda")

    codes = decode(lm, sampler(), captured_steps, options)
    assert torch.equal(codes, decode(lm, sampler(), None, options))  # the form that is chosen there
    assert torch.equal(codes, decode(lm, sampler(), plain_steps, options))
