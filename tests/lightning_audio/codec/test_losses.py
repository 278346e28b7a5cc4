"""Losses, values and gradients, against the reference vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_audio.codec.adversarial import FeatureMatchingLoss, HingeLoss, LeastSquaresLoss
from lightning_audio.codec.losses import (
    L1Loss,
    L2Loss,
    MelLoss,
    MultiResolutionSTFTLoss,
    MultiScaleMelLoss,
    NegativeSISNR,
    si_sdr,
)

RATE = 24000
LOSSES: dict[str, nn.Module] = {
    "l1": L1Loss(),
    "l2": L2Loss(),
    "mel": MelLoss(sample_rate=RATE),
    "msspec": MultiScaleMelLoss(sample_rate=RATE),
    "msspec_class_defaults": MultiScaleMelLoss(
        sample_rate=RATE, f_min=0, normalized=False, weigh_by_window=True
    ),
    "mrstft": MultiResolutionSTFTLoss(),
    "sisnr": NegativeSISNR(sample_rate=RATE),
    "sisnr_segment.25": NegativeSISNR(sample_rate=RATE, segment=0.25),
}


@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients_equal_the_reference(reference_path: Callable[..., Path], name: str) -> None:
    case = torch.load(reference_path("losses.pt"), weights_only=True)
    decoded = case["inputs"]["y_pred"].clone().requires_grad_()
    value = LOSSES[name](decoded, case["inputs"]["y"])
    wanted = case["outputs"][name]
    torch.testing.assert_close(value, wanted["value"].reshape(()), rtol=1e-5, atol=0)
    if "grad" in wanted:
        (gradient,) = torch.autograd.grad(value, decoded)
        assert (gradient[..., ::16] - wanted["grad"]).abs().max() <= 1e-4 * wanted["grad"].abs().max()


def test_adversarial_losses_equal_the_reference(reference_path: Callable[..., Path]) -> None:
    case = torch.load(reference_path("adversarial_losses.pt"), weights_only=True)
    real, fake = case["inputs"]["real"], case["inputs"]["fake"]
    losses = {"mse": LeastSquaresLoss(), "hinge": HingeLoss(), "hinge2": HingeLoss(clamped=True)}
    for name, loss in losses.items():
        wanted = case["outputs"][name]
        torch.testing.assert_close(loss.generator(fake), wanted["gen"])
        torch.testing.assert_close(loss.real(real), wanted["real"])
        torch.testing.assert_close(loss.fake(fake), wanted["fake"])
    found = FeatureMatchingLoss()(case["inputs"]["fmap_fake"], case["inputs"]["fmap_real"])
    torch.testing.assert_close(found, case["outputs"]["feature_matching"])


def test_relative_feature_matching_has_no_scale() -> None:
    torch.manual_seed(0)
    fake, real = [torch.randn(2, 3, 4)], [torch.randn(2, 3, 4)]
    relative = FeatureMatchingLoss(relative=True)
    torch.testing.assert_close(
        relative(fake, real), relative([100 * f for f in fake], [100 * r for r in real])
    )
    torch.testing.assert_close(relative(fake, real), (fake[0] - real[0]).abs().mean() / real[0].abs().mean())


def test_si_sdr_of_a_known_mixture() -> None:
    torch.manual_seed(0)
    signal, noise = torch.randn(2, 1, 100000)
    noisy = torch.stack([signal + noise, 7 * (signal + 0.1 * noise)])
    values = si_sdr(noisy, signal.expand(2, 1, -1))
    torch.testing.assert_close(values, torch.tensor([0.0, 20.0]), atol=0.1, rtol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_silence_has_finite_gradients(name: str) -> None:
    decoded = torch.zeros(1, 1, 6000, requires_grad=True)
    (gradient,) = torch.autograd.grad(LOSSES[name](decoded, torch.zeros(1, 1, 6000)), decoded)
    assert gradient.isfinite().all()
