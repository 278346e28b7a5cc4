"""MAGNeT (arXiv 2401.04577): codes by masked prediction, one codebook after the other, many frames at once."""

from lightning_audio.lm.masked.decoding import SOUND, MaskedSettings, generate_masked
from lightning_audio.lm.masked.hybrid import generate_hybrid
from lightning_audio.lm.masked.model import MaskedLM

__all__ = ["SOUND", "MaskedLM", "MaskedSettings", "generate_hybrid", "generate_masked"]
