"""The codebooks of a residual vector quantiser, and how they learn: k-means, moving averages, revival.

A code is the mean of the vectors that chose it, averaged over steps with exponential decay (van den Oord et al.
2017, appendix A.1). Under `torch.distributed` all ranks see the statistics of the joined batch, so that they hold
the same codebooks and a step on two ranks is the step on their joined batch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


class Codebooks(nn.Module):
    """K codebooks of N vectors of width D, and the statistics that they are learnt from.

    embed: [K, N, D] the codes.
    embed_sum: [K, N, D], count: [K, N]: decayed sum and number of the vectors that chose each code, per step.
    inited: [K] whether a codebook was set from data. Until then it is random, which is good for tests only.
    """

    embed: Tensor
    embed_sum: Tensor
    count: Tensor
    inited: Tensor
    half_squared_norm: Tensor | None

    def __init__(self, *, num_codebooks: int, cardinality: int, dim: int) -> None:
        super().__init__()
        embed = nn.init.kaiming_uniform_(torch.empty(num_codebooks, cardinality, dim))
        self.register_buffer("embed", embed)
        self.register_buffer("embed_sum", embed.clone())
        self.register_buffer("count", torch.zeros(num_codebooks, cardinality))
        self.register_buffer("inited", torch.zeros(num_codebooks, dtype=torch.bool))
        self.register_buffer("half_squared_norm", None, persistent=False)
        self._all_inited = False

    def nearest(self, level: int, vectors: Tensor) -> Tensor:
        """Index of the nearest code: vectors [M, D] -> [M] int64.

        |x - e|^2 / 2 without the |x|^2 that is the same for all codes: one matrix product.
        """
        embed = self.embed[level]
        cached = self.half_squared_norm
        half_norm = embed.square().sum(-1) / 2 if cached is None else cached[level]
        return torch.addmm(half_norm, vectors, embed.t(), alpha=-1).argmin(-1)

    def lookup(self, codes: Tensor) -> Tensor:
        """Sum of the chosen codes over the codebooks: codes [B, K', T], K' <= K -> [B, D, T]."""
        batch, levels, frames = codes.shape
        cardinality, dim = self.embed.shape[1:]
        first = torch.arange(levels, device=codes.device) * cardinality
        rows = (codes.transpose(1, 2) + first).reshape(-1, levels)  # [B, K', T] -> [B * T, K']
        summed = F.embedding_bag(rows, self.embed.reshape(-1, dim), mode="sum")
        return summed.reshape(batch, frames, dim).transpose(1, 2)

    def freeze(self) -> None:
        """Compute |e|^2 once, for inference; training, or loading other codes, ends it."""
        self.half_squared_norm = self.embed.square().sum(-1) / 2

    def train(self, mode: bool = True) -> Codebooks:
        if mode:
            self.half_squared_norm = None
        return super().train(mode)

    def all_inited(self) -> bool:
        """Whether every codebook was set from data; asks the device only until the answer is yes."""
        self._all_inited = self._all_inited or bool(self.inited.all())
        return self._all_inited

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._all_inited, self.half_squared_norm = False, None
        super()._load_from_state_dict(*args, **kwargs)

    @torch.no_grad()
    def usage(self) -> tuple[Tensor, Tensor]:
        """Perplexity and share of the codes in use (more than a hundredth of a fair share): each [K]."""
        share = self.count / self.count.sum(-1, keepdim=True).clamp(min=1e-9)
        perplexity = torch.exp(-torch.special.xlogy(share, share).sum(-1))
        return perplexity, (share * share.shape[-1] > 0.01).float().mean(-1)


class CodebookLearning:
    """How codebooks follow the latents: k-means on the first batch, then moving averages, dead codes revived.

    decay: of the averages, per step.
    kmeans_iterations: on the first batch; 0 starts from vectors of that batch.
    min_usage: a code is dead when it is chosen less often than this share of a fair one (vectors per step / N).
        It becomes a vector of the batch, with the statistics of a fair code, so that it has some hundred steps
        to find its place. Published recipes say "fewer than 2 per step" (SoundStream), which at 4800 vectors
        and 1024 codes is a share of 0.43, but would call most codes dead in a small batch.
    """

    def __init__(
        self,
        *,
        decay: float = 0.99,
        kmeans_iterations: int = 50,
        min_usage: float = 0.1,
        epsilon: float = 1e-5,
    ) -> None:
        self.decay = decay
        self.kmeans_iterations = kmeans_iterations
        self.min_usage = min_usage
        self.epsilon = epsilon

    @torch.no_grad()
    def prepare(
        self, books: Codebooks, level: int, vectors: Tensor, generator: torch.Generator | None
    ) -> None:
        """Before `vectors` [M, D] are compared with codebook `level`: set it from them if it was never set."""
        if books.all_inited() or books.inited[level]:
            return
        joined = _gather(vectors)
        start = choose(joined.shape[0], books.embed.shape[1], generator, vectors.device)
        means, counts = kmeans(joined, joined[start], self.kmeans_iterations)
        books.embed[level] = means
        books.count[level] = counts
        books.embed_sum[level] = means * counts[:, None]
        books.inited[level] = True

    @torch.no_grad()
    def update(
        self, books: Codebooks, vectors: Tensor, codes: Tensor, generator: torch.Generator | None
    ) -> None:
        """One step of learning from vectors [K', M, D] and the codes [K', M] that they chose."""
        levels, num_vectors, dim = vectors.shape
        cardinality = books.embed.shape[1]
        rows = (codes + torch.arange(levels, device=codes.device)[:, None] * cardinality).flatten()
        stats = vectors.new_zeros(levels * cardinality, 1 + dim)  # per code: how many chose it, and their sum
        stats[:, 0].index_add_(0, rows, vectors.new_ones(rows.shape[0]))
        stats[:, 1:].index_add_(0, rows, vectors.reshape(-1, dim))
        stats = stats.view(levels, cardinality, 1 + dim)
        candidates = self._candidates(vectors, cardinality, generator)
        # One reduction for all: each rank fills in the candidates that it owns and zero for the others.
        counts, sums, candidates = _sum_over_ranks(torch.cat([stats, candidates], -1)).split(
            [1, dim, dim], -1
        )

        count, embed_sum = books.count[:levels], books.embed_sum[:levels]
        count.lerp_(counts.squeeze(-1), 1 - self.decay)
        embed_sum.lerp_(sums, 1 - self.decay)
        total = count.sum(-1, keepdim=True)
        smoothed = (count + self.epsilon) / (total + cardinality * self.epsilon) * total
        books.embed[:levels] = embed_sum / smoothed[..., None]
        self._revive(books, candidates, fair_count=num_vectors * _world_size() / cardinality)

    def _candidates(self, vectors: Tensor, cardinality: int, generator: torch.Generator | None) -> Tensor:
        """[K', N, D]: the vector of the joined batch that each code would become if it were dead.

        A vector that lies on another rank is zero here. They are drawn for all codes, so that nothing waits
        for the device to say which ones are dead.
        """
        levels, num_vectors, dim = vectors.shape
        total = num_vectors * _world_size()
        chosen = torch.stack([choose(total, cardinality, generator, vectors.device) for _ in range(levels)])
        mine = chosen - num_vectors * (dist.get_rank() if _world_size() > 1 else 0)
        inside = (mine >= 0) & (mine < num_vectors)
        picked = vectors.gather(1, mine.clamp(0, num_vectors - 1)[..., None].expand(-1, -1, dim))
        return picked * inside[..., None]

    def _revive(self, books: Codebooks, candidates: Tensor, fair_count: float) -> None:
        levels = candidates.shape[0]
        count = books.count[:levels]
        dead = count < self.min_usage * fair_count
        fair = torch.as_tensor(fair_count, device=count.device, dtype=count.dtype)
        books.embed[:levels] = torch.where(dead[..., None], candidates, books.embed[:levels])
        books.embed_sum[:levels] = torch.where(dead[..., None], candidates * fair, books.embed_sum[:levels])
        books.count[:levels] = torch.where(dead, fair, count)


class AudioCraftLearning(CodebookLearning):
    """The same in AudioCraft's way, for comparisons: its training steps are reproduced number for number.

    After k-means the sums hold means while the counts hold counts, so that the first steps shrink the codes to
    about 1/count of their size; and a dead code (chosen fewer than `dead_code_threshold` times per step) is
    replaced before the averages overwrite it, so that nothing but a draw of the generator comes of it.
    """

    def __init__(
        self,
        *,
        decay: float = 0.99,
        kmeans_iterations: int = 50,
        dead_code_threshold: float = 2.0,
        epsilon: float = 1e-5,
    ) -> None:
        super().__init__(decay=decay, kmeans_iterations=kmeans_iterations, min_usage=0.0, epsilon=epsilon)
        self.dead_code_threshold = dead_code_threshold

    @torch.no_grad()
    def prepare(
        self, books: Codebooks, level: int, vectors: Tensor, generator: torch.Generator | None
    ) -> None:
        fresh = not bool(books.inited[level])
        super().prepare(books, level, vectors, generator)
        if fresh:
            books.embed_sum[level] = books.embed[level]
        if (books.count[level] < self.dead_code_threshold).any():
            choose(vectors.shape[0] * _world_size(), books.embed.shape[1], generator, vectors.device)

    def _candidates(self, vectors: Tensor, cardinality: int, generator: torch.Generator | None) -> Tensor:
        return vectors.new_zeros(vectors.shape[0], cardinality, vectors.shape[2])

    def _revive(self, books: Codebooks, candidates: Tensor, fair_count: float) -> None:
        """Nothing is revived."""


def kmeans(vectors: Tensor, means: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm from `means` [N, D] on vectors [M, D]: means [N, D] and how many chose each, [N].

    A mean that nobody chose stays where it was.
    """
    counts = torch.full((means.shape[0],), vectors.shape[0] / means.shape[0], device=means.device)
    for _ in range(iterations):
        nearest = torch.addmm(means.square().sum(-1) / 2, vectors, means.t(), alpha=-1).argmin(-1)
        counts = vectors.new_zeros(means.shape[0]).index_add_(0, nearest, vectors.new_ones(nearest.shape[0]))
        sums = torch.zeros_like(means).index_add_(0, nearest, vectors)
        means = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], means)
    return means, counts


def choose(population: int, number: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """`number` indices below `population`, [number], the same on all ranks; without repeats where there are enough."""
    if population >= number:
        indices = torch.randperm(population, generator=generator)[:number]
    else:
        indices = torch.randint(0, population, (number,), generator=generator)
    return same_on_all_ranks(indices.to(device, non_blocking=True))


def same_on_all_ranks(tensor: Tensor) -> Tensor:
    """Rank 0's tensor."""
    if _world_size() > 1:
        dist.broadcast(tensor, 0)
    return tensor


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _sum_over_ranks(tensor: Tensor) -> Tensor:
    if _world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def _gather(vectors: Tensor) -> Tensor:
    """The vectors of all ranks, in order of rank: [M, D] -> [ranks * M, D]."""
    if _world_size() == 1:
        return vectors
    parts = [torch.empty_like(vectors) for _ in range(_world_size())]
    dist.all_gather(parts, vectors.contiguous())
    return torch.cat(parts)
