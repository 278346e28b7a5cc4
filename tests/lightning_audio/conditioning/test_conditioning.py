"""Fusing: order, masks, padding; and the small methods of the values."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_audio.batch import AudioBatch
from lightning_audio.conditioning.base import Condition, Conditioner, FusedConditions, WavCondition
from lightning_audio.conditioning.conditioning import Conditioning, attributes_of
from lightning_audio.conditioning.labels import HashedLabelConditioner


class LoudnessConditioner(Conditioner):
    """A waveform conditioner in ten lines: one vector per second, its rms and peak."""

    rank = 1
    dim = 2

    def prepare(self, values: Sequence[Any], *, rng: random.Random | None = None) -> dict[str, Tensor]:
        rows = [torch.zeros(0, 2) if v is None else self._measure(v) for v in values]
        lengths = torch.tensor([len(row) for row in rows])
        steps = max(1, int(lengths.max()))
        mask = torch.arange(steps) < lengths[:, None]
        return {
            "x": torch.stack([torch.cat([r, torch.zeros(steps - len(r), 2)]) for r in rows]),
            "mask": mask,
        }

    def _measure(self, condition: WavCondition) -> Tensor:
        seconds = torch.stack(condition.wav.mean(0).split(condition.sample_rate))
        return torch.stack([seconds.square().mean(1).sqrt(), seconds.abs().amax(1)], dim=1)

    def forward(self, prepared: dict[str, Tensor]) -> Condition:
        return Condition(prepared["x"], prepared["mask"])


def words(dim: int = 6) -> HashedLabelConditioner:
    return HashedLabelConditioner(num_bins=50, dim=dim, split_words=True)


def make(fuse: dict[str, list[str]], **options: Any) -> Conditioning:
    torch.manual_seed(0)
    names = [name for group in fuse.values() for name in group]
    return Conditioning(
        conditioners={n: LoudnessConditioner() if n == "melody" else words() for n in names},
        dim=8,
        fuse=fuse,
        **options,
    )


WAV = WavCondition(torch.linspace(-1, 1, 64).repeat(1, 2), 32)  # 4 s at 32 Hz


def test_prefix_is_wav_then_text_whatever_the_config_says() -> None:
    for names in (["melody", "description"], ["description", "melody"]):
        conditioning = make({"prepend": names})
        fused = conditioning([{"description": "soft rain", "melody": WAV}, {"description": "a b c"}])
        conditions = conditioning.encode(conditioning.prepare([{"description": "soft rain", "melody": WAV}]))
        assert fused.prepend is not None
        assert fused.prepend_mask is not None
        assert fused.prepend.shape == (2, 4 + 3, 8)
        torch.testing.assert_close(fused.prepend[:1, :4], conditions["melody"].embedding)
        torch.testing.assert_close(fused.prepend[:1, 4:6], conditions["description"].embedding)
        assert fused.prepend_mask.tolist() == [[True] * 6 + [False], [False] * 4 + [True] * 3]
        assert fused.prepend[0, 6].abs().sum() == 0


def test_padding_is_zero_and_a_null_row_has_something_to_attend_to() -> None:
    conditioning = make({"cross": ["description", "lyrics"]})
    fused = conditioning([{"description": "a b c", "lyrics": "la"}, {}])
    assert fused.cross is not None
    assert fused.cross_mask is not None
    assert fused.cross_mask.tolist() == [[True] * 4, [True, False, False, False]]
    assert fused.cross[1].abs().sum() == 0
    assert make({"cross": ["description"]}, mask_padding=False)([{}]).cross_mask is None


def test_sum_and_interpolation() -> None:
    conditioning = make({"sum": ["genre", "mood"], "input_interpolate": ["description"]})
    items = [{"genre": "rock", "mood": "sad", "description": "a b"}]
    conditions = conditioning.encode(conditioning.prepare(items))
    fused = conditioning(items, length=4)
    base = conditions["genre"].embedding + conditions["mood"].embedding
    stretched = conditions["description"].embedding[:, [0, 0, 1, 1]]
    torch.testing.assert_close(fused.sum, base + stretched)
    with pytest.raises(ValueError, match="length"):
        conditioning(items)


def test_what_is_summed_reaches_the_prefix_before_it_where_audiocraft_lets_it() -> None:
    items = [{"a": "one two", "genre": "rock", "melody": WAV}]
    # Processed: a, genre, melody. What is summed comes after the first and before the last of those prepended.
    fuse = {"prepend": ["a", "melody"], "sum": ["genre"]}
    plain, theirs = (make(fuse, sum_into_prefix=into).eval()(items) for into in (False, True))
    assert plain.prepend is not None
    assert theirs.prepend is not None
    assert plain.sum is not None
    genre, melody = plain.sum[:, :1], 4  # one vector per second
    assert torch.equal(theirs.prepend[:, :melody], plain.prepend[:, :melody])
    torch.testing.assert_close(theirs.prepend[:, melody:], plain.prepend[:, melody:] + genre)


def test_projection_learns_and_no_condition_is_no_tensor() -> None:
    conditioning = make({"cross": ["description"]})
    conditioning([{"description": "a b"}]).cross.square().sum().backward()
    assert all(p.grad is not None for p in conditioning.parameters())
    assert Conditioning(conditioners={}, dim=8, fuse={})([{}]) == FusedConditions()


def test_config_errors_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"\['crossed'\]"):
        Conditioning(conditioners={}, dim=8, fuse={"crossed": []})
    with pytest.raises(ValueError, match="one way only"):
        Conditioning(conditioners={"a": words()}, dim=8, fuse={"cross": ["a"], "sum": ["a"]})
    with pytest.raises(ValueError, match=r"\['a'\].*\['b'\]"):
        Conditioning(conditioners={"a": words()}, dim=8, fuse={"cross": ["b"]})
    with pytest.raises(ValueError, match="empty"):
        make({"cross": ["description"]})([])


def test_rows_of_fused_conditions() -> None:
    conditioning = make({"cross": ["description"], "sum": ["genre"], "prepend": ["melody"]})
    items = [{"description": "a b c", "genre": "x"}, {"description": "d", "melody": WAV}, {}]
    fused = conditioning(items)
    parts = [conditioning(items[:1]), conditioning(items[1:])]
    joined = FusedConditions.cat(parts)
    picked = fused.index(torch.tensor([2, 0]))
    for name in ("cross", "cross_mask", "prepend", "prepend_mask", "sum"):
        whole = getattr(fused, name)
        torch.testing.assert_close(getattr(joined, name), whole)
        assert torch.equal(getattr(picked, name), whole[[2, 0]])
        assert torch.equal(getattr(fused.index([1]), name), whole[1:2])
        assert torch.equal(getattr(fused.repeat(2), name), torch.cat([whole, whole]))
    half = fused.to(dtype=torch.bfloat16)
    assert half.cross is not None
    assert half.cross_mask is not None
    assert (half.cross.dtype, half.cross_mask.dtype) == (torch.bfloat16, torch.bool)
    with pytest.raises(ValueError, match="`cross` in 1 of 2"):
        FusedConditions.cat([fused, FusedConditions()])
    with pytest.raises(ValueError, match=r"4 and to \[3\] steps"):
        FusedConditions.cat(
            [FusedConditions(sum=torch.zeros(1, 3, 8)), FusedConditions(sum=torch.zeros(1, 4, 8))]
        )


def test_waveforms_of_a_batch_become_attributes() -> None:
    batch = AudioBatch(
        keys=["x", "y"],
        sample_rate=32,
        attributes=[{"description": "a"}, {}],
        conditions={"melody": torch.rand(2, 1, 64)},
    )
    items = attributes_of(batch)
    assert items[0]["description"] == "a"
    assert torch.equal(items[1]["melody"].wav, batch.conditions["melody"][1])
    with pytest.raises(ValueError, match=r"\(64,\)"):
        WavCondition(torch.zeros(64), 32)
