"""Scores that are cheap enough to take while a model trains, and the generator that they are taken of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from eval.clap_score import ClapScore
from eval.embedders import CodecLatentEmbedder, Embedder
from lightning_audio import load


@dataclass(frozen=True)
class ScoredClips:
    """What this rank has to be scored; the lists go together, and are empty where a rank has nothing.

    generated, references: [C, L] each.   texts: what was asked for, None where nothing was.
    codec: of the generator.   device: where ranks exchange what they found.
    """

    keys: list[str]
    texts: list[str | None]
    generated: list[Tensor]
    references: list[Tensor]
    sample_rate: int
    codec: Any
    device: torch.device


class Score(Protocol):
    """One number over the clips of all ranks, the same on each of them."""

    def __call__(self, clips: ScoredClips) -> float: ...


class DistanceScore:
    """A distance of the generations to the references as sets of embeddings.

    metric: makes it for a number of dimensions, such as `FrechetDistance`, `KernelDistance`.
    embedder: by default the mean and spread of the generator's own codec's latents, which take no further weights.
    """

    def __init__(self, *, metric: Callable[[int], Metric], embedder: Embedder | None = None) -> None:
        self.metric, self.embedder = metric, embedder

    def __call__(self, clips: ScoredClips) -> float:
        embedder = self.embedder or CodecLatentEmbedder(clips.codec)
        # A rank without clips takes part too, and learns from a second of silence how wide embeddings are.
        silence = torch.zeros(1, 1, clips.sample_rate)
        width = embedder.embed(silence, clips.sample_rate).shape[1]
        metric = self.metric(width).to(clips.device)
        for wavs, is_reference in ((clips.generated, False), (clips.references, True)):
            rows = [embedder.embed(wav[None], clips.sample_rate) for wav in wavs]
            embeddings = torch.cat(rows) if rows else silence.new_empty(0, width)
            metric.update(embeddings.to(clips.device), reference=is_reference)
        return float(metric.compute())


class TextEmbedder(Embedder, Protocol):
    """An embedder that puts texts into the same space, as CLAP does."""

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """[N, D]"""
        ...


class TextScore:
    """How well generations fit their texts, by a CLAP; clips without a text do not count."""

    def __init__(self, *, embedder: TextEmbedder) -> None:
        self.embedder = embedder

    def __call__(self, clips: ScoredClips) -> float:
        metric = ClapScore().to(clips.device)
        asked = [(wav, text) for wav, text in zip(clips.generated, clips.texts, strict=True) if text]
        if asked:
            audio = torch.cat([self.embedder.embed(wav[None], clips.sample_rate) for wav, _ in asked])
            metric.update(audio, self.embedder.embed_text([text for _, text in asked]))
        return float(metric.compute())


class GeneratorOf:
    """Gives the generator of a task: its language model with a codec that `lightning_audio.load` opens.

    codec: run folder, package or hub name; opened at the first use.
    generation: makes the generator of `codec` and `lm`, such as `TextToAudio` with its `max_duration`.
    """

    def __init__(self, *, codec: str | Path, generation: Callable[..., Any]) -> None:
        self.source, self.generation = codec, generation
        self._codec: nn.Module | None = None

    def __call__(self, task: Any) -> Any:
        if self._codec is None:
            self._codec = load(self.source, device=task.device)
        return self.generation(codec=self._codec, lm=task.model)
