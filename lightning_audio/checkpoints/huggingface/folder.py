"""The door to the folders of `transformers`: which model lies in one, and which can hold one of ours."""

from __future__ import annotations

from pathlib import Path

from lightning_audio.checkpoints.huggingface import codec, melody, musicgen
from lightning_audio.checkpoints.huggingface.files import CONFIG_FILE, read_json
from lightning_audio.checkpoints.stored import StoredModel, arguments_of

MODEL_TYPES = (codec.MODEL_TYPE, musicgen.MODEL_TYPE, melody.MODEL_TYPE, musicgen.DECODER_TYPE)


def is_huggingface(path: Path) -> bool:
    """Whether `path` is a folder in the form of transformers, of whatever model."""
    file = path / CONFIG_FILE
    return file.is_file() and "model_type" in read_json(file)


def read_huggingface(path: Path, *, text_encoder: str | Path | None = None) -> StoredModel:
    """The model of a folder, in float32.  text_encoder: a T5 folder, in place of the one that lies there."""
    kind = read_json(path / CONFIG_FILE).get("model_type")
    if kind == codec.MODEL_TYPE:
        return codec.read_codec(path)
    readers = {
        musicgen.MODEL_TYPE: musicgen.read_musicgen,
        musicgen.DECODER_TYPE: musicgen.read_decoder,
        melody.MODEL_TYPE: melody.read_melody,
    }
    if kind not in readers:
        raise ValueError(f"{path} holds a {kind!r} model of transformers; known are {', '.join(MODEL_TYPES)}")
    return readers[kind](path, text_encoder=text_encoder)


def write_huggingface(stored: StoredModel, folder: Path) -> Path:
    """A folder that transformers opens; ValueError where it has no model like this one."""
    parts = set(stored.config)
    if parts == {"codec"}:
        return codec.write_codec(stored, folder)
    if parts == {"lm"}:
        return musicgen.write_decoder(stored, folder)
    if parts != {"codec", "lm", "generation"}:
        raise ValueError(f"transformers has no model of the parts {sorted(parts)}")
    conditioning = arguments_of(arguments_of(stored.config["lm"])["conditioning"])
    writer = melody.write_melody if "melody" in conditioning["conditioners"] else musicgen.write_musicgen
    return writer(stored, folder)
