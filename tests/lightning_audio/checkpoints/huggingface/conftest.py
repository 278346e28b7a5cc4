"""Tiny random models of `transformers`, saved as folders: the implementation to be equal to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    AutoTokenizer,
    EncodecConfig,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    MusicgenMelodyConfig,
    MusicgenMelodyDecoderConfig,
    MusicgenMelodyForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
)

WORDS = ["a", "warm", "fast", "piano", "drum", "and", "bass", "loop", "over", "rain", "slow"]
SPECIAL = 32  # the token that is no code
DECODER: dict[str, Any] = {
    "vocab_size": SPECIAL,
    "pad_token_id": SPECIAL,
    "bos_token_id": SPECIAL,
    "hidden_size": 32,
    "ffn_dim": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
}
CODEC: dict[str, Any] = {
    "num_filters": 2,
    "hidden_size": 8,
    "codebook_size": SPECIAL,
    "sampling_rate": 32000,
    "upsampling_ratios": [8, 5, 4, 4],
    "target_bandwidths": [1.0],
    "use_causal_conv": False,
    "use_conv_shortcut": False,
    "pad_mode": "constant",
}
GENERATION: dict[str, Any] = {
    "bos_token_id": SPECIAL,
    "decoder_start_token_id": SPECIAL,
    "pad_token_id": SPECIAL,
    "do_sample": True,
    "guidance_scale": 3.0,
    "max_length": 1500,
}


class Theirs:
    """Makes tiny models of transformers, saves them as folders, and asks them for what they give."""

    texts = ("warm piano", "a fast drum and bass loop over rain", None)
    special = SPECIAL
    generation = GENERATION

    def musicgen(self, width: int = 24, codec: dict[str, Any] | None = None, **decoder: Any) -> Any:
        """width: of the T5."""
        torch.manual_seed(0)
        config = MusicgenConfig(
            text_encoder=_text_config(width),
            audio_encoder=EncodecConfig(**{**CODEC, **(codec or {})}),
            decoder=MusicgenDecoderConfig(**{**DECODER, **decoder}),
        )
        return _random(MusicgenForConditionalGeneration(config))

    def melody(self, width: int = 24, chroma_length: int = 12, **decoder: Any) -> Any:
        torch.manual_seed(0)
        config = MusicgenMelodyConfig(
            text_encoder=_text_config(width),
            audio_encoder=EncodecConfig(**CODEC),
            decoder=MusicgenMelodyDecoderConfig(**{**DECODER, **decoder}),
            chroma_length=chroma_length,
        )
        return _random(MusicgenMelodyForConditionalGeneration(config))

    def save(self, model: Any, folder: Path, **options: Any) -> Path:
        """The folder, with the tokeniser that published ones hold as well."""
        model.save_pretrained(folder, **options)
        _tokenizer().save_pretrained(folder)
        return folder

    def inputs(self, folder: Path, texts: Sequence[str | None]) -> dict[str, Tensor]:
        """Token ids and mask; no text is all padding: the null condition of transformers."""
        tokenizer = AutoTokenizer.from_pretrained(folder)
        batch = tokenizer([text or "" for text in texts], return_tensors="pt", padding=True)
        present = torch.tensor([text is not None for text in texts])[:, None]
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"] * present}

    def tokens(self, model: Any, num_frames: int, **inputs: Any) -> Tensor:
        """The codes [B, K, T] that transformers' own `generate` hands to its codec, greedily."""
        found: list[Tensor] = []
        decode = model.audio_encoder.decode

        def record(codes: Tensor, *args: Any, **options: Any) -> Any:
            found.append(codes[0])
            return decode(codes, *args, **options)

        channels = model.config.decoder.audio_channels
        longest = num_frames + model.config.decoder.num_codebooks // channels
        model.audio_encoder.decode = record
        try:
            model.generate(**inputs, do_sample=False, max_length=longest)
        finally:
            del model.audio_encoder.decode
        return found[0] if channels == 1 else torch.stack(found, dim=2).flatten(1, 2)


def _text_config(width: int) -> T5Config:
    return T5Config(vocab_size=128, d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=3)


def _tokenizer() -> PreTrainedTokenizerFast:
    """Whole words, and an end of text as T5 has it."""
    ids = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    core = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


@torch.no_grad()
def _random(model: Any) -> Any:
    """Weights wide enough that greedy choices are clear and conditions count; settings as published."""
    for name, parameter in model.named_parameters():
        if name.startswith("decoder") and parameter.dim() > 1:
            parameter.normal_(std=0.25)
        elif "enc_to_dec_proj" in name:
            parameter.normal_(std=0.5)
    for level, layer in enumerate(model.audio_encoder.quantizer.layers):
        layer.codebook.embed.normal_(std=0.1 * 0.7**level)  # transformers starts them at zero
    model.generation_config.update(**GENERATION)
    return model.eval()


@pytest.fixture(scope="session")
def theirs() -> Theirs:
    return Theirs()


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield
