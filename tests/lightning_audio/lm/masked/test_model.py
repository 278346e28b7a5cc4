"""MAGNeT's model: the original's logits; what a stage sees, by gradient; the loss of one head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lightning_audio.conditioning.conditioning import Conditioning
from lightning_audio.conditioning.text import SubwordTextConditioner
from lightning_audio.lm.masked import MaskedLM
from lightning_audio.lm.masked.model import masked_input


def all_logits(lm: MaskedLM, sequence: torch.Tensor, texts: list[str], stage: int) -> torch.Tensor:
    conditions = lm.conditioning([{"description": text} for text in texts])
    mask = lm.context_mask(stage, sequence.shape[-1])
    logits = lm.heads(lm.hidden(sequence, conditions, mask=mask))
    return logits.unflatten(-1, (lm.num_codebooks, lm.cardinality)).transpose(1, 2)


@torch.no_grad()
def test_logits_of_every_stage_equal_the_original(magnet: MaskedLM, span3: dict[str, Any]) -> None:
    codes, texts = span3["inputs"]["codes"], span3["inputs"]["texts"]
    conditions = magnet.conditioning([{"description": text} for text in texts])
    for stage in range(4):
        expected = span3["outputs"][f"logits_stage{stage}"]
        torch.testing.assert_close(all_logits(magnet, codes, texts, stage), expected, rtol=0, atol=1e-4)
        own = magnet.stage_logits(codes, conditions, stage)
        torch.testing.assert_close(own, expected[:, stage], rtol=0, atol=1e-4)


@torch.no_grad()
def test_logits_behind_masks_equal_the_original(magnet: MaskedLM, span3: dict[str, Any]) -> None:
    codes, texts = span3["inputs"]["codes"].clone(), span3["inputs"]["texts"]
    codes[:, 1, ::2] = magnet.special  # so was the vector made
    expected = span3["outputs"]["logits_masked_stage1"]
    torch.testing.assert_close(all_logits(magnet, codes, texts, 1), expected, rtol=0, atol=1e-4)


def test_attention_masks_equal_the_original(magnet: MaskedLM, span3: dict[str, Any]) -> None:
    for stage, mask in enumerate(span3["outputs"]["attn_masks"]):
        ours = magnet.context_mask(stage, 32)  # the segment of 30 frames, aligned
        if mask is None:
            assert ours is None
        else:
            assert ours is not None
            assert torch.equal(ours, mask == 0)
            cropped = magnet.context_mask(stage, 21)
            assert cropped is not None
            assert torch.equal(cropped, ours[:21, :21])
    with pytest.raises(ValueError, match="33 frames are more than the 30"):
        magnet.context_mask(0, 33)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_frame_sees_all_in_the_first_stage_and_its_neighbours_later(
    tiny_magnet: Callable[..., MaskedLM], stage: int
) -> None:
    lm = tiny_magnet()
    mask = lm.context_mask(stage, 20)
    x = torch.randn(1, 20, 16, requires_grad=True)
    text = lm.conditioning([{"description": "a bell"}])
    lm.transformer(x, cross=text.cross, mask=mask)[0, 8].sum().backward()
    assert x.grad is not None
    seen = x.grad.abs().sum(dim=-1)[0] > 0
    reach = 20 if stage == 0 else 4  # two layers of two frames to each side
    assert seen.tolist() == [abs(frame - 8) <= reach for frame in range(20)]


@torch.no_grad()
def test_the_other_items_of_a_batch_do_not_matter(tiny_magnet: Callable[..., MaskedLM]) -> None:
    lm = tiny_magnet()
    codes = torch.randint(16, (3, 3, 12))
    texts = ["a bell", "a slow piano in the rain", ""]
    together = all_logits(lm, codes, texts, 1)
    for row, text in enumerate(texts):
        alone = all_logits(lm, codes[row : row + 1], [text], 1)[0]
        torch.testing.assert_close(together[row], alone, rtol=0, atol=1e-5)


def test_the_loss_equals_the_original(reference_path: Callable[..., Path]) -> None:
    case = torch.load(reference_path("magnet", "training_masks.pt"), weights_only=True)
    inputs, stage = case["inputs"], case["inputs"]["stage"]
    logits, mask = inputs["logits"], inputs["mask"][:, stage]
    conditioning = Conditioning(conditioners={}, dim=7, fuse={})
    lm = MaskedLM(
        num_codebooks=4,
        cardinality=7,
        dim=7,
        num_heads=1,
        num_layers=1,
        segment_frames=9,
        conditioning=conditioning,
    )
    with torch.no_grad():  # the head of the stage lets through what is there, the others say otherwise
        lm.heads.weight.view(4, 7, 7)[stage] = torch.eye(7)
    lm.hidden = lambda *_, **__: logits[:, stage]  # type: ignore[method-assign]
    conditions = lm.conditioning([{}, {}])
    result = lm.stage_loss(inputs["targets"], conditions, stage=stage, masked=mask)
    assert result.loss.item() == pytest.approx(case["outputs"]["ce"].item(), abs=1e-6)
    assert result.first_codebook == stage
    assert result.num_tokens.tolist() == [int(mask.sum())]


def test_the_loss_and_its_gradient_are_those_of_the_plain_way(tiny_magnet: Callable[..., MaskedLM]) -> None:
    lm, stage = tiny_magnet(), 1
    codes, masked = torch.randint(16, (2, 3, 12)), torch.rand(2, 12) < 0.5
    num_frames = torch.tensor([12, 7])
    conditions = lm.conditioning([{"description": "a bell"}, {}])
    lm.stage_loss(codes, conditions, stage=stage, masked=masked, num_frames=num_frames).loss.backward()
    ours = {name: p.grad for name, p in lm.named_parameters() if p.grad is not None}
    lm.zero_grad()

    there = torch.arange(12) < num_frames[:, None]
    sequence = codes.clone()
    sequence[:, 2:] = lm.special
    sequence[:, 1][masked] = lm.special
    sequence.masked_fill_(~there[:, None], lm.special)
    conditions = lm.conditioning([{"description": "a bell"}, {}])
    logits = lm.stage_logits(sequence, conditions, stage)
    counted = masked & there
    F.cross_entropy(logits[counted], codes[:, stage][counted]).backward()
    for name, parameter in lm.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-4, atol=1e-6)
    assert not lm.heads.weight.grad[:16].any()  # type: ignore[index]
    assert not lm.heads.weight.grad[32:].any()  # type: ignore[index]


def test_a_stage_sees_the_codebooks_before_it_only() -> None:
    codes = torch.arange(12).view(1, 3, 4)
    masked = torch.tensor([[True, False, False, True]])
    seen = masked_input(codes, 1, masked, special=99)
    assert seen.tolist() == [[[0, 1, 2, 3], [99, 5, 6, 99], [99, 99, 99, 99]]]


def test_shapes_that_do_not_fit_are_refused(tiny_magnet: Callable[..., MaskedLM]) -> None:
    with pytest.raises(ValueError, match="spans of 3 frames do not fit a segment of 2 frames"):
        tiny_magnet(segment_frames=2)
    with pytest.raises(ValueError, match="context is -1 frames"):
        tiny_magnet(context=-1)
    text = SubwordTextConditioner(dim=8, num_layers=1, num_buckets=64)
    prepended = Conditioning(conditioners={"text": text}, dim=16, fuse={"prepend": ["text"]})
    with pytest.raises(ValueError, match=r"\['text'\] would stand in front of the codes"):
        tiny_magnet(conditioning=prepended)
    lm = tiny_magnet()
    codes = torch.zeros(1, 3, 9, dtype=torch.long)
    with pytest.raises(ValueError, match="without a start token"):
        lm.loss(codes, lm.conditioning([{}]))
    with pytest.raises(ValueError, match="foretells no codes in order"):
        lm.predictions(codes, lm.conditioning([{}]))
