"""Audio to one embedding per clip: the space in which a Fréchet distance is taken.

An embedder decides what a distance means, so it says its name, the rate it works at, and the hash of its
weights, and all three go on the card. Those that need no download are here. VGGish, CLAP, PANN and others
that load published weights have the same contract and get one file each beside this one.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from eval.clip_scores import valid_samples
from eval.mel import LogMel
from lightning_audio.audio import convert
from lightning_audio.batch import length_mask
from lightning_audio.hashing import weights_hash


class Embedder(Protocol):
    """What every embedder is.  `weights_hash` is None where there are no weights."""

    name: str
    sample_rate: int
    weights_hash: str | None

    def embed(self, wav: Tensor, sample_rate: int, num_samples: Tensor | None = None) -> Tensor:
        """wav [B, C, L] at `sample_rate` Hz, with `num_samples` [B] valid samples -> [N, D]"""
        ...


class LatentCodec(Protocol):
    """The part of a codec that its embedder needs."""

    sample_rate: int
    channels: int

    @property
    def frame_rate(self) -> float: ...

    def encode_latent(self, wav: Tensor) -> Tensor: ...


class CodecLatentEmbedder:
    """Mean and (with `spread`) standard deviation over time of a codec's latents before quantisation.

    It judges audio by what the codec hears, and is blind where the codec is: only compare values that were
    made with the same codec.
    """

    def __init__(self, codec: LatentCodec, *, spread: bool = True) -> None:
        self.codec = codec
        self.spread = spread
        self.name = "codec-latent-mean-std" if spread else "codec-latent-mean"
        self.sample_rate = codec.sample_rate
        self.weights_hash = weights_hash(codec) if isinstance(codec, nn.Module) else None

    @torch.no_grad()
    def embed(self, wav: Tensor, sample_rate: int, num_samples: Tensor | None = None) -> Tensor:
        wav, lengths = _prepare(wav, sample_rate, self.sample_rate, self.codec.channels, num_samples)
        latent = self.codec.encode_latent(wav)  # [B, D, T]
        # A last frame that is only partly filled is still the clip's.
        frames = (lengths * self.codec.frame_rate / self.sample_rate).ceil().long().clamp(min=1)
        return _over_time(latent, frames, self.spread)


class LogMelEmbedder:
    """Mean and standard deviation over time of log-mel frames (dB / 10): timbre and how it moves."""

    weights_hash: str | None = None

    def __init__(self, *, sample_rate: int = 16_000, num_mels: int = 64, spread: bool = True) -> None:
        self.sample_rate = sample_rate
        self.spread = spread
        self.name = f"log-mel-{num_mels}-mean{'-std' if spread else ''}"
        self.log_mel = LogMel(sample_rate=sample_rate, window=1024, hop=256, num_mels=num_mels)

    @torch.no_grad()
    def embed(self, wav: Tensor, sample_rate: int, num_samples: Tensor | None = None) -> Tensor:
        wav, lengths = _prepare(wav, sample_rate, self.sample_rate, 1, num_samples)
        spectrogram = self.log_mel.to(wav.device)(wav[:, 0]) / 10.0  # [B, M, T]
        return _over_time(spectrogram, self.log_mel.num_frames(lengths), self.spread)


def _prepare(
    wav: Tensor, from_rate: int, to_rate: int, channels: int, num_samples: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The clips at the embedder's rate and channels, padding zeroed, and their new lengths [B]."""
    if wav.ndim != 3:
        raise ValueError(f"wav is {tuple(wav.shape)}, want [B, C, L]")
    valid = valid_samples(wav, num_samples)
    converted = convert(wav.float().where(valid[:, None], 0.0), from_rate, to_rate, channels)
    lengths = (valid.sum(1) * to_rate + from_rate - 1) // from_rate
    return converted, lengths.clamp(max=converted.shape[-1])


def _over_time(features: Tensor, num_frames: Tensor, spread: bool) -> Tensor:
    """Mean and standard deviation over the valid frames.  [B, D, T] -> [B, D] or [B, 2 D]"""
    frames = length_mask(num_frames.to(features.device), features.shape[-1])[:, None]
    count = frames.sum(-1).clamp(min=1)
    mean = features.where(frames, 0.0).sum(-1) / count
    if not spread:
        return mean
    variance = (features - mean[..., None]).square().where(frames, 0.0).sum(-1) / count
    return torch.cat([mean, variance.sqrt()], dim=1)
