"""One door for every form in which a model comes: it looks at what lies there and picks the reader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lightning_audio.checkpoints.audiocraft.folder import (
    CODEC_FILE,
    LM_FILE,
    FindCodec,
    read_audiocraft,
    read_audiocraft_file,
    read_codec_file,
)
from lightning_audio.checkpoints.audiocraft.mbd import PUBLISHED_CODECS, bands_file, is_mbd, read_mbd
from lightning_audio.checkpoints.audiocraft.package import read_file
from lightning_audio.checkpoints.encodec import is_encodec, read_encodec
from lightning_audio.checkpoints.hub import locate
from lightning_audio.checkpoints.huggingface.folder import is_huggingface, read_huggingface
from lightning_audio.checkpoints.native import is_native, read_native
from lightning_audio.checkpoints.stored import StoredModel

OTHER_CODECS = {
    "dac_44khz": "descript-audio-codec",
    "dac_24khz": "descript-audio-codec",
    "wavtokenizer": "WavTokenizer",
}
"""Codecs that AudioCraft names and that are no EnCodecs."""


@dataclass(frozen=True)
class _Asked:
    """What a reader may need beside the place. codec: what a file of bands decodes for, where it is known."""

    text_encoder: str | Path | None = None
    codec: StoredModel | None = None
    cache_dir: str | Path | None = None


def read_model(
    source: str | Path,
    *,
    text_encoder: str | Path | None = None,
    codec: StoredModel | None = None,
    cache_dir: str | Path | None = None,
) -> StoredModel:
    """The model at a path, or of a name that the hub knows, in whatever form it lies there.

    codec: for a file of bands that has none beside it. The other arguments are those of `load`.
    """
    path = locate(source, cache_dir=cache_dir)
    asked = _Asked(text_encoder, codec, cache_dir)
    if path.is_file():
        return _read_file(path, asked)
    for recognises, read in _FOLDERS:
        if recognises(path):
            return read(path, asked)
    held = ", ".join(sorted(child.name for child in path.iterdir())[:6]) or "nothing"
    raise ValueError(
        f"{path} holds no model in a form that is known: neither a run or package of this project (config.yaml), nor "
        f"AudioCraft's files ({LM_FILE}, {CODEC_FILE}, bands in a .th), nor a model of transformers (config.json); "
        f"it holds {held}"
    )


def _read_file(file: Path, asked: _Asked) -> StoredModel:
    if is_native(file):
        return _read_own(file, asked)
    if is_mbd(file):
        return _read_bands(file, asked)
    content = read_file(file)
    if "best_state" in content or "pretrained" in content:
        find = _finder(file.parent, asked)
        return read_audiocraft_file(file, content, find_codec=find, text_encoder=asked.text_encoder)
    if is_encodec(content):
        return read_encodec(file)
    raise ValueError(
        f"{file} holds no model that is known: neither one of AudioCraft (best_state, xp.cfg), nor the weights of an "
        f"EnCodec, nor bands; it holds {', '.join(map(str, list(content)[:5])) or 'nothing'}"
    )


def _read_own(path: Path, asked: _Asked) -> StoredModel:
    read_codec = partial(read_model, cache_dir=asked.cache_dir)
    return read_native(path, text_encoder=asked.text_encoder, read_codec=read_codec)


def _read_bands(path: Path, asked: _Asked) -> StoredModel:
    file = bands_file(path)
    return read_mbd(file, codec=asked.codec or _codec_of_bands(file, asked))


def _read_packaged(folder: Path, asked: _Asked) -> StoredModel:
    return read_audiocraft(folder, find_codec=_finder(folder, asked), text_encoder=asked.text_encoder)


# A folder is of the first form that recognises it. The published MusicGen folders hold AudioCraft's and transformers'
# files: the first are the original. Bands lie beside the codec that they decode for.
_FOLDERS: list[tuple[Callable[[Path], bool], Callable[[Path, _Asked], StoredModel]]] = [
    (is_native, _read_own),
    (lambda folder: (folder / LM_FILE).is_file(), _read_packaged),
    (is_mbd, _read_bands),
    (lambda folder: (folder / CODEC_FILE).is_file(), _read_packaged),
    (is_huggingface, lambda folder, asked: read_huggingface(folder, text_encoder=asked.text_encoder)),
]


def _codec_of_bands(file: Path, asked: _Asked) -> StoredModel | None:
    """The codec that lies beside a file of bands, or that is pointed to there; or that of a published file."""
    beside = file.parent / CODEC_FILE
    find = _finder(file.parent, asked)
    if beside.is_file():
        return read_codec_file(beside, find_codec=find)
    return find(PUBLISHED_CODECS[file.name]) if file.name in PUBLISHED_CODECS else None


def _finder(folder: Path, asked: _Asked) -> FindCodec:
    return partial(_find_codec, folder=folder, cache_dir=asked.cache_dir)


def _find_codec(name: str, *, folder: Path, cache_dir: str | Path | None) -> StoredModel:
    """The codec that a file in `folder` names: beside it under its own or its last name, or by its name at the hub."""
    plain = name.removeprefix("//pretrained/")
    if plain in OTHER_CODECS:
        raise ValueError(
            f"{folder} points to the codec {plain!r} ({OTHER_CODECS[plain]}); this project has EnCodecs only"
        )
    last = Path(plain).name
    candidates = [folder / plain, folder / last, folder.parent / plain, folder.parent / last]
    # Never the pointing folder itself, which may well be named like its codec.
    there = (path for path in candidates if path.exists() and path.resolve() != folder.resolve())
    found = next(there, plain)
    try:
        stored = read_model(found, cache_dir=cache_dir)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{folder} holds no codec of its own but points to {name!r}, which is not there: put its folder (of "
            f"{CODEC_FILE}, or config.json and model.safetensors) at {folder / last}. {error}"
        ) from error
    if "codec" not in stored.config:
        raise ValueError(
            f"{folder} points to {name!r} as its codec, which is a model of {sorted(stored.config)}"
        )
    return StoredModel({"codec": stored.config["codec"]}, {"codec": stored.weights["codec"]})
