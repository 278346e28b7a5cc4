"""The codec of whatever model lies at a place, for trainings that need one beside what they train."""

from __future__ import annotations

from pathlib import Path

from lightning_audio.checkpoints.read import read_model
from lightning_audio.checkpoints.stored import StoredModel
from lightning_audio.codec.encodec import EnCodec


def load_codec(source: str | Path, *, cache_dir: str | Path | None = None) -> EnCodec:
    """The codec of a run, package or published model, on the CPU; the sources are those of `load`."""
    codec = read_codec_of(source, cache_dir=cache_dir).assemble()
    if not isinstance(codec, EnCodec):
        raise ValueError(f"the codec of {source} is a {type(codec).__name__}, want an EnCodec")
    return codec


def read_codec_of(source: str | Path, *, cache_dir: str | Path | None = None) -> StoredModel:
    """The same, as its node and weights."""
    stored = read_model(source, cache_dir=cache_dir)
    if "codec" not in stored.config:
        raise ValueError(f"{source} holds no codec; it holds {sorted(stored.config)}")
    return StoredModel({"codec": stored.config["codec"]}, {"codec": stored.weights["codec"]})
