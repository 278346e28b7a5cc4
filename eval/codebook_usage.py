"""How evenly a codec's codes are used, codebook by codebook: counts over all ranks, a table and a picture of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from eval.language_model import count_codes
from eval.page.pictures import colour_map, png

PICTURE_ROWS, PICTURE_COLUMNS = 24, 512
"""Pixels: the height of a codebook's band, and the most that a picture is wide."""
OCTAVES = 6.0
"""A code that occurs 2^6 times as often as if all were even is the brightest, one 2^6 times as rarely the darkest."""


class CodebookUsage(Metric):
    """How often each code occurs in each codebook, [K, cardinality] int64."""

    full_state_update = False
    counts: Tensor

    def __init__(self, num_codebooks: int, cardinality: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_codebooks, self.cardinality = num_codebooks, cardinality
        shape = (num_codebooks, cardinality)
        self.add_state("counts", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, codes: Tensor, mask: Tensor | None = None) -> None:
        """codes [B, K, T]; mask [B, K, T], True where a frame belongs to its clip."""
        if codes.ndim != 3 or codes.shape[1] != self.num_codebooks:
            raise ValueError(f"codes are {tuple(codes.shape)}, want [B, {self.num_codebooks}, T]")
        self.counts += count_codes(codes, self.cardinality, mask)

    def compute(self) -> Tensor:
        return self.counts


def usage_csv(counts: Tensor) -> str:
    """A line for each code with its count in each codebook.  counts [K, cardinality]"""
    head = ",".join(["code", *(f"codebook_{k + 1}" for k in range(len(counts)))])
    rows = [",".join(map(str, [code, *row])) for code, row in enumerate(counts.T.tolist())]
    return "\n".join([head, *rows]) + "\n"


def usage_picture(counts: Tensor) -> bytes:
    """A PNG with a band for each codebook, the first on top: its codes from the most to the least frequent.

    Brightness is the logarithm of a code's share: an even codebook is a band of middle brightness, a collapsed one a
    bright edge on black.  counts [K, cardinality]
    """
    cardinality = counts.shape[1]
    share = counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
    ordered = (share * cardinality).sort(1, descending=True).values.numpy()  # 1: as often as if all were even
    columns = min(cardinality, PICTURE_COLUMNS)
    edges = np.linspace(0, cardinality, columns + 1).astype(int)[:-1]
    pooled = np.add.reduceat(ordered, edges, axis=1) / np.diff(np.append(edges, cardinality))
    level = np.log2(np.maximum(pooled, 2.0 ** (-OCTAVES))) / (2.0 * OCTAVES) + 0.5
    indices = np.clip(np.round(255 * level), 0, 255).astype(np.uint8)
    bands = np.repeat(indices, PICTURE_ROWS, axis=0)
    bands[PICTURE_ROWS - 1 :: PICTURE_ROWS] = 255  # a bright line below each
    return png(bands, colour_map())
