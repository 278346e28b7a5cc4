"""A stereo language model's start: the weights of a mono one, each codebook's twice (MusicGen stereo)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

# One table and one matrix hold all codebooks, codebook after codebook (see `TokenLM`).
PER_CODEBOOK = ("embedding.weight", "heads.weight", "heads.bias")


def stereo_weights(mono: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a model of the codebooks L0, R0, L1, R1, ... from those of a mono model of half as many.

    Left and right of a codebook both begin as the mono model's, with nothing scaled, as in AudioCraft; what is not
    of one codebook is taken as it is. The stereo model's delays are the mono model's, each twice.
    """
    if missing := sorted({"embedding.weight", "heads.weight"} - mono.keys()):
        raise ValueError(f"these are no weights of a language model over codes: they lack {missing}")
    # A codebook has one row more in the table than in the heads: the special token's.
    num_codebooks = mono["embedding.weight"].shape[0] - mono["heads.weight"].shape[0]
    return {
        name: _twice(weight, num_codebooks) if name in PER_CODEBOOK else weight
        for name, weight in mono.items()
    }


def _twice(weight: Tensor, num_codebooks: int) -> Tensor:
    """[K * rows, ...] -> [2 K * rows, ...], each codebook's rows followed by themselves."""
    return weight.unflatten(0, (num_codebooks, -1)).repeat_interleave(2, dim=0).flatten(0, 1)
