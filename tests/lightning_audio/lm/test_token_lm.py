"""The language model equals the original implementation: logits, loss and gradients; and looks not ahead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_audio.checkpoints.audiocraft.lm import convert_state
from lightning_audio.checkpoints.keymap import load_strict
from lightning_audio.conditioning.base import Condition, FusedConditions
from lightning_audio.conditioning.conditioning import Conditioning
from lightning_audio.conditioning.labels import HashedLabelConditioner, LabelConditioner
from lightning_audio.conditioning.text import SubwordTextConditioner
from lightning_audio.lm.autoregressive import generate_codes
from lightning_audio.lm.patterns import DelayPattern, ParallelPattern
from lightning_audio.lm.sampling import greedy
from lightning_audio.lm.token_lm import TokenLM


def described(texts: list[str | None]) -> list[dict[str, Any]]:
    return [{"description": text} for text in texts]


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_logits_equal_the_original(text_case: dict[str, Any], text_lm: TokenLM) -> None:
    inputs, outputs = text_case["inputs"], text_case["outputs"]
    with torch.no_grad():
        conditions = text_lm.conditioning(described(inputs["texts"]))
        assert conditions.cross is not None
        close(conditions.cross, outputs["condition_tensors"]["description"]["cond"])
        close(text_lm(outputs["sequence"], conditions), outputs["sequence_logits"])
        logits, there = text_lm.predictions(inputs["codes"], conditions)
    assert torch.equal(there.expand(3, -1, -1), outputs["mask"])
    close(logits[:, there], outputs["logits"][:, there])


def test_loss_and_gradients_equal_the_original(
    text_case: dict[str, Any], read_text_lm: Callable[..., TokenLM]
) -> None:
    outputs = text_case["outputs"]
    lm = read_text_lm()
    cross = outputs["condition_tensors"]["description"]["cond"].clone().requires_grad_()
    counted = outputs["padding_mask"][:, 0]
    result = lm.loss(text_case["inputs"]["codes"], FusedConditions(cross=cross), counted=counted)
    result.loss.backward()
    close(result.loss, outputs["ce"])
    close(result.per_codebook, outputs["ce_per_codebook"])
    close(cross.grad, outputs["grad_condition"], 1e-5)
    ours = {name: parameter.grad for name, parameter in lm.named_parameters()}
    theirs = convert_state(outputs["grads"])
    # The vectors hold some codebooks only: the first embedding and the last head.
    close(ours.pop("embedding.weight")[:65], theirs.pop("embedding.weight"), 1e-5)
    close(ours.pop("heads.weight")[-64:], theirs.pop("heads.weight"), 1e-5)
    assert len(theirs) > 10
    for name, gradient in theirs.items():
        close(ours[name], gradient, 1e-5)


@pytest.mark.parametrize("name", ["parallel", "coarse_first"])
def test_other_patterns_equal_the_original(
    name: str, reference_path: Callable[..., Path], read_text_lm: Callable[..., TokenLM]
) -> None:
    case = torch.load(reference_path("lm", f"variant_{name}.pt"), weights_only=True)
    lm, outputs = read_text_lm(case), case["outputs"]
    with torch.no_grad():
        conditions = lm.conditioning(described(case["inputs"]["texts"]))
        logits, there = lm.predictions(case["inputs"]["codes"], conditions)
    assert torch.equal(there.expand(2, -1, -1), outputs["mask"])
    close(logits[:, there], outputs["logits"][:, there])


def test_summed_labels_and_cross_attended_words_equal_the_original(
    reference_path: Callable[..., Path],
) -> None:
    case = torch.load(reference_path("lm", "lut_cross.pt"), weights_only=True)
    config, outputs, tokens = case["config"], case["outputs"], case["inputs"]["tokens"]
    conditioners = {
        name: HashedLabelConditioner(num_bins=bins, dim=dim) for name, (bins, dim) in config["lut"].items()
    }
    fuse = {way: names for way, names in config["fuse2cond"].items() if names}
    lm = TokenLM(
        num_codebooks=config["n_q"],
        cardinality=config["card"],
        dim=config["dim"],
        num_heads=config["num_heads"],
        num_layers=config["num_layers"],
        pattern=DelayPattern([0, 1]),
        conditioning=Conditioning(
            conditioners=conditioners, dim=config["dim"], fuse=fuse, mask_padding=False
        ),
        pre_norm=False,
        bias_attention=True,
        bias_feedforward=True,
        bias_heads=True,
        activation=torch.nn.functional.relu,
    ).eval()
    load_strict(lm, convert_state(case["state_dict"]))
    prepared = {name: {"ids": ids["ids"].long(), "mask": ids["mask"].bool()} for name, ids in tokens.items()}
    with torch.no_grad():
        conditions = lm.conditioning.fuse(lm.conditioning.encode(prepared))
        logits, there = lm.predictions(case["inputs"]["codes"], conditions)
    assert torch.equal(there.expand(2, -1, -1), outputs["mask"])
    close(logits[:, there], outputs["logits"][:, there], 1e-5)


def tiny(fuse: dict[str, list[str]], *, pattern: Any = None, **kwargs: Any) -> TokenLM:
    torch.manual_seed(0)
    names = [name for group in fuse.values() for name in group]
    conditioners = {
        name: LabelConditioner(labels=["rock", "jazz"], dim=4)
        if name == "genre"
        else SubwordTextConditioner(dim=8, num_layers=1, num_buckets=64)
        for name in names
    }
    return TokenLM(
        num_codebooks=3,
        cardinality=10,
        dim=16,
        num_heads=2,
        num_layers=2,
        pattern=pattern or DelayPattern([0, 1, 2]),
        conditioning=Conditioning(conditioners=conditioners, dim=16, fuse=fuse),
        **kwargs,
    ).eval()


ITEMS = [
    {"description": "a long line about a slow piano", "genre": "rock"},
    {"description": "drums", "genre": "jazz"},
    {"description": None, "genre": None},
]


@pytest.mark.parametrize(
    "fuse",
    [
        {"cross": ["description"]},
        {"prepend": ["description"]},
        {"prepend": ["genre", "description"]},
        {"cross": ["description"], "sum": ["genre"]},
        {},
    ],
)
def test_an_item_is_the_same_alone_and_in_a_batch(fuse: dict[str, list[str]]) -> None:
    """Text is padded to the longest in the batch; what a model makes of an item does not change."""
    lm = tiny(fuse)
    codes = torch.randint(10, (3, 3, 7))
    with torch.no_grad():
        logits, there = lm.predictions(codes, lm.conditioning(ITEMS))
        for row, item in enumerate(ITEMS):
            alone, _ = lm.predictions(codes[row : row + 1], lm.conditioning([item]))
            torch.testing.assert_close(alone[0, there], logits[row, there], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "pattern", [DelayPattern([0, 0, 2]), ParallelPattern(3), DelayPattern([0, 1, 2], flatten_first=2)]
)
def test_a_code_is_foretold_from_earlier_steps_only(pattern: Any) -> None:
    lm = tiny({"cross": ["description"]}, pattern=pattern)
    codes = torch.randint(10, (1, 3, 6))
    steps = pattern.steps(6)
    with torch.no_grad():
        conditions = lm.conditioning(ITEMS[:1])
        before, there = lm.predictions(codes, conditions)
        for k in range(3):
            changed = codes.clone()
            changed[0, k, 1] = (changed[0, k, 1] + 1) % 10
            after, _ = lm.predictions(changed, conditions)
            moved = (after - before).abs().amax(dim=-1)[0] > 1e-6
            assert not bool((moved & (steps <= steps[k, 1])).any())
            assert bool((moved & there).any())


def test_loss_is_that_of_the_predictions_and_leaves_out_padding() -> None:
    lm = tiny({"cross": ["description"]})
    codes = torch.randint(10, (3, 3, 8))
    num_frames = torch.tensor([8, 5, 2])
    conditions = lm.conditioning(ITEMS)
    result = lm.loss(codes, conditions, num_frames=num_frames)
    padded = torch.arange(8) >= num_frames[:, None, None]
    logits, there = lm.predictions(codes.masked_fill(padded, lm.special), conditions)
    expected = []
    for k in range(3):
        counted = there[k] & ~padded[:, 0]
        expected.append(torch.nn.functional.cross_entropy(logits[:, k][counted], codes[:, k][counted]))
        assert result.num_tokens[k] == counted.sum()
    close(result.per_codebook, torch.stack(expected).detach(), 1e-5)
    close(result.loss, torch.stack(expected).mean(), 1e-5)
    changed = torch.where(padded, (codes + 3) % 10, codes)
    assert torch.equal(lm.loss(changed, conditions, num_frames=num_frames).loss, result.loss)


def test_a_prefix_is_fed_once_and_equals_the_full_pass() -> None:
    lm = tiny({"prepend": ["description"], "sum": ["genre"]})
    sequence = lm.pattern.build(torch.randint(10, (3, 3, 6)), lm.special)
    with torch.no_grad():
        conditions = lm.conditioning(ITEMS)
        full = lm(sequence, conditions)
        cache = lm.new_cache(3, sequence.shape[-1], conditions)
        parts = [lm(step, conditions, cache) for step in sequence.split([1, 3, 1, 4], dim=-1)]
    torch.testing.assert_close(torch.cat(parts, dim=2), full, rtol=1e-5, atol=1e-5)


def test_conditions_that_change_along_the_sequence_keep_their_place() -> None:
    lm = tiny({})
    sequence = lm.pattern.build(torch.randint(10, (2, 3, 4)), lm.special)
    conditions = FusedConditions(sum=torch.randn(2, sequence.shape[-1], 16), prepend=torch.randn(2, 3, 16))
    with torch.no_grad():
        full = lm(sequence, conditions)
        cache = lm.new_cache(2, sequence.shape[-1], conditions)
        parts = [lm(step, conditions, cache) for step in sequence.split(1, dim=-1)]
        moved = lm(sequence, replace(conditions, sum=conditions.sum.roll(1, dims=1)))
    torch.testing.assert_close(torch.cat(parts, dim=2), full, rtol=1e-5, atol=1e-5)
    assert (moved - full).abs().max() > 1e-3


def test_initial_weights_follow_the_recipe() -> None:
    lm = tiny({"cross": ["description"]})
    for depth, layer in enumerate(lm.transformer.layers, start=1):
        weight = layer.feedforward.contract.weight.detach()
        std = 64**-0.5 / (2 * depth) ** 0.5
        assert weight.std() == pytest.approx(std, rel=0.1)
        assert weight.abs().max() <= 3 * std
    assert lm.embedding.weight.detach().std() == pytest.approx(0.25, rel=0.1)


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="for 4 codebooks, the model has 3"):
        tiny({}, pattern=DelayPattern([0, 1, 2, 3]))
    lm = tiny({}, pattern=ParallelPattern(3, has_start=False))
    with pytest.raises(ValueError, match="start token"):
        lm.loss(torch.zeros(1, 3, 4, dtype=torch.long), FusedConditions())
    with pytest.raises(ValueError, match="start token"):
        generate_codes(lm, [{}], num_frames=4, sampler=greedy)


def test_condition_rows_come_from_their_own_items() -> None:
    lm = tiny({"cross": ["description"]})
    encoded = lm.conditioning.encode(lm.conditioning.prepare(ITEMS))["description"]
    assert isinstance(encoded, Condition)
    assert encoded.mask.sum(dim=1).tolist() == [7, 1, 0]
