"""Convolutions that pad by themselves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightning_audio.layers.conv import Conv1d, ConvTranspose1d, conv2d_from_few, fold_weight_norm, pad
from lightning_audio.layers.recompute import in_parts


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [1, 7, 64, 65])
@pytest.mark.parametrize("pad_mode", ["constant", "reflect"])
def test_every_sample_is_in_a_frame(causal: bool, length: int, pad_mode: str) -> None:
    for stride in (1, 3, 4):
        conv = Conv1d(2, 3, max(2 * stride, 5), stride=stride, causal=causal, pad_mode=pad_mode)
        assert conv(torch.randn(2, 2, length)).shape == (2, 3, -(-length // stride))


@pytest.mark.parametrize("kernel_size", [3, 4, 7])
def test_padding_by_the_kernel_is_padding_by_hand(kernel_size: int) -> None:
    torch.manual_seed(0)
    conv = Conv1d(2, 3, kernel_size)
    x = torch.randn(2, 2, 20)
    by_hand = torch.nn.functional.conv1d(
        pad(x, conv.pad_left, conv.pad_right, "constant"), conv.conv.weight, conv.conv.bias
    )
    torch.testing.assert_close(conv(x), by_hand)


def test_causal_layers_do_not_look_ahead() -> None:
    torch.manual_seed(0)
    down = Conv1d(1, 2, 8, stride=4, causal=True)
    up = ConvTranspose1d(2, 1, 8, stride=4, causal=True)
    wav = torch.randn(1, 1, 40, requires_grad=True)
    up(down(wav))[0, 0, 19].backward()
    assert wav.grad is not None
    assert wav.grad[0, 0, 20:].abs().max() == 0
    assert wav.grad[0, 0, :20].abs().max() > 0


def test_reflecting_more_than_there_is() -> None:
    x = torch.tensor([[[1.0, 2.0, 3.0]]])
    assert pad(x, 2, 0, "reflect").tolist() == [[[3.0, 2.0, 1.0, 2.0, 3.0]]]
    assert pad(x, 4, 1, "reflect").shape == (1, 1, 8)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("kernel", "padding"), [((3, 9), (1, 4)), ((1, 1), (0, 0)), ((2, 12), (0, 3))])
@pytest.mark.parametrize("columns", [13, 16, 33])
def test_convolution_from_few_channels_has_torchs_gradients(
    columns: int, kernel: tuple[int, int], padding: tuple[int, int], layout: torch.memory_format
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 5, columns, dtype=torch.float64, generator=generator).to(memory_format=layout)
    weight = torch.randn(4, 3, *kernel, dtype=torch.float64, generator=generator)
    bias = torch.randn(4, dtype=torch.float64, generator=generator)

    def with_gradients(function: Callable[[Tensor, nn.Conv2d], Tensor], *wanted: bool) -> list[Tensor]:
        conv = nn.Conv2d(3, 4, kernel, padding=padding)
        conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(bias)
        image = x.detach()
        inputs = [image, conv.weight, conv.bias]
        for tensor, asked in zip(inputs, wanted, strict=True):
            tensor.requires_grad_(asked)
        y = function(image, conv)
        return [y, *torch.autograd.grad(y, [t for t in inputs if t.requires_grad], y.detach().sin())]

    for wanted in [(True, True, True), (True, False, False), (True, False, True), (False, True, True)]:
        found = with_gradients(conv2d_from_few, *wanted)
        for ours, theirs in zip(found, with_gradients(lambda x, conv: conv(x), *wanted), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_convolution_from_few_channels_under_autocast() -> None:
    x, conv = torch.randn(1, 2, 4, 16, requires_grad=True), nn.Conv2d(2, 4, (3, 9), padding=(1, 4))
    with torch.autocast("cpu", torch.bfloat16):
        y = conv2d_from_few(x, conv)
    assert y.dtype == torch.bfloat16
    gradients = torch.autograd.grad(y.float().sum(), [x, conv.weight])
    assert [gradient.dtype for gradient in gradients] == [torch.float32, torch.float32]


def test_folded_weights_give_the_same() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(Conv1d(1, 4, 7), ConvTranspose1d(4, 1, 4, stride=2))
    x = torch.randn(2, 1, 30)
    before = model(x)
    fold_weight_norm(model)
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-6)
    assert set(model.state_dict()) == {"0.conv.weight", "0.conv.bias", "1.conv.weight", "1.conv.bias"}


def test_settings_that_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="causal"):
        Conv1d(1, 1, 3, causal=True, time_group_norm=True)
    with pytest.raises(ValueError, match=r"trim_right_ratio 0\.5"):
        ConvTranspose1d(1, 1, 4, stride=2, trim_right_ratio=0.5)


def test_a_batch_in_parts_has_the_same_gradients() -> None:
    torch.manual_seed(0)
    layer = Conv1d(1, 2, 5)

    def gradients(parts: int) -> list[Tensor]:
        x = torch.arange(5 * 12.0).view(5, 1, 12).requires_grad_()
        in_parts(lambda piece: layer(piece).sin(), x, parts=parts).square().sum().backward()
        taken = [x.grad, *[p.grad for p in layer.parameters()]]
        layer.zero_grad()
        return [g for g in taken if g is not None]

    for whole, parted in zip(gradients(1), gradients(2), strict=True):
        torch.testing.assert_close(whole, parted)
