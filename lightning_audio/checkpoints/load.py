"""`load` gives a ready model of whatever lies at a place or has a name; `export` writes one in the form asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_audio.atomic import whole_folder
from lightning_audio.checkpoints.audiocraft.folder import write_audiocraft
from lightning_audio.checkpoints.audiocraft.mbd import is_mbd
from lightning_audio.checkpoints.huggingface.folder import write_huggingface
from lightning_audio.checkpoints.native import write_native
from lightning_audio.checkpoints.read import read_model
from lightning_audio.checkpoints.stored import take_apart
from lightning_audio.checkpoints.verify import verify
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.generation.base import AudioGenerator

FORMATS: dict[str, Callable[..., Path]] = {
    "native": write_native,
    "audiocraft": write_audiocraft,
    "transformers": write_huggingface,
}
# The bands that AudioCraft decodes with, by the sample rate (Hz) of the codec; those of 24 kHz by codebooks, too.
_BANDS = "facebook/multiband-diffusion/"
_BANDS_OF_RATE = {32000: _BANDS + "mbd_musicgen_32khz.th", 24000: _BANDS + "mbd_comp_{codebooks}.pt"}


def load(
    source: str | Path,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    text_encoder: str | Path | None = None,
    cache_dir: str | Path | None = None,
) -> Any:
    """A ready model: an `EnCodec`, a `TextToAudio`, a `MaskedTextToAudio` or a `MultiBandDiffusion`.

    source: a run folder, checkpoint or package of this project; a folder or file in AudioCraft's form; a file of the
        first EnCodec repository; a folder of transformers; or the hub's name of one ("facebook/musicgen-small", or
        "small" as AudioCraft has it, or "owner/name/file").
    device: where it goes; by default a GPU where there is one.
    dtype: of the weights, float32 by default.
    text_encoder: a local T5 folder, where the one that the checkpoint names cannot be fetched.
    cache_dir: where files of the hub are kept; by default `AUDIOCRAFT_CACHE_DIR`, else the hub's own cache.
    """
    model = read_model(source, text_encoder=text_encoder, cache_dir=cache_dir).assemble()
    if isinstance(model, AudioGenerator):
        model.find_decoder = partial(_find_decoder, codec=model.codec, source=source, cache_dir=cache_dir)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device=device, dtype=dtype)
    for part in model.modules():
        if isinstance(part, EnCodec):
            part.prepare_for_inference()
    return model


def export(
    model: nn.Module,
    folder: str | Path,
    format: str = "native",
    *,
    dtype: torch.dtype | None = None,
    replace: bool = False,
    report: Callable[[str], None] = print,
) -> Path:
    """Write a model that came from `load` as one folder, which is whole and checked, or is not there.

    format: "native": plain weights and a config, which `load` opens anywhere; "audiocraft": what AudioCraft's own
        loaders open; "transformers": what `from_pretrained` opens.
    dtype: of the language model's weights, for "audiocraft" only, which publishes float16; by default float32.
    replace: what lies at `folder` already.
    report: is told in a line what was checked: the folder is read again, and codes or logits are compared.
    """
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; there are {', '.join(FORMATS)}")
    if dtype is not None and format != "audiocraft":
        raise ValueError(f"format {format!r} keeps the weights as they are; dtype is for 'audiocraft'")
    folder, stored = Path(folder), take_apart(model)
    options = {} if dtype is None else {"dtype": dtype}
    with whole_folder(folder, replace=replace) as temporary:
        FORMATS[format](stored, temporary, **options)
        checked = verify(stored, read_model(temporary), dtype=dtype)
    rounding = "" if dtype is None else f" (to weights rounded to {dtype})"
    report(f"checked: read again from {folder} ({format}), {checked}{rounding}")
    return folder


def _find_decoder(name: str, *, codec: Any, source: str | Path, cache_dir: str | Path | None) -> Any:
    """The decoder of that name for the codec of a model: "mbd" is the published one; else whatever `load` opens."""
    place: str | Path = _bands_for(codec, source) if name == "mbd" else name
    stored = read_model(place, codec=take_apart(codec), cache_dir=cache_dir)
    if "lm" in stored.config:
        raise ValueError(f"{name} writes codes; a decoder makes audio of them")
    weight = next(codec.parameters())
    return stored.assemble().to(device=weight.device, dtype=weight.dtype)


def _bands_for(codec: Any, source: str | Path) -> str | Path:
    """The bands beside the model, else the published ones."""
    folder = Path(source).expanduser()
    if folder.is_dir() and is_mbd(folder):
        return folder
    if codec.sample_rate not in _BANDS_OF_RATE or codec.channels != 1:
        known = " and ".join(f"{rate} Hz" for rate in _BANDS_OF_RATE)
        raise ValueError(
            f"multi-band diffusion was published for mono codecs of {known}, "
            f"not for {codec.sample_rate} Hz and {codec.channels} channels"
        )
    return _BANDS_OF_RATE[codec.sample_rate].format(codebooks=codec.num_codebooks)
