"""Models of generative audio: `load` one, `generate` with it, `export` it.

The names below are imported when first used, so that a worker process that only reads audio starts at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_audio.batch import AudioBatch
    from lightning_audio.checkpoints.load import export, load
    from lightning_audio.codec.encodec import EnCodec
    from lightning_audio.drop_in.models import AudioGen, MAGNeT, MusicGen
    from lightning_audio.drop_in.multiband import MultiBandDiffusion
    from lightning_audio.generation.masked import MaskedTextToAudio
    from lightning_audio.generation.text_to_audio import TextToAudio

__all__ = [
    "AudioBatch",
    "AudioGen",
    "EnCodec",
    "MAGNeT",
    "MaskedTextToAudio",
    "MultiBandDiffusion",
    "MusicGen",
    "TextToAudio",
    "export",
    "load",
]

_HOMES = {
    "AudioBatch": "batch",
    "AudioGen": "drop_in.models",
    "EnCodec": "codec.encodec",
    "MAGNeT": "drop_in.models",
    "MaskedTextToAudio": "generation.masked",
    "MultiBandDiffusion": "drop_in.multiband",
    "MusicGen": "drop_in.models",
    "TextToAudio": "generation.text_to_audio",
    "export": "checkpoints.load",
    "load": "checkpoints.load",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
