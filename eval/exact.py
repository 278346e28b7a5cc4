"""Sums that come out the same to the last bit, however their terms are grouped into batches and ranks.

A float64 sum rounds at every step, so the same clips on two ranks give other last digits than on one. Here a sum is
two float64 numbers, `high` and what rounding took from it, `low` (Dekker 1971), some 106 bits together; and a product
of matrices is first cut into slices so short that no product of theirs rounds at all (Ozaki et al. 2012). What is
left of order is in the last bits of `low`: it reaches `high` about once in 2^50 sums.

Where a value is more than a sum, its rows are brought into a fixed order first.
"""

from __future__ import annotations

import torch
from torch import Tensor

SLICE_BITS = 21
"""Of each slice's integers: products have 42, and a sum of 2^11 of them the 53 that float64 holds."""
MAX_ROWS = 2 ** (53 - 2 * SLICE_BITS)


def add(a: Tensor, b: Tensor) -> Tensor:
    """Sum of two (high, low) pairs.  [2, ...] twice -> [2, ...]"""
    high, rounding = _two_sum(a[0], b[0])
    low = rounding + (a[1] + b[1])
    total = high + low
    return torch.stack([total, low - (total - high)])


def add_all(pairs: Tensor) -> Tensor:
    """Sum of (high, low) pairs, one from each rank.  [W, 2, ...] -> [2, ...]"""
    total = pairs[0]
    for pair in pairs[1:]:
        total = add(total, pair)
    return total


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """Elementwise product of two (high, low) pairs.  [2, ...] twice -> [2, ...]"""
    high = a[0] * b[0]
    (a_head, a_tail), (b_head, b_tail) = _halves(a[0]), _halves(b[0])
    rounding = ((a_head * b_head - high) + a_head * b_tail + a_tail * b_head) + a_tail * b_tail
    low = rounding + (a[0] * b[1] + a[1] * b[0])
    return torch.stack([high + low, low - ((high + low) - high)])


def gram(rows: Tensor) -> Tensor:
    """rows' rows as a (high, low) pair.  [N, D] finite -> [2, D, D] float64"""
    dim = rows.shape[1]
    total = torch.zeros(2, dim, dim, dtype=torch.float64, device=rows.device)
    for chunk in rows.double().split(MAX_ROWS):
        for term in _gram_terms(chunk):
            total = add(total, torch.stack([term, torch.zeros_like(term)]))
    return total


def in_fixed_order(rows: Tensor) -> Tensor:
    """The rows [N, D], sorted by their bytes: the same for the same rows, whoever brought which."""
    blobs = [row.tobytes() for row in rows.cpu().contiguous().numpy()]
    return rows[sorted(range(len(blobs)), key=blobs.__getitem__)]


def _gram_terms(rows: Tensor) -> list[Tensor]:
    """Matrices whose sum is rows' rows: exact, but for the last two, which are 2^-42 of it and rounded."""
    # 2^exponent is above every value of the column; the first slice are multiples of 2^(exponent - bits).
    exponent = torch.frexp(rows.abs().amax(0)).exponent if len(rows) else rows.new_zeros(rows.shape[1]).int()
    one = torch.ones_like(exponent, dtype=torch.float64)
    first = _rounded(rows, torch.ldexp(one, exponent - SLICE_BITS))
    second = _rounded(rows - first, torch.ldexp(one, exponent - 2 * SLICE_BITS))
    rest = rows - first - second
    cross, remainder = first.T @ second, rest.T @ (rows - rest / 2)
    return [first.T @ first, cross, cross.T, second.T @ second, remainder, remainder.T]


def _rounded(values: Tensor, unit: Tensor) -> Tensor:
    """To the nearest multiple of a power of two, which is exact."""
    return (values / unit).round() * unit


def _two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """a + b, and what its rounding left out."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _halves(value: Tensor) -> tuple[Tensor, Tensor]:
    """value = head + tail, of 26 bits each."""
    shifted = value * (2.0**27 + 1.0)
    head = shifted - (shifted - value)
    return head, value - head
