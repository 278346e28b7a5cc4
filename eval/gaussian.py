"""A set of embeddings as mean and covariance, on disk too: all that a Fréchet distance needs of a reference set."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lightning_audio.atomic import whole_file

FORMAT = "lightning-audio gaussian 1"


@dataclass(frozen=True)
class Gaussian:
    """mean [D] and unbiased covariance [D, D] in float64, of `count` embeddings."""

    mean: Tensor
    covariance: Tensor
    count: int

    @property
    def dim(self) -> int:
        return len(self.mean)

    def content_hash(self) -> str:
        """sha256 over count, mean and covariance: which reference a distance was taken to."""
        digest = hashlib.sha256(f"{self.count} {self.dim}\n".encode())
        for tensor in (self.mean, self.covariance):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def gaussian_of(embeddings: Tensor) -> Gaussian:
    """Of one set of at least two embeddings [N, D]."""
    if len(embeddings) < 2:
        raise ValueError(f"{len(embeddings)} embeddings have no covariance, it takes 2")
    rows = embeddings.double()
    return Gaussian(rows.mean(0), torch.cov(rows.T).reshape(rows.shape[1], -1), len(rows))


def save_gaussian(
    path: str | Path, gaussian: Gaussian, *, embedder: str, weights_hash: str | None, about: str
) -> None:
    """Writes statistics that others can score against.

    embedder, weights_hash: what made the embeddings, as an embedder says it of itself.
    about: the set in words: its name, split, and what was done to the audio.
    """
    fields = {
        "format": FORMAT,
        "count": str(gaussian.count),
        "embedder": embedder,
        "weights_hash": weights_hash or "",
        "about": about,
        "content_hash": gaussian.content_hash(),
    }
    tensors = {
        "mean": gaussian.mean.cpu().contiguous(),
        "covariance": gaussian.covariance.cpu().contiguous(),
    }
    with whole_file(path) as temporary:
        save_file(tensors, temporary, metadata=fields)


def load_gaussian(path: str | Path, *, embedder: str, weights_hash: str | None) -> Gaussian:
    """Statistics that `save_gaussian` wrote, if they are whole and of the embedder that is to be used."""
    try:
        with safe_open(path, framework="pt") as file:
            fields = file.metadata() or {}
            if fields.get("format") != FORMAT:
                raise ValueError(f"{path} is in the format {fields.get('format')!r}, want {FORMAT!r}")
            gaussian = Gaussian(file.get_tensor("mean"), file.get_tensor("covariance"), int(fields["count"]))
    except SafetensorError as error:
        raise ValueError(f"{path} holds no reference statistics: {error}") from error
    if (found := gaussian.content_hash()) != fields["content_hash"]:
        raise ValueError(f"{path} is damaged: its content has hash {found}, want {fields['content_hash']}")
    made_by, used = (fields["embedder"], fields["weights_hash"]), (embedder, weights_hash or "")
    if made_by != used:
        raise ValueError(
            f"{path} was made by the embedder {made_by[0]} with weights {made_by[1] or 'none'}, "
            f"the set is embedded by {used[0]} with weights {used[1] or 'none'}"
        )
    return gaussian
