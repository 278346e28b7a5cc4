"""One door for every form in which a model comes: it looks at what lies there and picks the reader."""

from __future__ import annotations

from pathlib import Path

import torch

from lightning_audio.checkpoints.native import is_native, read_native, write_native
from lightning_audio.checkpoints.stored import take_apart
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.generation.text_to_audio import TextToAudio


def load(
    source: str | Path,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    text_encoder: str | Path | None = None,
) -> EnCodec | TextToAudio:
    """A ready model from a run folder, a checkpoint file or a packaged folder.

    device: where it goes; by default a GPU where there is one.
    dtype: of the weights, float32 as stored by default.
    text_encoder: a local T5 folder, where the one that the checkpoint names cannot be fetched.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"there is no model at {path}")
    if not is_native(path):
        raise ValueError(f"{path} is neither a run folder, a checkpoint (.ckpt) nor a packaged model")
    model = read_native(path, text_encoder=text_encoder).assemble()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return model.to(device=device, dtype=dtype)


def export(model: EnCodec | TextToAudio, folder: str | Path) -> Path:
    """Write a loaded model as one folder of plain weights and a config, which `load` opens anywhere."""
    return write_native(take_apart(model), Path(folder))
