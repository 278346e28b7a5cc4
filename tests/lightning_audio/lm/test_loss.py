"""The loss that never holds all logits equals the plain one, gradients included."""

from __future__ import annotations

import pytest
import torch

from lightning_audio.lm.loss import IGNORE, codebook_cross_entropy, heads_cross_entropy


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("piece", [1, 100, 10**6])
def test_piecewise_equals_plain(with_bias: bool, piece: int) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(2, 7, 8, requires_grad=True)
    weight = torch.randn(3 * 11, 8, requires_grad=True)
    bias = torch.randn(3 * 11, requires_grad=True) if with_bias else None
    targets = torch.randint(11, (2, 3, 7))
    targets[0, 1, 3:] = targets[1, :, 5:] = IGNORE
    leaves = [hidden, weight, *([] if bias is None else [bias])]
    logits = torch.nn.functional.linear(hidden, weight, bias).unflatten(-1, (3, 11)).transpose(1, 2)
    plain = codebook_cross_entropy(logits, targets)
    ours = heads_cross_entropy(hidden, weight, bias, targets, piece=piece)
    torch.testing.assert_close(ours.loss, plain.loss)
    torch.testing.assert_close(ours.per_codebook, plain.per_codebook)
    assert ours.num_tokens.tolist() == [12, 8, 12]
    expected = torch.autograd.grad(2.5 * plain.loss, leaves)
    torch.testing.assert_close(torch.autograd.grad(2.5 * ours.loss, leaves), expected)
    means = [
        torch.nn.functional.cross_entropy(logits[:, k].flatten(0, 1), targets[:, k].flatten())
        for k in range(3)
    ]
    torch.testing.assert_close(plain.loss, torch.stack(means).mean())


def test_a_codebook_without_tokens_is_left_out_of_the_mean() -> None:
    logits, targets = torch.randn(1, 2, 3, 5), torch.tensor([[[1, 2, 3], [IGNORE] * 3]])
    result = codebook_cross_entropy(logits, targets)
    torch.testing.assert_close(result.loss, torch.nn.functional.cross_entropy(logits[0, 0], targets[0, 0]))
    assert result.per_codebook[1].isnan()
    nothing = heads_cross_entropy(
        torch.randn(1, 3, 4), torch.randn(10, 4), None, torch.full((1, 2, 3), IGNORE)
    )
    assert nothing.loss == 0


def test_under_autocast_sums_stay_in_float32() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(4, 50, 32, requires_grad=True)
    weight = (torch.randn(2 * 64, 32) / 6).requires_grad_()
    targets = torch.randint(64, (4, 2, 50))
    exact = heads_cross_entropy(hidden, weight, None, targets)
    expected = torch.autograd.grad(exact.loss, weight)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = heads_cross_entropy(hidden, weight, None, targets, piece=2**10)
    assert low.loss.dtype == torch.float32
    torch.testing.assert_close(low.loss, exact.loss, rtol=2e-3, atol=0)
    gradient = torch.autograd.grad(low.loss, weight)[0]
    assert (gradient - expected).norm() < 0.02 * expected.norm()


def test_without_gradients_it_is_only_the_loss() -> None:
    with torch.no_grad():
        result = heads_cross_entropy(
            torch.randn(1, 3, 4), torch.randn(10, 4), None, torch.zeros(1, 2, 3).long()
        )
    assert not result.loss.requires_grad
