"""The kernel distance against direct computations over all pairs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import eval.kad
from eval.kad import (
    GaussianKernel,
    KernelDistance,
    PolynomialKernel,
    kernel_distance,
    median_distance,
)


def _rows(num: int, seed: int, *, dim: int = 7) -> Tensor:
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed))


def _direct(x: Tensor, y: Tensor, kernel: object) -> float:
    """Every pair by itself."""
    pairs = {
        "xx": [kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j],
        "yy": [kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j],
        "xy": [kernel(a, b) for a in x for b in y],
    }
    means = {name: float(torch.stack(values).mean()) for name, values in pairs.items()}
    return 1000.0 * (means["xx"] + means["yy"] - 2 * means["xy"])


@pytest.mark.parametrize("block", [4, 16, 2048])
def test_equals_a_direct_computation(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eval.kad, "BLOCK", block)
    x, y = _rows(23, 0).double() + 0.3, _rows(31, 1).double()
    bandwidth = float(torch.pdist(y).sort().values[(31 * 30 // 2 - 1) // 2])
    wanted = _direct(x, y, lambda a, b: torch.exp(-(a - b).square().sum() / (2 * bandwidth**2)))
    assert kernel_distance(x, y) == pytest.approx(wanted, rel=1e-9)
    assert kernel_distance(x, y, scale=1.0) == pytest.approx(wanted / 1000, rel=1e-9)
    wanted = _direct(x, y, lambda a, b: (a @ b / 7 + 1) ** 3)
    assert kernel_distance(x, y, kernel=PolynomialKernel()) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("num", [2, 3, 30, 101])
def test_median_of_all_pairs(num: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eval.kad, "BLOCK", 13)
    rows = _rows(num, num)
    rows[::4] *= 100.0  # most pairs in few bins
    # torch's median takes the lower of the middle two as well.
    assert median_distance(rows) == pytest.approx(float(torch.pdist(rows.double()).median()), rel=1e-12)


def test_unbiased() -> None:
    """Over sets of one distribution the mean is zero, and some lie below it."""
    found = torch.tensor([kernel_distance(_rows(30, 2 * i), _rows(40, 2 * i + 1)) for i in range(200)])
    assert abs(float(found.mean())) < 3 * float(found.std()) / 200**0.5
    assert 60 < int((found < 0).sum()) < 160


def test_grows_with_the_shift() -> None:
    x, y = _rows(200, 0), _rows(200, 1)
    found = [kernel_distance(x + shift, y) for shift in (0.0, 0.2, 0.5, 1.0)]
    assert found == sorted(found)
    assert found[-1] > 100


def test_parts_that_are_merged_equal_the_whole_to_the_last_bit() -> None:
    x, y = _rows(40, 0), _rows(50, 1)

    def streamed(a: Tensor, b: Tensor) -> KernelDistance:
        metric = KernelDistance(7)
        metric.update(a, reference=False)
        metric.update(b, reference=True)
        return metric

    first = streamed(x[1::2], y[30:])
    first.merge_state(streamed(x[::2], y[:30]))
    assert torch.equal(first.compute(), streamed(x, y).compute())
    assert float(first.compute()) == pytest.approx(kernel_distance(x, y), rel=1e-9)


def test_rows_that_are_not_finite_are_counted_and_left_out() -> None:
    metric, x = KernelDistance(7), _rows(20, 0)
    metric.update(torch.cat([x, torch.full((2, 7), torch.inf)]), reference=False)
    metric.update(_rows(20, 1), reference=True)
    assert metric.num_excluded.tolist() == [2, 0]
    assert float(metric.compute()) == pytest.approx(kernel_distance(x, _rows(20, 1)), rel=1e-9)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="of 1 embeddings to 5, needs 2"):
        kernel_distance(_rows(1, 0), _rows(5, 1))
    with pytest.raises(ValueError, match="is no bandwidth"):
        kernel_distance(_rows(5, 0), _rows(1, 1).expand(9, -1) * 1e3)
    with pytest.raises(ValueError, match=r"want \[N, 7\]"):
        KernelDistance(7).update(torch.zeros(3, 5), reference=True)
    assert kernel_distance(_rows(5, 0), _rows(1, 1).expand(9, -1), kernel=GaussianKernel(2.0)) > 0
