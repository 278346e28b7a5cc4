"""Embeddings of many files: read and resampled in threads, through the network in batches, in the files' order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from eval.clip_scores import clip_faults
from eval.embedders.base import ClipEmbedder
from lightning_audio.audio import read


@dataclass(frozen=True)
class EmbeddedFile:
    """The rows [N, D] of a file, and what is wrong with it, if anything ("silent", "not finite", the reader's words).

    A file that cannot be read has no rows; one that can be has, even if they are not finite.
    """

    path: Path
    rows: Tensor
    fault: str | None = None


def embed_files(
    embedder: ClipEmbedder, files: Iterable[str | Path], *, batch_size: int = 16, workers: int = 4
) -> Iterator[EmbeddedFile]:
    """One `EmbeddedFile` for each file, in their order; no more than two batches of audio are held at a time.

    batch_size: files that go to the embedder at once.   workers: threads that read and resample.
    """
    paths = iter([Path(file) for file in files])
    with ThreadPoolExecutor(workers) as pool:

        def submit(path: Path) -> Future[_Read]:
            return pool.submit(_read, embedder, path)

        waiting: deque[Future[_Read]] = deque(map(submit, islice(paths, 2 * batch_size)))
        while waiting:
            batch = [waiting.popleft().result() for _ in range(min(batch_size, len(waiting)))]
            waiting.extend(map(submit, islice(paths, len(batch))))
            yield from _embedded(embedder, batch)


@dataclass(frozen=True)
class _Read:
    path: Path
    heard: Tensor | None
    fault: str | None


def _read(embedder: ClipEmbedder, path: Path) -> _Read:
    try:
        wav, sample_rate = read(path)
    except (OSError, ValueError) as error:
        return _Read(path, None, " ".join(str(error).split()))
    with torch.no_grad():
        heard = embedder.hear(wav, sample_rate)
    return _Read(path, heard, clip_faults(heard[None], ["clip"]).get("clip"))


def _embedded(embedder: ClipEmbedder, batch: list[_Read]) -> Iterator[EmbeddedFile]:
    heard = [item.heard for item in batch if item.heard is not None]
    counts = [0 if item.heard is None else embedder.num_rows(item.heard) for item in batch]
    with torch.no_grad():
        rows = embedder.rows(heard).cpu() if heard else torch.zeros(0, 0)
    for item, part in zip(batch, rows.split(counts), strict=True):
        yield EmbeddedFile(item.path, part, item.fault)
