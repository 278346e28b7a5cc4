"""Audio to embeddings, the space in which a distance is taken, and to a tagger's logits.

An embedder decides what a score means: so its name, its rate, how it hears (resampler, level), and the hash of its
weights go on the card.
"""

from eval.embedders.ast import Ast
from eval.embedders.base import ClipEmbedder, Embedder, Tagger
from eval.embedders.clap import Clap
from eval.embedders.codec import CodecFrameEmbedder, CodecLatentEmbedder, LatentCodec
from eval.embedders.files import EmbeddedFile, embed_files
from eval.embedders.hearing import AsGiven, Hearing, Julius, KaiserBest, Loudness, Peak
from eval.embedders.log_mel import LogMelEmbedder
from eval.embedders.pann import Pann
from eval.embedders.passt import Passt
from eval.embedders.vggish import VGGish

__all__ = [
    "AsGiven",
    "Ast",
    "Clap",
    "ClipEmbedder",
    "CodecFrameEmbedder",
    "CodecLatentEmbedder",
    "EmbeddedFile",
    "Embedder",
    "Hearing",
    "Julius",
    "KaiserBest",
    "LatentCodec",
    "LogMelEmbedder",
    "Loudness",
    "Pann",
    "Passt",
    "Peak",
    "Tagger",
    "VGGish",
    "embed_files",
]
