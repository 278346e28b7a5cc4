"""Files of random weights under the published names and in the published shapes, of a few megabytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch import Tensor

MakeState = Callable[[Mapping[str, Sequence[int]], int], dict[str, Tensor]]


@pytest.fixture(scope="session")
def random_state() -> MakeState:
    """A state dict of these shapes. All tensors are views of one small storage, so that its file is small too."""

    def make(shapes: Mapping[str, Sequence[int]], seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        storage = torch.randn(1 << 20, generator=generator)
        return {key: _view(storage, shape, place) for place, (key, shape) in enumerate(shapes.items())}

    return make


def _view(storage: Tensor, shape: Sequence[int], place: int) -> Tensor:
    """Rows that overlap: each begins a little later in the storage than the one before."""
    if not shape:
        return storage[place].clone()
    row = math.prod(shape[1:])
    begin = 4099 * place % 100_000
    step = min(211, (len(storage) - row - begin) // shape[0])
    inner = [math.prod(shape[axis + 1 :]) for axis in range(1, len(shape))]
    return storage.as_strided(tuple(shape), (step, *inner), begin)
