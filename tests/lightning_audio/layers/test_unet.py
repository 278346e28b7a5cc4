"""The U-Net: the original's numbers, and a condition that is heard whatever stands in the bottleneck."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_audio.checkpoints.audiocraft.mbd import RULES
from lightning_audio.checkpoints.keymap import load_strict, rename_keys
from lightning_audio.layers.positions import sinusoidal_embedding
from lightning_audio.layers.unet import LSTMBottleneck, TransformerBottleneck, UNet

SMALL: dict[str, Any] = {"hidden": 8, "depth": 3, "growth": 2.0, "condition_dim": 16}
BOTTLENECKS = {
    "none": None,
    "lstm": LSTMBottleneck,
    "transformer": partial(TransformerBottleneck, num_layers=1, hidden_dim=32),
    "cross": partial(TransformerBottleneck, num_layers=1, hidden_dim=32, cross_attention=True),
}


@pytest.mark.parametrize("length", [1024, 1000])
@pytest.mark.parametrize(("step", "kind"), [(7, "int"), (torch.tensor([3, 40]), "tensor")])
@pytest.mark.parametrize(("name", "bottleneck"), [("codec", LSTMBottleneck), ("codec_nobilstm", None)])
def test_equals_the_original(
    reference_path: Callable[..., Path],
    name: str,
    bottleneck: Any,
    step: int | Tensor,
    kind: str,
    length: int,
) -> None:
    case = torch.load(reference_path(f"mbd/unet_{name}.pt"), weights_only=True)
    network = UNet(**SMALL, num_steps=case["config"]["num_steps"], bottleneck=bottleneck).eval()
    load_strict(network, rename_keys(case["state_dict"], RULES))
    made = network(case["inputs"][f"x{length}"], step, case["inputs"][f"cond{length}"])
    wanted = case["outputs"][f"{kind}_step{length}"]
    assert (made - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("kind", BOTTLENECKS)
def test_the_output_depends_on_the_condition(kind: str) -> None:
    """Without a bottleneck the last skip is its only way to the output."""
    torch.manual_seed(0)
    network = UNet(**SMALL, bottleneck=BOTTLENECKS[kind]).eval()
    x, condition = torch.randn(2, 1, 512), torch.randn(2, 16, 8, requires_grad=True)
    made = network(x, 500, condition)
    (gradient,) = torch.autograd.grad(made[0].square().sum(), condition)
    assert (gradient[0].abs().amax(0) > 0).all()  # every frame is heard
    assert (gradient[1] == 0).all()  # by its own item


@pytest.mark.parametrize("kind", BOTTLENECKS)
def test_a_condition_prepared_once_serves_every_step(kind: str) -> None:
    torch.manual_seed(0)
    network = UNet(**SMALL, bottleneck=BOTTLENECKS[kind]).eval()
    x, condition = torch.randn(2, 1, 300), torch.randn(2, 16, 5)
    embedded = network.embed_condition(condition, 300)
    for step in (0, 999):
        assert torch.equal(network.denoise(x, step, embedded), network(x, step, condition))
        steps = torch.full((2,), step)
        torch.testing.assert_close(network(x, steps, condition), network(x, step, condition))


@torch.no_grad()
def test_the_transformer_is_torchs_own_after_sinusoids() -> None:
    """AudioCraft's is a `TransformerEncoderLayer` (post-norm, ReLU) without biases in its products."""
    torch.manual_seed(0)
    ours = TransformerBottleneck(dim=16, num_layers=2, hidden_dim=24).eval()
    x = torch.randn(2, 16, 9)
    hidden = x.transpose(1, 2) + sinusoidal_embedding(torch.arange(9), 16)
    for layer in ours.transformer.layers:
        theirs = nn.TransformerEncoderLayer(16, 8, 24, batch_first=True, norm_first=False).eval()
        for parameter in theirs.parameters():
            parameter.zero_()
        theirs.self_attn.in_proj_weight.copy_(layer.self_attention.qkv.weight)
        theirs.self_attn.out_proj.weight.copy_(layer.self_attention.output.weight)
        theirs.linear1.weight.copy_(layer.feedforward.expand.weight)
        theirs.linear2.weight.copy_(layer.feedforward.contract.weight)
        theirs.norm1.load_state_dict(layer.norm_self.state_dict())
        theirs.norm2.load_state_dict(layer.norm_feedforward.state_dict())
        hidden = theirs(hidden)
    torch.testing.assert_close(ours(x, None), hidden.transpose(1, 2), rtol=1e-5, atol=1e-5)


def test_the_published_size() -> None:
    with torch.device("meta"):
        network = UNet()
    assert sum(parameter.numel() for parameter in network.parameters()) == 165_591_936
    assert [level.conv.out_channels for level in network.encoders] == [48, 192, 768, 3072]


def test_bad_input_is_refused() -> None:
    network = UNet(**SMALL)
    x = torch.randn(1, 1, 256)  # 4 frames in the bottleneck
    with pytest.raises(ValueError, match="was given no condition"):
        network(x, 0)
    with pytest.raises(ValueError, match="was given a condition"):
        UNet(**{**SMALL, "condition_dim": None})(x, 0, torch.randn(1, 16, 4))
    with pytest.raises(ValueError, match=r"condition of 9 frames would lose half .* 4 frames"):
        network(x, 0, torch.randn(1, 16, 9))
    with pytest.raises(ValueError, match="10 channels do not divide into 4 groups"):
        UNet(**{**SMALL, "hidden": 10})
