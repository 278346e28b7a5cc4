"""The codec as a whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_audio.checkpoints.audiocraft.codec import convert_state
from lightning_audio.checkpoints.keymap import load_strict
from lightning_audio.codec.encodec import EnCodec, overlap_add
from lightning_audio.codec.quantizer import ResidualVectorQuantizer
from lightning_audio.codec.seanet import SEANetDecoder, SEANetEncoder


def tiny(**options: Any) -> EnCodec:
    torch.manual_seed(0)
    channels = options.get("channels", 1)
    shape: dict[str, Any] = {
        "channels": channels,
        "dim": 8,
        "num_filters": 2,
        "ratios": (5, 4),
        "num_lstm_layers": 1,
    }
    return EnCodec(
        encoder=SEANetEncoder(**shape),
        decoder=SEANetDecoder(**shape),
        quantizer=ResidualVectorQuantizer(dim=8, num_codebooks=4, cardinality=16),
        **{"sample_rate": 1000, **options},
    ).eval()


@pytest.mark.parametrize("prepared", [False, True])
def test_equals_the_reference(reference_path: Callable[..., Path], prepared: bool) -> None:
    case = torch.load(reference_path("encodec", "tiny_32k.pt"), weights_only=True)
    shape: dict[str, Any] = {"dim": 16, "num_filters": 2, "ratios": (8, 5, 4, 4)}
    codec = EnCodec(
        encoder=SEANetEncoder(**shape),
        decoder=SEANetDecoder(**shape),
        quantizer=ResidualVectorQuantizer(dim=16, num_codebooks=4, cardinality=64),
        sample_rate=32000,
    ).eval()
    load_strict(codec, convert_state(case["state_dict"]))
    if prepared:
        codec.prepare_for_inference()
    close: dict[str, float] = {"rtol": 1e-5, "atol": 1e-6}
    for length in (6400, 3001):
        wav, wanted = case["inputs"][f"x{length}"], case["outputs"][f"T{length}"]
        encoded = codec.encode(wav)
        assert torch.equal(encoded.codes, wanted["codes"])
        assert encoded.scale is None
        torch.testing.assert_close(codec.encode_latent(wav), wanted["emb"], **close)
        torch.testing.assert_close(codec.decode_latent(encoded.codes), wanted["latent"], **close)
        torch.testing.assert_close(codec.decode(encoded), wanted["decoded"], **close)
        output = codec(wav)
        torch.testing.assert_close(output.wav, wanted["forward"], **close)
        assert output.bandwidth == pytest.approx(float(wanted["bandwidth"]))
    wav = case["inputs"]["x3001"]
    assert torch.equal(codec.encode(wav, num_codebooks=2).codes, case["outputs"]["codes_nq2"])


def test_bandwidth_chooses_the_codebooks() -> None:
    codec = tiny()  # 50 frames/s of 4 bits: 0.2 kbit/s per codebook
    wav = torch.randn(1, 1, 200)
    assert codec.bandwidth(4) == pytest.approx(0.8)
    for bandwidth, number in ((0.2, 1), (0.5, 2), (0.6, 3), (0.8, 4)):
        assert codec.encode(wav, bandwidth=bandwidth).codes.shape == (1, number, 10)
    for bandwidth in (0.1, 1.0):
        with pytest.raises(ValueError, match=r"0\.2 to 0\.8 kbit/s"):
            codec.encode(wav, bandwidth=bandwidth)
    with pytest.raises(ValueError, match="choose one"):
        codec.encode(wav, bandwidth=0.2, num_codebooks=1)
    codec.num_codebooks = 3
    assert codec.encode(wav).codes.shape[1] == codec(wav).codes.shape[1] == codec.num_codebooks == 3


def test_forward_is_as_long_as_the_input_and_decode_is_whole_frames() -> None:
    codec = tiny()
    wav = torch.randn(2, 1, 333)
    assert codec(wav).wav.shape == (2, 1, 333)
    assert codec.decode(codec.encode(wav)).shape == (2, 1, 340)


def test_volume_is_taken_out_and_put_back() -> None:
    codec = tiny(normalize=True)
    wav = torch.randn(2, 1, 200)
    quiet, loud = codec.encode(0.01 * wav), codec.encode(wav)
    assert torch.equal(quiet.codes, loud.codes)
    assert quiet.scale is not None
    assert quiet.scale.shape == (2, 1)
    torch.testing.assert_close(codec.decode(quiet) * 100, codec.decode(loud), rtol=1e-4, atol=1e-5)


def test_chunks() -> None:
    codec = tiny(normalize=True, chunk_duration=0.1, chunk_overlap=0.1)
    wav = torch.randn(2, 1, 250)  # chunks of 100 samples at 0, 90, 180
    encoded = codec.encode(wav)
    assert encoded.codes.shape == (2, 4, 5 + 5 + 4)
    assert encoded.scale is not None
    assert encoded.scale.shape == (2, 3)
    alone = codec(wav[..., 90:190])  # fits into one chunk
    assert torch.equal(encoded.codes[..., 5:10], alone.codes)
    decoded = codec.decode(encoded)
    torch.testing.assert_close(decoded[..., 100:180], alone.wav[..., 10:90])
    assert decoded.shape[-1] == 180 + 80
    torch.testing.assert_close(codec(wav).wav, decoded[..., :250], rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="3 chunks, but there are 1 scales"):
        codec.decode(type(encoded)(encoded.codes, encoded.scale[:, :1]))


def test_overlapping_chunks_of_one_signal_give_it_back() -> None:
    signal = torch.randn(1, 2, 250)
    chunks = [signal[..., start : start + 100] for start in range(0, 250, 80)]
    torch.testing.assert_close(overlap_add(chunks, 80), signal)


def test_parts_that_do_not_fit_are_refused() -> None:
    codec = tiny()
    shape: dict[str, Any] = {"num_filters": 2, "ratios": (5, 4)}
    parts = {
        "encoder": codec.encoder,
        "decoder": codec.decoder,
        "quantizer": codec.quantizer,
        "sample_rate": 1000,
    }
    with pytest.raises(ValueError, match="encoder 8, quantizer 8, decoder 16"):
        EnCodec(**{**parts, "decoder": SEANetDecoder(dim=16, **shape)})
    with pytest.raises(ValueError, match="encoder 20, decoder 10"):
        EnCodec(**{**parts, "decoder": SEANetDecoder(dim=8, num_filters=2, ratios=(5, 2))})
    with pytest.raises(ValueError, match="2 channels"):
        EnCodec(**parts, channels=2)
    with pytest.raises(ValueError, match=r"\[batch, 1, samples\]"):
        codec.encode(torch.zeros(1, 2, 100))
    with pytest.raises(ValueError, match="no samples"):
        codec.encode(torch.zeros(1, 1, 0))
