"""Residual vector quantisation: each codebook encodes what the ones before it left over (SoundStream, EnCodec)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_audio.codec.codebooks import CodebookLearning, Codebooks, same_on_all_ranks


@dataclass(frozen=True)
class Quantized:
    """latent: [B, D, T] after quantisation; in training its gradient goes to the input unchanged.
    codes: [B, K, T] int64.   penalty: [] commitment, the mean over codebooks of the squared residual.
    """

    latent: Tensor
    codes: Tensor
    penalty: Tensor


class ResidualVectorQuantizer(nn.Module):
    """Latents to codes and back.

    dim: D.   num_codebooks: K.   cardinality: codes per codebook.
    dropout: train each batch with a number of codebooks drawn from 1 ... K, for a model of many bandwidths.
    dropout_numbers: the numbers that dropout draws from, where not all: the paper's are those of its bandwidths.
    learning: how the codebooks follow the latents.
    orthogonal_weight: adds the codebooks' mean squared cosine to the penalty's value. As they learn by averages
        it has no gradient (neither has it in AudioCraft): it is a number to watch.
    """

    def __init__(
        self,
        *,
        dim: int = 128,
        num_codebooks: int = 32,
        cardinality: int = 1024,
        dropout: bool = False,
        dropout_numbers: Sequence[int] | None = None,
        learning: CodebookLearning | None = None,
        orthogonal_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.codebooks = Codebooks(num_codebooks=num_codebooks, cardinality=cardinality, dim=dim)
        self.learning = learning or CodebookLearning()
        self.dim = dim
        self.max_codebooks = num_codebooks
        self.cardinality = cardinality
        self.dropout = dropout
        self.dropout_numbers = None if dropout_numbers is None else sorted(dropout_numbers)
        self.orthogonal_weight = orthogonal_weight
        self._num_codebooks = num_codebooks
        if self.dropout_numbers and not dropout:
            raise ValueError(
                f"dropout_numbers {self.dropout_numbers} are for dropout=True, got dropout=False"
            )
        for number in self.dropout_numbers or ():
            self._checked(number)

    @property
    def num_codebooks(self) -> int:
        """How many codebooks are in use where a call does not say it."""
        return self._num_codebooks

    @num_codebooks.setter
    def num_codebooks(self, number: int) -> None:
        self._num_codebooks = self._checked(number)

    def forward(
        self, latent: Tensor, *, num_codebooks: int | None = None, generator: torch.Generator | None = None
    ) -> Quantized:
        """latent [B, D, T]; in training mode the codebooks learn from it, their random choices from `generator`."""
        if num_codebooks is None and self.training:
            number = self.draw_num_codebooks(generator)
        else:
            number = self._num_codebooks if num_codebooks is None else self._checked(num_codebooks)
        batch, dim, frames = latent.shape
        with torch.autocast(latent.device.type, enabled=False):
            residual = latent.float().transpose(1, 2).reshape(-1, dim)  # [B, D, T] -> [B * T, D]
            inputs: list[Tensor] = []
            chosen: list[Tensor] = []
            squares: list[Tensor] = []
            for level in range(number):
                vectors = residual.detach()
                if self.training:
                    self.learning.prepare(self.codebooks, level, vectors, generator)
                codes = self.codebooks.nearest(level, vectors)
                residual = residual - F.embedding(codes, self.codebooks.embed[level])
                inputs.append(vectors)
                chosen.append(codes)
                squares.append(residual.square().mean())
            flat = torch.stack(chosen)  # [K, B * T]
            quantized = latent - residual.detach().view(batch, frames, dim).transpose(1, 2)
            penalty = torch.stack(squares).mean()
            if self.training:
                # Only now: the lookups above must see one state of the codebooks, and all levels share a reduction.
                self.learning.update(self.codebooks, torch.stack(inputs), flat, generator)
            if self.orthogonal_weight:
                penalty = penalty + self.orthogonal_weight * self._orthogonality(number)
        codes = flat.view(number, batch, frames).transpose(0, 1)
        return Quantized(latent=quantized.to(latent.dtype), codes=codes, penalty=penalty)

    def draw_num_codebooks(self, generator: torch.Generator | None = None) -> int:
        """How many codebooks a batch is to be trained with: the same number on all ranks."""
        if not self.dropout:
            return self._num_codebooks
        numbers = self.dropout_numbers or range(1, self._num_codebooks + 1)
        drawn = torch.randint(len(numbers), (1,), generator=generator).to(self.codebooks.embed.device)
        return numbers[int(same_on_all_ranks(drawn))]

    def encode(self, latent: Tensor, *, num_codebooks: int | None = None) -> Tensor:
        """Codes of the latents, without learning: [B, D, T] -> [B, K, T] int64."""
        number = self._num_codebooks if num_codebooks is None else self._checked(num_codebooks)
        batch, dim, frames = latent.shape
        with torch.autocast(latent.device.type, enabled=False):
            residual = latent.to(self.codebooks.embed.dtype).transpose(1, 2).reshape(-1, dim)
            chosen = [self.codebooks.nearest(0, residual)]
            for level in range(1, number):
                residual = residual - F.embedding(chosen[-1], self.codebooks.embed[level - 1])
                chosen.append(self.codebooks.nearest(level, residual))
        return torch.stack(chosen).view(number, batch, frames).transpose(0, 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Latents of codes of the first K codebooks: [B, K, T] -> [B, D, T]."""
        self._checked(codes.shape[1])
        return self.codebooks.lookup(codes)

    def _checked(self, number: int) -> int:
        if not 1 <= number <= self.max_codebooks:
            raise ValueError(f"{number} codebooks asked for, the quantizer has 1 to {self.max_codebooks}")
        return number

    def _orthogonality(self, number: int) -> Tensor:
        directions = F.normalize(self.codebooks.embed[:number], dim=-1)
        cosines = directions @ directions.transpose(1, 2)  # [K, N, N]
        return (cosines - torch.eye(self.cardinality, device=cosines.device)).square().mean()
