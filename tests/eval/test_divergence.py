"""The divergence of taggers' probabilities against direct sums, by segment and by clip."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from eval.divergence import TaggerDivergence, each_segment, kl_divergence, mean_logits, mean_probabilities


def _logits(segments: int, seed: int) -> Tensor:
    return 3 * torch.randn(segments, 11, generator=torch.Generator().manual_seed(seed))


def _direct(p: list[float], q: list[float]) -> float:
    return sum(a * (math.log(a) - math.log(b + 1e-6)) for a, b in zip(p, q, strict=True))


GENERATED, TARGET = [_logits(3, 0), _logits(1, 1)], [_logits(3, 2), _logits(1, 3)]


def test_every_segment_is_a_sample() -> None:
    metric = TaggerDivergence()
    metric.update(GENERATED, TARGET, ["a", "b"])
    ours, theirs = (torch.cat(clips).double().softmax(1).tolist() for clips in (GENERATED, TARGET))
    forward = [_direct(p, q) for p, q in zip(theirs, ours, strict=True)]
    reverse = [_direct(q, p) for p, q in zip(theirs, ours, strict=True)]
    wanted = [sum(forward) / 4, sum(reverse) / 4, sum(forward + reverse) / 4]
    assert metric.compute().tolist() == pytest.approx(wanted, rel=1e-9)
    assert float(metric.scores_of(["a"])[0, 0]) == pytest.approx(sum(forward[:3]) / 3, rel=1e-9)


def test_as_torch_has_it() -> None:
    """AudioCraft's expression for the same: torch's divergence with the epsilon inside the logarithm."""
    p, q = _logits(5, 0).softmax(1).double(), _logits(5, 1).softmax(1).double()
    wanted = functional.kl_div((q + 1e-6).log(), p, reduction="none").sum(1)
    assert torch.allclose(kl_divergence(p, q), wanted, rtol=1e-12)
    assert float(kl_divergence(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))) == pytest.approx(
        6 * math.log(10), rel=1e-6
    )


def test_every_clip_is_a_sample() -> None:
    by_probability, by_logit = (TaggerDivergence(samples=f) for f in (mean_probabilities, mean_logits))
    for metric in (by_probability, by_logit):
        metric.update(GENERATED, TARGET, ["a", "b"])
        assert len(metric.clip_scores()) == 2
    p, q = (clips[0].double().softmax(1).mean(0).tolist() for clips in (TARGET, GENERATED))
    assert float(by_probability.scores_of(["a"])[0, 0]) == pytest.approx(_direct(p, q), rel=1e-9)
    p, q = (clips[0].double().mean(0).softmax(0).tolist() for clips in (TARGET, GENERATED))
    assert float(by_logit.scores_of(["a"])[0, 0]) == pytest.approx(_direct(p, q), rel=1e-9)


def test_equal_clips_are_at_zero() -> None:
    metric = TaggerDivergence()
    metric.update(GENERATED, GENERATED, ["a", "b"])
    assert metric.compute().tolist() == pytest.approx([0.0] * 3, abs=3e-5)  # the epsilon's doing


def test_clips_that_cannot_be_scored_are_counted() -> None:
    broken = GENERATED[0].clone()
    broken[1, 2] = torch.nan
    metric, alone = TaggerDivergence(), TaggerDivergence()
    metric.update(
        [broken, GENERATED[1], _logits(0, 0)], [TARGET[0], TARGET[1], _logits(0, 0)], ["a", "b", "c"]
    )
    alone.update(GENERATED[1:], TARGET[1:], ["b"])
    assert int(metric.num_excluded) == 2
    assert torch.equal(metric.compute(), alone.compute())
    assert metric.scores_of(["c", "a"]).isnan().all()


def test_unequal_segments() -> None:
    with pytest.raises(ValueError, match=r"clip b: the generated one's logits are \(1, 11\).*\(3, 11\)"):
        TaggerDivergence().update(GENERATED[1:], TARGET[:1], ["b"])


def test_can_be_sent_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(TaggerDivergence(samples=each_segment))).samples is each_segment
