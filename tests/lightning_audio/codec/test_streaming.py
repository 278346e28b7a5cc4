"""Streaming: chunk by chunk equals the whole at once, whatever the chunks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import EncodecConfig, EncodecModel

from lightning_audio.checkpoints.huggingface.codec import codec_node, codec_weights
from lightning_audio.checkpoints.stored import StoredModel
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.codec.quantizer import ResidualVectorQuantizer
from lightning_audio.codec.seanet import SEANetDecoder, SEANetEncoder
from lightning_audio.codec.streaming import decode_chunk, encode_chunk

HOP = 20


def causal(*, trim_right_ratio: float = 1.0, **options: Any) -> EnCodec:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "dim": 8,
        "num_filters": 4,
        "ratios": (5, 4),
        "num_lstm_layers": 2,
        "causal": True,
        **options,
    }
    codec = EnCodec(
        encoder=SEANetEncoder(**shape),
        decoder=SEANetDecoder(**shape, trim_right_ratio=trim_right_ratio, final_activation=nn.Tanh()),
        quantizer=ResidualVectorQuantizer(dim=8, num_codebooks=4, cardinality=16),
        sample_rate=1000,
    ).eval()
    with torch.no_grad():
        spread = codec.encoder(torch.randn(1, 1, 1000)).std(dim=-1).squeeze(0)
    for level, codes in enumerate(codec.quantizer.codebooks.embed):  # so that all codes are near some latent
        codes.normal_().mul_(spread * 0.7**level)
    return codec


def cut(x: Tensor, sizes: list[int]) -> list[Tensor]:
    """Pieces of x of these sizes, over and over, the last one what is left."""
    pieces, start, turn = [], 0, 0
    while start < x.shape[-1]:
        pieces.append(x[..., start : start + sizes[turn % len(sizes)]])
        start, turn = start + sizes[turn % len(sizes)], turn + 1
    return pieces


def encoded_in(codec: EnCodec, wav: Tensor, sizes: list[int], **options: Any) -> Tensor:
    state, codes = None, []
    pieces = cut(wav, sizes)
    for i, piece in enumerate(pieces):
        found, state = encode_chunk(codec, piece, state, last=i == len(pieces) - 1, **options)
        codes.append(found)
    assert state is None
    return torch.cat(codes, -1)


def decoded_in(codec: EnCodec, codes: Tensor, sizes: list[int]) -> Tensor:
    state, wavs = None, []
    pieces = cut(codes, sizes)
    for i, piece in enumerate(pieces):
        found, state = decode_chunk(codec, piece, state, last=i == len(pieces) - 1)
        wavs.append(found)
    return torch.cat(wavs, -1)


VARIANTS: dict[str, dict[str, Any]] = {
    "audiocraft": {"pad_mode": "constant", "true_skip": True},
    "original": {"pad_mode": "reflect", "true_skip": False},
    "deep": {"pad_mode": "reflect", "num_residual_layers": 3, "num_lstm_layers": 0},
    "replicate": {"pad_mode": "replicate"},
    "late": {"pad_mode": "constant", "trim_right_ratio": 0.0},
    "half late": {"pad_mode": "reflect", "trim_right_ratio": 0.5},
}


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[1], [7], [HOP], [333], [3, 0, 90, 1], [10_000]])
@pytest.mark.parametrize("name", VARIANTS)
def test_equals_the_whole_at_once(name: str, sizes: list[int]) -> None:
    codec = causal(**VARIANTS[name])
    for length in (400, 333):  # the second does not fill its last frame
        wav = torch.randn(2, 1, length)
        codes = codec.encode(wav).codes
        assert len(codes.unique()) > 8
        assert torch.equal(encoded_in(codec, wav, sizes), codes)
        torch.testing.assert_close(decoded_in(codec, codes, sizes), codec.decode(codes), rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_shorter_than_the_padding(name: str) -> None:
    codec = causal(**VARIANTS[name])
    for length in (1, 2, 5, 23):
        wav = torch.randn(1, 1, length)
        codes = codec.encode(wav).codes
        assert torch.equal(encoded_in(codec, wav, [1]), codes)
        torch.testing.assert_close(decoded_in(codec, codes, [1]), codec.decode(codes), rtol=0, atol=1e-5)


@torch.no_grad()
def test_random_chunks_of_a_bandwidth() -> None:
    codec = causal().prepare_for_inference()
    wav = torch.randn(1, 1, 999)
    sizes = torch.randint(0, 60, (50,), generator=torch.Generator().manual_seed(1)).tolist()
    bandwidth = codec.bandwidth(2)
    wanted = codec.encode(wav, bandwidth=bandwidth).codes
    assert wanted.shape[1] == 2
    assert torch.equal(encoded_in(codec, wav, sizes, bandwidth=bandwidth), wanted)


@torch.no_grad()
def test_codes_and_audio_come_as_soon_as_they_can() -> None:
    """A frame needs no sample after its own, and its audio no frame after it."""
    codec = causal()
    state, count = None, []
    for _ in range(3 * HOP):
        codes, state = encode_chunk(codec, torch.randn(1, 1, 1), state)
        count.append(codes.shape[-1])
    assert [i + 1 for i, number in enumerate(count) if number] == [HOP, 2 * HOP, 3 * HOP]
    wav, _ = decode_chunk(codec, torch.zeros(1, 4, 1, dtype=torch.long))
    assert wav.shape == (1, 1, HOP)


@torch.no_grad()
def test_a_state_is_a_value() -> None:
    codec = causal(pad_mode="reflect")
    first, second = torch.randn(1, 1, 130), torch.randn(1, 1, 70)
    _, state = encode_chunk(codec, first)
    once, _ = encode_chunk(codec, second, state, last=True)
    encode_chunk(codec, torch.randn(1, 1, 55), state)  # another future of the same past
    again, _ = encode_chunk(codec, second, state, last=True)
    assert torch.equal(once, again)
    codes = torch.randint(16, (1, 4, 9))
    _, heard = decode_chunk(codec, codes)
    futures = [decode_chunk(codec, codes[..., :4], heard)[0] for _ in range(2)]
    assert torch.equal(*futures)


@torch.no_grad()
def test_the_published_shape_with_the_weights_of_transformers() -> None:
    """The 24 kHz model, narrow: encoded and decoded by `transformers` at once, and here in chunks."""
    torch.manual_seed(0)
    config = EncodecConfig(num_filters=4, hidden_size=16, codebook_size=32, target_bandwidths=[1.5])
    theirs = EncodecModel(config).eval()
    for layer in theirs.quantizer.layers:
        layer.codebook.embed.normal_()
    weights = codec_weights(theirs.state_dict())
    codec = StoredModel({"codec": codec_node(config.to_dict())}, {"codec": weights}).assemble()
    wav = torch.randn(1, 1, 3001)
    codes = theirs.encode(wav, bandwidth=1.5).audio_codes[0]
    assert codes.shape[1] == codec.num_codebooks == 4
    assert torch.equal(encoded_in(codec, wav, [480, 11]), codes)
    wanted = theirs.decode(codes[None], [None]).audio_values
    torch.testing.assert_close(decoded_in(codec, codes, [3, 1]), wanted, rtol=0, atol=1e-5)


def test_what_cannot_stream_is_refused() -> None:
    wav = torch.randn(1, 1, 100)
    with pytest.raises(ValueError, match="not causal"):
        encode_chunk(causal(causal=False), wav)
    with pytest.raises(ValueError, match=r"not causal.*time_group_norm"):
        encode_chunk(causal(causal=False, weight_norm=False, time_group_norm=True), wav)
    with pytest.raises(ValueError, match="'circular' needs the end"):
        encode_chunk(causal(pad_mode="circular"), wav)
    codec = causal()
    codec.normalize = True
    with pytest.raises(ValueError, match="normalises by the volume"):
        decode_chunk(codec, torch.zeros(1, 4, 1, dtype=torch.long))
    with pytest.raises(ValueError, match=r"\[batch, 1, samples\]"):
        encode_chunk(causal(), torch.zeros(1, 2, 100))
    with pytest.raises(ValueError, match="without a sample"):
        encode_chunk(causal(), wav[..., :0], last=True)
    with pytest.raises(ValueError, match="without a frame"):
        decode_chunk(causal(), torch.zeros(1, 4, 0, dtype=torch.long), last=True)
