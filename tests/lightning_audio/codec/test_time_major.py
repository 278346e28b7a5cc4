"""The fast form of a finished SEANet gives the numbers of its layers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from lightning_audio.codec.encodec import EnCodec
from lightning_audio.codec.quantizer import ResidualVectorQuantizer
from lightning_audio.codec.seanet import SEANetDecoder, SEANetEncoder
from lightning_audio.codec.time_major import TimeMajor, pad_time, step_of
from lightning_audio.layers.conv import Conv1d, ConvTranspose1d, pad

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"causal": True, "pad_mode": "reflect", "true_skip": False},
    "reflect": {"pad_mode": "reflect"},
    "replicate": {"pad_mode": "replicate"},
    "stereo": {"channels": 2},
    "without lstm": {"num_lstm_layers": 0, "num_residual_layers": 3, "dilation_base": 3},
    "odd strides": {"ratios": (3, 2, 5), "last_kernel_size": 3},
}


def pair(**options: Any) -> tuple[SEANetEncoder, SEANetDecoder]:
    torch.manual_seed(0)
    options = {"num_filters": 4, "dim": 16, "ratios": (4, 2), **options}
    return SEANetEncoder(**options).eval(), SEANetDecoder(**options).eval()


@torch.no_grad()
def close(part: SEANetEncoder | SEANetDecoder, x: torch.Tensor) -> None:
    before = x.clone()
    torch.testing.assert_close(TimeMajor(part)(x), part.layers(x), rtol=1e-4, atol=1e-5)
    assert torch.equal(x, before), "the input belongs to the caller"


@pytest.mark.parametrize("length", [4, 37, 400])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_equals_the_layers(options: dict[str, Any], length: int) -> None:
    if options.get("pad_mode") == "replicate" and length < 8:
        length = 8
    encoder, decoder = pair(**options)
    close(encoder, torch.randn(2, encoder.channels, length))
    close(decoder, torch.randn(2, 16, max(length // 4, 1)))


def test_activation_at_the_end() -> None:
    torch.manual_seed(0)
    decoder = SEANetDecoder(num_filters=4, dim=16, ratios=(4, 2), final_activation=nn.Tanh()).eval()
    close(decoder, torch.randn(1, 16, 9))


def test_without_reordered_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_audio.codec.time_major.reordered", lambda weight: None)
    encoder, decoder = pair()
    close(encoder, torch.randn(2, 1, 50))
    close(decoder, torch.randn(2, 16, 7))


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate"])
@pytest.mark.parametrize(("left", "right"), [(0, 3), (4, 0), (6, 9)])
def test_padding_of_rows_is_padding_of_signals(mode: str, left: int, right: int) -> None:
    for length in (2, 5, 30):
        x = torch.randn(2, 3, length)
        rows, wanted = x.transpose(1, 2), pad(x, left, right, mode)
        assert torch.equal(pad_time(rows, left, right, mode).transpose(1, 2), wanted)
        activated = pad_time(rows, left, right, mode, activated=True).transpose(1, 2)
        torch.testing.assert_close(activated, nn.functional.elu(wanted))


def test_strides_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="stride 2 with a kernel of 5"):
        step_of(Conv1d(1, 1, 5, stride=2))
    with pytest.raises(ValueError, match="stride 2 with a kernel of 5"):
        step_of(ConvTranspose1d(1, 1, 5, stride=2))


def codec(**options: Any) -> EnCodec:
    encoder, decoder = pair(**options)
    return EnCodec(
        encoder=encoder,
        decoder=decoder,
        quantizer=ResidualVectorQuantizer(dim=16, num_codebooks=2, cardinality=8),
        sample_rate=800,
    ).eval()


def test_a_prepared_codec_uses_it_where_it_fits() -> None:
    prepared = codec().prepare_for_inference()
    assert isinstance(prepared.encoder.fast, TimeMajor)
    assert isinstance(prepared.decoder.fast, TimeMajor)
    assert not isinstance(codec(time_group_norm=True).prepare_for_inference().encoder.fast, TimeMajor)
    assert not isinstance(codec().double().prepare_for_inference().encoder.fast, TimeMajor)


@pytest.mark.parametrize("options", [{}, {"time_group_norm": True}], ids=["time major", "folded"])
def test_what_changes_the_weights_ends_the_preparation(options: dict[str, Any]) -> None:
    wav = torch.randn(1, 1, 64, generator=torch.manual_seed(3))
    state = {name: 1.5 * value for name, value in codec(**options).state_dict().items()}
    changes: dict[str, Any] = {
        "training": lambda model: model.train().eval(),
        "another precision": lambda model: model.double().float(),
        "other weights": lambda model: model.load_state_dict(state),
    }
    for name, change in changes.items():
        prepared = codec(**options).prepare_for_inference()
        change(prepared)
        assert prepared.encoder.fast is None, name
        assert prepared.quantizer.codebooks.half_squared_norm is None or name == "another precision"
    plain = codec(**options)
    plain.load_state_dict(state)
    prepared = codec(**options).prepare_for_inference()
    prepared.load_state_dict(state)
    assert torch.equal(prepared.encode(wav).codes, plain.encode(wav).codes)


def test_gradients_to_the_input_take_the_layers() -> None:
    plain, prepared = codec(), codec().prepare_for_inference()  # of one seed
    x, y = (torch.randn(1, 1, 64, generator=torch.manual_seed(3)).requires_grad_() for _ in range(2))
    prepared.encode_latent(x).square().sum().backward()
    plain.encode_latent(y).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-5)


def test_a_prepared_codec_can_be_copied_and_changed_in_precision() -> None:
    prepared = codec().prepare_for_inference()
    wav = torch.randn(1, 1, 64)
    assert torch.equal(copy.deepcopy(prepared).encode(wav).codes, prepared.encode(wav).codes)
    assert prepared.double().encode_latent(wav.double()).dtype == torch.float64
