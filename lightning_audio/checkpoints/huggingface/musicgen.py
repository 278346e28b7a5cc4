"""MusicGen in the form of `transformers`: MusicgenForConditionalGeneration, and its decoder alone.

Text goes in by cross-attention. Its padding is masked there, which AudioCraft does not do; so a model that was read
from here masks it too, and one that does not is written with a warning.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from lightning_audio.checkpoints.huggingface.codec import feature_extractor
from lightning_audio.checkpoints.huggingface.decoder import (
    decoder_config,
    decoder_options,
    decoder_weights,
    lm_node,
    lm_weights,
)
from lightning_audio.checkpoints.huggingface.files import (
    CONFIG_FILE,
    open_weights,
    part_of,
    read_json,
    write_json,
    write_weights,
)
from lightning_audio.checkpoints.huggingface.text_encoder import t5_node, text_node
from lightning_audio.checkpoints.huggingface.whole import (
    conditioners_of,
    encodec_config,
    read_whole,
    write_whole,
)
from lightning_audio.checkpoints.stored import Config, StoredModel, arguments_of, node_of
from lightning_audio.conditioning.conditioning import Conditioning

MODEL_TYPE, DECODER_TYPE = "musicgen", "musicgen_decoder"


def read_musicgen(folder: Path, *, text_encoder: str | Path | None = None) -> StoredModel:
    """The model in a folder of MusicgenForConditionalGeneration, in float32.

    text_encoder: a T5 folder, in place of the T5 in `folder`.
    """
    config = read_json(folder / CONFIG_FILE)
    text = text_node(part_of(config, "text_encoder", "t5"), text_encoder or folder)
    conditioning = text_conditioning(text, decoder_options(part_of(config, "decoder"))["hidden_size"])
    return read_whole(folder, conditioning, widths={"description": text["dim"]})


def write_musicgen(stored: StoredModel, folder: Path) -> Path:
    """A folder that `MusicgenForConditionalGeneration.from_pretrained` opens, with T5 and tokeniser."""
    text = _text_of(stored)
    codec, channels = encodec_config(stored)
    return write_whole(
        stored,
        folder,
        text=text,
        config={"architectures": ["MusicgenForConditionalGeneration"], "model_type": MODEL_TYPE},
        preprocessor={**feature_extractor(codec, channels), "processor_class": "MusicgenProcessor"},
    )


def read_decoder(folder: Path, *, text_encoder: str | Path | None = None) -> StoredModel:
    """The language model in a folder of MusicgenForCausalLM, in float32.

    It takes conditions of its own width as they are; a T5 of that width can be given as `text_encoder`.
    """
    config = read_json(folder / CONFIG_FILE)
    dim = decoder_options(config)["hidden_size"]
    node = lm_node(config, text_conditioning(t5_node(dim, None, text_encoder), dim))
    return StoredModel(
        {"lm": node}, {"lm": lm_weights(open_weights(folder), widths={"description": dim}, dim=dim)}
    )


def write_decoder(stored: StoredModel, folder: Path) -> Path:
    """A folder that `MusicgenForCausalLM.from_pretrained` opens; stereo where the delays come in pairs."""
    _text_of(stored)
    node, weights = stored.config["lm"], stored.weights["lm"]
    delays = arguments_of(arguments_of(node)["pattern"]).get("delays", ())
    channels = 2 if list(delays[:2]) == [0, 0] else 1
    config = decoder_config(node, audio_channels=channels, model_type=DECODER_TYPE)
    write_weights(folder, decoder_weights(weights, num_codebooks=config["num_codebooks"]))
    write_json(folder / CONFIG_FILE, {"architectures": ["MusicgenForCausalLM"], **config})
    return folder


def text_conditioning(text: Config, dim: int) -> Config:
    """Descriptions by cross-attention, their padding masked."""
    return node_of(
        Conditioning,
        conditioners={"description": text},
        dim=dim,
        fuse={"cross": ["description"]},
        mask_padding=True,
    )


def _text_of(stored: StoredModel) -> Config:
    """The node of the text conditioner of a model that takes text alone."""
    conditioning = conditioners_of(stored.config["lm"], "cross", ["description"])
    if not conditioning["mask_padding"]:
        warnings.warn(
            "this model attends to the padding of text, transformers masks it: texts that are shorter than "
            "their neighbours in a batch will give other numbers there",
            stacklevel=3,
        )
    return conditioning["conditioners"]["description"]
