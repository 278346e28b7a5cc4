"""Cross-entropy per codebook and its unigram baseline."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from eval.language_model import CodebookCrossEntropy, UnigramCrossEntropy, count_codes, perplexity

K, T, CARD = 3, 7, 10


def _codes(batch: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(CARD, (batch, K, T), generator=torch.Generator().manual_seed(seed))


def test_equals_the_direct_computation_under_a_mask() -> None:
    codes = _codes(4)
    logits = torch.randn(4, K, T, CARD, generator=torch.Generator().manual_seed(1))
    mask = torch.rand(4, K, T, generator=torch.Generator().manual_seed(2)) > 0.3
    masked = logits.masked_fill(~mask[..., None], torch.nan)  # as a pattern leaves what it never predicts
    metric = CodebookCrossEntropy(K)
    for part in range(4):
        metric.update(masked[part : part + 1], codes[part : part + 1], mask[part : part + 1])
    for k in range(K):
        expected = functional.cross_entropy(logits[:, k][mask[:, k]], codes[:, k][mask[:, k]])
        assert float(metric.compute()[k]) == pytest.approx(float(expected), rel=1e-6)
    for interval, value in zip(metric.intervals(), metric.compute().tolist(), strict=True):
        assert interval.low < value < interval.high


def test_a_clip_that_diverged_is_counted() -> None:
    logits = torch.zeros(3, K, T, CARD)
    logits[1, 0, 0] = torch.nan
    metric = CodebookCrossEntropy(K)
    metric.update(logits, _codes(3))
    assert int(metric.num_excluded) == 1
    assert metric.compute().tolist() == pytest.approx([math.log(CARD)] * K)


def test_unigram_is_the_entropy_of_what_it_counted() -> None:
    codes = _codes(50)
    metric = UnigramCrossEntropy(K, CARD, smoothing=1e-9)
    metric.update(codes, training=True)
    metric.update(codes, training=False)
    entropy = perplexity(count_codes(codes, CARD)).log()
    assert metric.compute().tolist() == pytest.approx(entropy.tolist(), rel=1e-6)


def test_unigram_scores_unseen_codes_with_a_finite_price() -> None:
    metric = UnigramCrossEntropy(1, 4)
    metric.update(torch.zeros(1, 1, 6, dtype=torch.int64), training=True)
    metric.update(torch.full((1, 1, 5), 3), training=False)
    assert float(metric.compute()) == pytest.approx(math.log(10))  # (0 + 1) of (6 + 4)


def test_a_model_that_knows_the_frequencies_equals_the_baseline() -> None:
    train, valid = _codes(30), _codes(10, seed=1)
    baseline = UnigramCrossEntropy(K, CARD)
    baseline.update(train, training=True)
    baseline.update(valid, training=False)
    smoothed = count_codes(train, CARD) + 1.0
    logits = (smoothed / smoothed.sum(1, keepdim=True)).log()[None, :, None].expand(10, K, T, CARD)
    model = CodebookCrossEntropy(K)
    model.update(logits, valid)
    assert model.compute().tolist() == pytest.approx(baseline.compute().tolist(), rel=1e-6)


def test_perplexity() -> None:
    counts = torch.tensor([[5, 5, 5, 5], [7, 0, 0, 0], [0, 0, 0, 0]])
    assert perplexity(counts).tolist() == pytest.approx([4.0, 1.0, 1.0])


@pytest.mark.filterwarnings("ignore:.*called before the ``update``.*")
def test_bad_input() -> None:
    with pytest.raises(ValueError, match="no token"):
        CodebookCrossEntropy(K).compute()
    with pytest.raises(ValueError, match=r"want \[B, 3, T\]"):
        CodebookCrossEntropy(K).update(torch.zeros(1, 2, T, CARD), _codes(1)[:, :2])
    metric = UnigramCrossEntropy(K, CARD)
    metric.update(_codes(1), training=False)
    with pytest.raises(ValueError, match="no training codes"):
        metric.compute()
    with pytest.raises(ValueError, match="cardinality is 4"):
        UnigramCrossEntropy(K, 4).update(_codes(5), training=True)
    with pytest.raises(ValueError, match="smoothing is 0"):
        UnigramCrossEntropy(K, CARD, smoothing=0)
