"""The GAN step against the reference, through the functions that the task is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_audio.checkpoints.audiocraft.codec import convert_state
from lightning_audio.checkpoints.keymap import load_strict
from lightning_audio.codec.adversarial import FeatureMatchingLoss, HingeLoss
from lightning_audio.codec.balancer import Balancer
from lightning_audio.codec.codebooks import AudioCraftLearning
from lightning_audio.codec.discriminators import MultiScaleSTFTDiscriminator
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.codec.gan import discriminator_objectives, generator_gradients
from lightning_audio.codec.losses import L1Loss, MultiScaleMelLoss
from lightning_audio.codec.quantizer import ResidualVectorQuantizer
from lightning_audio.codec.seanet import SEANetDecoder, SEANetEncoder


def part_of(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def test_two_steps_equal_the_reference(reference_path: Callable[..., Path]) -> None:
    case = torch.load(reference_path("encodec_train.pt"), weights_only=True)
    config = case["config"]
    shape: dict[str, Any] = {"dim": 16, "num_filters": 2, "ratios": (8, 5, 4, 2), "causal": True}
    codec = EnCodec(
        encoder=SEANetEncoder(**shape),
        decoder=SEANetDecoder(**shape),
        quantizer=ResidualVectorQuantizer(
            dim=16, num_codebooks=3, cardinality=64, learning=AudioCraftLearning(kmeans_iterations=5)
        ),
        sample_rate=24000,
    ).train()
    load_strict(codec, convert_state(part_of(case["state_dict"], "model.")))
    discriminator = MultiScaleSTFTDiscriminator(filters=2)
    discriminator.load_state_dict(
        {
            key.replace(".conv.", "."): value
            for key, value in part_of(case["state_dict"], "adversary.").items()
            if not key.endswith("window")
        }
    )
    judges = {"msstft": discriminator}
    optimizers = [
        torch.optim.Adam(module.parameters(), lr=3e-4, betas=(0.5, 0.9)) for module in (codec, discriminator)
    ]
    balancer = Balancer(weights=config["losses"])
    reconstruction = {"l1": L1Loss(), "msspec": MultiScaleMelLoss(sample_rate=24000)}

    torch.manual_seed(case["inputs"]["seed"])
    for wav, wanted in zip(case["inputs"]["xs"], case["outputs"]["metrics"], strict=True):
        decoded = codec(wav)
        objective = discriminator_objectives(judges, HingeLoss(), decoded.wav, wav)["msstft"]
        optimizers[1].zero_grad()
        objective.backward()
        optimizers[1].step()
        losses = generator_gradients(
            reconstruction, judges, HingeLoss(), FeatureMatchingLoss(), decoded.wav, wav
        )
        balanced = balancer(losses.gradients)
        optimizers[0].zero_grad()
        ((decoded.wav * balanced.gradient).sum() + decoded.penalty).backward()
        optimizers[0].step()
        found = {name: float(value) for name, value in losses.values.items()}
        found |= {"d_loss": objective.item(), "penalty": decoded.penalty.item()}
        found |= {"g_loss": sum(float(balanced.scales[n] * losses.values[n]) for n in balanced.scales)}
        for name, value in found.items():
            assert value == pytest.approx(wanted[name], rel=1e-4), name

    final = case["outputs"]["final"]["tensors"]
    state = {
        k.replace("parametrizations.weight.original0", "weight_g"): v for k, v in codec.state_dict().items()
    }
    for key in ("encoder.layers.0.conv.bias", "encoder.layers.0.conv.weight_g", "decoder.layers.0.conv.bias"):
        value = final["model." + key.replace(".layers.", ".model.").replace(".conv.", ".conv.conv.")]
        torch.testing.assert_close(state[key], value, rtol=1e-3, atol=1e-6)
    for key, value in convert_state(
        {k: v for k, v in part_of(final, "model.").items() if k.startswith("quantizer")}
    ).items():
        torch.testing.assert_close(codec.state_dict()[key], value, rtol=1e-3, atol=1e-6)


class CountingJudge(nn.Module):
    """A discriminator that counts its forward passes."""

    def __init__(self) -> None:
        super().__init__()
        self.judge = MultiScaleSTFTDiscriminator(
            filters=2, n_ffts=(64,), hop_lengths=(16,), win_lengths=(64,)
        )
        self.calls = 0

    def forward(self, wav: Tensor) -> Any:
        self.calls += 1
        return self.judge(wav)


def test_nothing_is_computed_that_is_not_used() -> None:
    torch.manual_seed(0)
    judge = CountingJudge()
    fake, real = torch.randn(2, 1, 400, requires_grad=True), torch.randn(2, 1, 400)
    losses = generator_gradients(
        {"l1": L1Loss()}, {"judge": judge}, HingeLoss(), FeatureMatchingLoss(), fake, real
    )
    assert judge.calls == 2
    assert all(parameter.grad is None and parameter.requires_grad for parameter in judge.parameters())
    assert fake.grad is None
    assert set(losses.gradients) == {"l1", "adv", "feat"}
    discriminator_objectives({"judge": judge}, HingeLoss(), fake, real)["judge"].backward()
    assert fake.grad is None


def test_parts_give_the_whole() -> None:
    torch.manual_seed(0)
    judge = CountingJudge()
    fake, real = torch.randn(5, 1, 400), torch.randn(5, 1, 400)

    def both(parts: int) -> list[Tensor]:
        losses = generator_gradients(
            {"l1": L1Loss()}, {"judge": judge}, HingeLoss(), FeatureMatchingLoss(), fake, real, parts=parts
        )
        judge.zero_grad()
        objective = discriminator_objectives({"judge": judge}, HingeLoss(), fake, real, parts=parts)["judge"]
        objective.backward()
        gradients = [parameter.grad.clone() for parameter in judge.parameters() if parameter.grad is not None]
        return [*losses.values.values(), *losses.gradients.values(), objective.detach(), *gradients]

    for whole, parted in zip(both(1), both(2), strict=True):
        torch.testing.assert_close(parted, whole, rtol=1e-4, atol=1e-7)
