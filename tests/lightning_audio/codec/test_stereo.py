"""A stereo codec out of a mono one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    EncodecConfig,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    T5Config,
)

from lightning_audio.checkpoints.huggingface.codec import codec_node, codec_weights
from lightning_audio.checkpoints.stored import StoredModel
from lightning_audio.codec.base import Codec
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.codec.quantizer import ResidualVectorQuantizer
from lightning_audio.codec.seanet import SEANetDecoder, SEANetEncoder
from lightning_audio.codec.stereo import StereoFromMono, deinterleave, interleave


def mono(**options: Any) -> EnCodec:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"dim": 8, "num_filters": 2, "ratios": (5, 4), "num_lstm_layers": 1}
    codec = EnCodec(
        encoder=SEANetEncoder(**shape),
        decoder=SEANetDecoder(**shape),
        quantizer=ResidualVectorQuantizer(dim=8, num_codebooks=4, cardinality=16),
        **{"sample_rate": 1000, **options},
    ).eval()
    codec.quantizer.codebooks.embed.normal_()
    return codec


def swapped(codes: Tensor) -> Tensor:
    """Left for right, [B, 2 K, T]."""
    return codes.unflatten(1, (-1, 2)).flip(2).flatten(1, 2)


def test_each_channel_is_what_the_mono_codec_makes_of_it() -> None:
    inner = mono()
    codec = StereoFromMono(codec=inner).eval()
    wav = torch.randn(3, 2, 400)
    encoded = codec.encode(wav)
    assert encoded.codes.shape == (3, 8, 20)
    for channel in (0, 1):
        alone = inner.encode(wav[:, channel : channel + 1])
        assert torch.equal(encoded.codes[:, channel::2], alone.codes)
        torch.testing.assert_close(codec.decode(encoded)[:, channel : channel + 1], inner.decode(alone))
    torch.testing.assert_close(
        codec(wav[..., :333]).wav, codec.decode(codec.encode(wav[..., :333]))[..., :333]
    )


def test_swapping_the_channels_swaps_codes_and_audio() -> None:
    codec = StereoFromMono(codec=mono()).eval()
    wav = torch.randn(2, 2, 333)
    codes = codec.encode(wav).codes
    assert not torch.equal(codes, swapped(codes))
    assert torch.equal(codec.encode(wav.flip(1)).codes, swapped(codes))
    torch.testing.assert_close(codec.decode(swapped(codes)), codec.decode(codes).flip(1))
    assert torch.equal(interleave(deinterleave(codes)), codes)


def test_it_is_a_codec_like_the_mono_one() -> None:
    inner = mono()
    codec = StereoFromMono(codec=inner)
    for each in (inner, codec):
        assert isinstance(each, Codec)
    assert (codec.channels, codec.num_codebooks, codec.max_codebooks, codec.cardinality) == (2, 8, 8, 16)
    assert (codec.sample_rate, codec.frame_rate, codec.hop_length) == (1000, 50.0, 20)
    wav = torch.randn(1, 2, 100)
    assert codec.encode(wav, num_codebooks=4).codes.shape[1] == 4
    assert codec.encode(wav, bandwidth=codec.bandwidth(6)).codes.shape[1] == 6
    codec.num_codebooks = 2
    assert (inner.num_codebooks, codec.encode(wav).codes.shape[1]) == (1, 2)


def test_volume_is_kept_for_each_channel() -> None:
    codec = StereoFromMono(codec=mono(normalize=True, chunk_duration=0.2)).eval()
    wav = torch.randn(2, 2, 390) * torch.tensor([1.0, 0.01])[:, None]
    encoded = codec.encode(wav)
    assert encoded.scale is not None
    assert encoded.scale.shape == (2, 2, 2)
    levels = codec.decode(encoded).square().mean((0, 2)).sqrt()
    assert levels[0] > 20 * levels[1]


def test_equals_stereo_in_transformers() -> None:
    """The codes that a stereo MusicGen there makes of a prompt, and the audio that it makes of codes."""
    torch.manual_seed(0)
    audio = EncodecConfig(
        num_filters=2,
        hidden_size=8,
        codebook_size=16,
        target_bandwidths=[0.8],  # 4 codebooks of 4 bits, 50 times a second
        sampling_rate=32000,
        upsampling_ratios=[8, 5, 4, 4],
        use_causal_conv=False,
    )
    small: dict[str, Any] = {"vocab_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    decoder = MusicgenDecoderConfig(**small, ffn_dim=16, hidden_size=16, num_codebooks=8, audio_channels=2)
    text = T5Config(vocab_size=20, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    config = MusicgenConfig(
        text_encoder=text.to_dict(), audio_encoder=audio.to_dict(), decoder=decoder.to_dict()
    )
    model = MusicgenForConditionalGeneration(config).eval()
    theirs = model.audio_encoder
    for layer in theirs.quantizer.layers:
        layer.codebook.embed.data.normal_()
    weights = codec_weights(theirs.state_dict())
    codec = StereoFromMono(
        codec=StoredModel({"codec": codec_node(audio.to_dict())}, {"codec": weights}).assemble()
    )
    wav = torch.randn(2, 2, 6400)
    with torch.no_grad():
        prompt = model._prepare_audio_encoder_kwargs_for_generation(wav, {})["decoder_input_ids"]
        codes = prompt.view(2, 8, 10)
        sides = [theirs.decode(codes[None, :, side::2], [None] * 2).audio_values for side in (0, 1)]
    assert torch.equal(codec.encode(wav).codes, codes)
    torch.testing.assert_close(codec.decode(codes), torch.cat(sides, 1), rtol=0, atol=1e-5)


def test_it_is_stored_like_every_model() -> None:
    shape = {"dim": 8, "num_filters": 2, "ratios": [5, 4], "num_lstm_layers": 1}
    inner = {
        "_target_": "lightning_audio.codec.encodec.EnCodec",
        "encoder": {"_target_": "lightning_audio.codec.seanet.SEANetEncoder", **shape},
        "decoder": {"_target_": "lightning_audio.codec.seanet.SEANetDecoder", **shape},
        "quantizer": {
            "_target_": "lightning_audio.codec.quantizer.ResidualVectorQuantizer",
            "dim": 8,
            "num_codebooks": 4,
            "cardinality": 16,
        },
        "sample_rate": 1000,
    }
    codec = StereoFromMono(codec=mono())
    node = {"_target_": "lightning_audio.codec.stereo.StereoFromMono", "codec": inner}
    again = StoredModel({"codec": node}, {"codec": codec.state_dict()}).assemble()
    wav = torch.randn(1, 2, 100)
    assert torch.equal(again.encode(wav).codes, codec.eval().encode(wav).codes)


def test_what_is_not_stereo_is_refused() -> None:
    codec = StereoFromMono(codec=mono())
    with pytest.raises(ValueError, match=r"\[batch, 2, samples\]"):
        codec.encode(torch.zeros(1, 1, 100))
    for ask in (
        lambda: codec.encode(torch.zeros(1, 2, 100), num_codebooks=3),
        lambda: codec.decode(torch.zeros(1, 3, 5)),
    ):
        with pytest.raises(ValueError, match="3 codebooks cannot be shared"):
            ask()
    shape: dict[str, Any] = {"channels": 2, "dim": 8, "num_filters": 2, "ratios": (5, 4)}
    stereo = EnCodec(
        encoder=SEANetEncoder(**shape),
        decoder=SEANetDecoder(**shape),
        quantizer=ResidualVectorQuantizer(dim=8, num_codebooks=4, cardinality=16),
        sample_rate=1000,
        channels=2,
    )
    with pytest.raises(ValueError, match="got 2 channels"):
        StereoFromMono(codec=stereo)
