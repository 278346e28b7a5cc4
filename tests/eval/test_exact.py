"""Sums that do not depend on grouping, against exact fractions."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from eval import exact


def _rows(num: int, dim: int, *, seed: int = 0) -> Tensor:
    """float32 embeddings of very unlike columns, some values tiny, some columns far from zero."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(num, dim, generator=generator) * 10.0 ** torch.randn(dim, generator=generator)
    rows[:, 0] = 0.0
    rows[::3, 1] *= 1e-9
    rows[:, 2] += 1e4
    return rows


def _fractions(pair: Tensor) -> list[Fraction]:
    return [
        Fraction(high) + Fraction(low)
        for high, low in zip(pair[0].flatten().tolist(), pair[1].flatten().tolist(), strict=True)
    ]


def test_gram_is_exact_to_a_hundred_bits() -> None:
    rows = _rows(70, 4)
    columns = [[Fraction(value) for value in column] for column in rows.double().T.tolist()]
    wanted = [sum(a * b for a, b in zip(x, y, strict=True)) for x in columns for y in columns]
    largest = [sum(abs(a * b) for a, b in zip(x, y, strict=True)) for x in columns for y in columns]
    for found, exactly, size in zip(_fractions(exact.gram(rows)), wanted, largest, strict=True):
        assert abs(found - exactly) <= size * Fraction(1, 2**95)


def test_gram_does_not_depend_on_order_or_grouping() -> None:
    rows = _rows(5000, 6)
    whole = exact.gram(rows)
    mixed = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))]
    parts = torch.stack([exact.gram(part) for part in mixed.split([1, 700, 0, 2999, 1300])])
    assert torch.equal(exact.add_all(parts)[0], whole[0])
    # What this is for: plain float64 sums of the same parts differ.
    assert not torch.equal(
        sum(part.double().T @ part.double() for part in mixed.split(700)), rows.double().T @ rows.double()
    )


def test_products_and_sums_of_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 2, 50, generator=generator, dtype=torch.float64)
    a[1] *= 1e-17 * a[0].abs()
    b[1] *= 1e-17 * b[0].abs()
    for x, y, total, product in zip(
        *(_fractions(pair) for pair in (a, b, exact.add(a, b), exact.multiply(a, b))), strict=True
    ):
        assert abs(total - (x + y)) <= (abs(x) + abs(y)) * Fraction(1, 2**103)
        assert abs(product - x * y) <= abs(x * y) * Fraction(1, 2**101)


def test_a_fixed_order() -> None:
    rows = torch.randint(3, (40, 2), generator=torch.Generator().manual_seed(0)).float()
    mixed = rows[torch.randperm(40, generator=torch.Generator().manual_seed(1))]
    assert torch.equal(exact.in_fixed_order(mixed), exact.in_fixed_order(rows))
    assert exact.in_fixed_order(torch.empty(0, 3)).shape == (0, 3)
