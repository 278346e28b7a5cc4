"""Models of generative audio: `load` one, `generate` with it, `export` it."""

from lightning_audio.batch import AudioBatch
from lightning_audio.checkpoints.load import export, load
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.generate import TextToAudio

__all__ = ["AudioBatch", "EnCodec", "TextToAudio", "export", "load"]
