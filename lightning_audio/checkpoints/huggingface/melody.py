"""MusicGen-Melody in the form of `transformers` (MusicgenMelodyForConditionalGeneration).

The chromagram and then the text stand in front of the codes. Neither is masked: the padding of text is zero vectors
that are attended, and no melody is pitch class C in every frame, as in AudioCraft. The melody is repeated, or cut,
to `chroma_length` frames. There a stem is extracted (by demucs) before the model is called; so no separator is read,
nor written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_audio.checkpoints.huggingface.decoder import decoder_options
from lightning_audio.checkpoints.huggingface.files import CONFIG_FILE, part_of, read_json
from lightning_audio.checkpoints.huggingface.text_encoder import text_node
from lightning_audio.checkpoints.huggingface.whole import (
    PREPROCESSOR_FILE,
    conditioners_of,
    read_whole,
    write_whole,
)
from lightning_audio.checkpoints.stored import Config, StoredModel, arguments_of, build, class_of, node_of
from lightning_audio.conditioning.chroma import ChromaConditioner
from lightning_audio.conditioning.conditioning import Conditioning

MODEL_TYPE = "musicgen_melody"


def read_melody(folder: Path, *, text_encoder: str | Path | None = None) -> StoredModel:
    """The model in a folder of MusicgenMelodyForConditionalGeneration, in float32.

    text_encoder: a T5 folder, in place of the T5 in `folder`.
    """
    config = read_json(folder / CONFIG_FILE)
    text = text_node(part_of(config, "text_encoder", "t5"), text_encoder or folder)
    chroma = _chroma_node(part_of(config, "audio_encoder", "encodec"), config, folder / PREPROCESSOR_FILE)
    conditioning = node_of(
        Conditioning,
        conditioners={"melody": chroma, "description": text},
        dim=decoder_options(part_of(config, "decoder"))["hidden_size"],
        fuse={"prepend": ["melody", "description"]},
        mask_padding=False,
    )
    widths = {"melody": chroma["num_chroma"], "description": text["dim"]}
    return read_whole(folder, conditioning, widths=widths)


def write_melody(stored: StoredModel, folder: Path) -> Path:
    """A folder that `MusicgenMelodyForConditionalGeneration.from_pretrained` opens, with T5 and tokeniser."""
    conditioning = conditioners_of(stored.config["lm"], "prepend", ["melody", "description"])
    if conditioning["mask_padding"]:
        raise ValueError(
            "this model masks the padding of its conditions; transformers has no such MusicGen-Melody"
        )
    node = conditioning["conditioners"]["melody"]
    if class_of(node) is not ChromaConditioner:
        raise ValueError(f"transformers takes melodies as chroma, not by {class_of(node).__name__}")
    chroma = arguments_of(node)
    if not (chroma["argmax"] and chroma["silence_for_none"]) or chroma["duration"] is None:
        raise ValueError(
            "transformers has melodies of one pitch class a frame and of a set length, and silence for none; "
            f"this model has argmax={chroma['argmax']}, duration={chroma['duration']}, "
            f"silence_for_none={chroma['silence_for_none']}"
        )
    config = {
        "architectures": ["MusicgenMelodyForConditionalGeneration"],
        "model_type": MODEL_TYPE,
        "num_chroma": chroma["num_chroma"],
        "chroma_length": build({**node, "separator": None}).num_frames,
    }
    return write_whole(
        stored,
        folder,
        text=conditioning["conditioners"]["description"],
        config=config,
        preprocessor=_feature_extractor(chroma),
    )


def _chroma_node(codec: Mapping[str, Any], config: Mapping[str, Any], preprocessor: Path) -> Config:
    """The conditioner of melodies; the published window where no `preprocessor` says another."""
    options = read_json(preprocessor) if preprocessor.is_file() else {}
    sample_rate = options.get("sampling_rate", codec.get("sampling_rate", 24000))
    n_fft, hop_length = options.get("n_fft", 2**14), options.get("hop_length", 2**12)
    if n_fft.bit_count() != 1 or hop_length * 4 != n_fft:
        raise ValueError(
            f"a chromagram of windows of {n_fft} samples every {hop_length}; want 2 ** n, and a quarter"
        )
    return node_of(
        ChromaConditioner,
        sample_rate=sample_rate,
        duration=_duration(config.get("chroma_length", 235), hop_length / sample_rate),
        num_chroma=config.get("num_chroma", 12),
        radix2_exp=n_fft.bit_length() - 1,
        silence_for_none=True,
    )


def _duration(num_frames: int, hop: float) -> float:
    """The roundest number of seconds that makes so many frames, one every `hop` s: 30 s for 235 of 0.128 s."""
    if num_frames < 5:
        raise ValueError(f"a melody of {num_frames} frames; one window alone makes 5")
    middle = (num_frames - 0.5) * hop
    digits = next(n for n in range(16) if abs(round(middle, n) - middle) < 0.49 * hop)
    return round(middle, digits)


def _feature_extractor(chroma: Mapping[str, Any]) -> Config:
    window, seconds = 2 ** chroma["radix2_exp"], math.ceil(chroma["duration"])
    return {
        "feature_extractor_type": "MusicgenMelodyFeatureExtractor",
        "processor_class": "MusicgenMelodyProcessor",
        "feature_size": chroma["num_chroma"],
        "num_chroma": chroma["num_chroma"],
        "sampling_rate": chroma["sample_rate"],
        "n_fft": window,
        "hop_length": window // 4,
        "chunk_length": seconds,
        "n_samples": seconds * chroma["sample_rate"],
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
        "stem_indices": [3, 2],
    }
