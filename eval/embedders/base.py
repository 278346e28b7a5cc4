"""What an embedder and a tagger are, and what all of them share: how clips get in, and rows get out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from eval.embedders.hearing import Hearing
from lightning_audio.batch import length_mask


class Embedder(Protocol):
    """What every embedder is.  `weights_hash` is None where there are no weights."""

    name: str
    sample_rate: int
    weights_hash: str | None
    hearing: Hearing

    def embed(self, wav: Tensor, sample_rate: int, num_samples: Tensor | None = None) -> Tensor:
        """wav [B, C, L] at `sample_rate` Hz, with `num_samples` [B] valid samples -> [N, D]

        The rows of a clip follow each other, clip by clip. A clip that cannot be embedded (not finite, empty, too
        short) has one row of NaN.
        """
        ...


class Tagger(Protocol):
    """What every tagger of sounds is: one row of logits per segment.

    Segments are `segment` seconds long, the last of a clip what is left; of at most 0.15 s, it is dropped.
    """

    name: str
    sample_rate: int
    weights_hash: str | None
    hearing: Hearing
    segment: float

    def logits(self, wav: Tensor, sample_rate: int, num_samples: Tensor | None = None) -> Tensor:
        """wav [B, C, L] at `sample_rate` Hz, with `num_samples` [B] valid samples -> [N, classes]"""
        ...

    def num_segments(self, num_samples: Tensor, sample_rate: int) -> Tensor:
        """Rows of `logits` of clips of `num_samples` [B] -> [B]"""
        ...


class ClipEmbedder:
    """An embedder by its two steps: `hear` a clip, which may run in worker threads, and `rows` of a batch.

    A subclass sets the attributes of `Embedder`, `channels` and `dim`, and gives `rows`.
    """

    name: str
    sample_rate: int
    weights_hash: str | None = None
    hearing: Hearing
    channels: int = 1
    device: torch.device = torch.device("cpu")

    def hear(self, wav: Tensor, sample_rate: int) -> Tensor:
        """One clip [C, L] at any rate (Hz) -> [channels, L'] at the embedder's."""
        return self.hearing(wav, sample_rate, self.sample_rate, self.channels)

    def rows(self, heard: Sequence[Tensor]) -> Tensor:
        """Clips [channels, L] as `hear` gives them -> [N, D]"""
        raise NotImplementedError

    def num_rows(self, heard: Tensor) -> int:
        """Rows that `rows` gives for this clip."""
        return 1

    @torch.no_grad()
    def embed(self, wav: Tensor, sample_rate: int, num_samples: Tensor | None = None) -> Tensor:
        """wav [B, C, L] at `sample_rate` Hz, with `num_samples` [B] valid samples -> [N, D]"""
        return self.rows([self.hear(clip, sample_rate) for clip in clips_of(wav, num_samples)])


def clips_of(wav: Tensor, num_samples: Tensor | None) -> list[Tensor]:
    """wav [B, C, L] as single clips [C, l] without their padding."""
    if wav.ndim != 3:
        raise ValueError(f"wav is {tuple(wav.shape)}, want [B, C, L]")
    if num_samples is None:
        return list(wav)
    return [clip[:, :length] for clip, length in zip(wav, num_samples.tolist(), strict=True)]


def padded(heard: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Clips [C, l] -> one batch [B, C, L], zero where a clip has ended, and the lengths [B]"""
    lengths = torch.tensor([clip.shape[-1] for clip in heard], device=heard[0].device)
    return pad_sequence([clip.T for clip in heard], batch_first=True).transpose(1, 2), lengths


def by_length(heard: Sequence[Tensor], batch_size: int) -> Iterator[tuple[list[int], Tensor]]:
    """Batches of clips of one length, so that none is padded: their places, and [b, C, L]."""
    places: dict[int, list[int]] = {}
    for place, clip in enumerate(heard):
        places.setdefault(clip.shape[-1], []).append(place)
    for same in places.values():
        for start in range(0, len(same), batch_size):
            part = same[start : start + batch_size]
            yield part, torch.stack([heard[place] for place in part])


def over_time(features: Tensor, num_frames: Tensor, spread: bool) -> Tensor:
    """Mean and standard deviation over the valid frames.  [B, D, T] -> [B, D] or [B, 2 D]"""
    frames = length_mask(num_frames.to(features.device), features.shape[-1])[:, None]
    count = frames.sum(-1).clamp(min=1)
    mean = features.where(frames, 0.0).sum(-1) / count
    if not spread:
        return mean
    variance = (features - mean[..., None]).square().where(frames, 0.0).sum(-1) / count
    return torch.cat([mean, variance.sqrt()], dim=1)


def default_device(device: str | torch.device | None) -> torch.device:
    """The device that is asked for, else the GPU where there is one."""
    if device is not None:
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def frozen(net: nn.Module, device: torch.device) -> Any:
    """The network for use, not for learning; its images with the channels last, which convolutions like best."""
    net.eval().requires_grad_(False).to(device)
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
