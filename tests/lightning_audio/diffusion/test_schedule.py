"""The noise schedule and the ways back: the original's numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_audio.diffusion.band import BandDiffusion
from lightning_audio.diffusion.processor import BandProcessor, normal_like
from lightning_audio.diffusion.schedule import NoiseSchedule

Reference = Callable[[str], dict[str, Any]]


def assert_equal(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


def processor_of(case: dict[str, Any]) -> BandProcessor:
    processor = BandProcessor(sample_rate=24000, num_bands=8, num_samples=10, power=0.75)
    for name in ("counts", "sum_x", "sum_x2", "sum_target_x2"):
        processor.get_buffer(name).copy_(case["state_dict"][f"processor.{name}"])
    return processor


def test_the_levels_of_noise_are_the_originals(mbd_reference: Reference) -> None:
    outputs, schedule = mbd_reference("diffusion")["outputs"], NoiseSchedule()
    assert_equal(schedule.betas, outputs["betas"])
    assert_equal(schedule.alpha_bars, outputs["alpha_bar"])
    assert schedule.default_steps() == mbd_reference("diffusion")["config"]["default_steps"]
    assert len(schedule.subsampled_chain().steps) == 20


def test_training_items_are_the_originals(mbd_reference: Reference, read_network: Any) -> None:
    case = mbd_reference("diffusion")
    band = BandDiffusion(
        network=read_network(mbd_reference("unet_codec")["state_dict"]),
        schedule=NoiseSchedule(),
        sample_rate=24000,
        processor=processor_of(case),
    )
    generator = torch.Generator().manual_seed(case["inputs"]["seeds"]["items"])
    item = band.training_item(case["inputs"]["x"], generator=generator)
    noisy, noise, step = case["outputs"]["item_tensor"]
    assert torch.equal(item.step, step)
    assert_equal(item.noise, noise)
    assert_equal(item.noisy, noisy)
    noisy, noise, step = case["outputs"]["item_int"]
    assert band.processor is not None
    assert_equal(normal_like(noise, generator), noise)
    assert_equal(band.schedule.add_noise(band.processor.project(case["inputs"]["x"]), noise, step), noisy)


@pytest.mark.parametrize(
    ("name", "settings", "short", "processed"),
    [
        ("default", {}, False, True),
        ("short", {}, True, True),
        ("noise_scale", {"noise_scale": 0.9}, True, False),
    ],
)
@torch.no_grad()
def test_the_subsampled_way_back_is_the_originals(
    mbd_reference: Reference,
    read_network: Any,
    name: str,
    settings: dict[str, float],
    short: bool,
    processed: bool,
) -> None:
    case = mbd_reference("diffusion")
    band = BandDiffusion(
        network=read_network(mbd_reference("unet_codec")["state_dict"]),
        schedule=NoiseSchedule(**settings),
        sample_rate=24000,
        processor=processor_of(case) if processed else None,
    )
    generator = torch.Generator().manual_seed(case["inputs"]["seeds"][name])
    made = band.sample(
        case["inputs"]["condition"],
        case["inputs"]["initial"],
        noise=partial(normal_like, generator=generator),
        chain=band.schedule.subsampled_chain(case["config"]["short_steps"] if short else None),
    )
    assert_equal(made, case["outputs"][f"subsampled_{name}"])


@pytest.mark.parametrize("variance", ["beta", "beta_tilde", "none"])
@torch.no_grad()
def test_the_full_way_back_is_the_originals(
    mbd_reference: Reference, read_network: Any, variance: str
) -> None:
    case = mbd_reference("diffusion")
    state = {k.removeprefix("unet12."): v for k, v in case["state_dict"].items() if k.startswith("unet12.")}
    schedule = NoiseSchedule(num_steps=12, power=1.0, variance=variance)
    band = BandDiffusion(network=read_network(state, 12), schedule=schedule, sample_rate=24000)
    generator = torch.Generator().manual_seed(case["inputs"]["seeds"]["full"])
    made = band.sample(
        case["inputs"]["condition"],
        case["inputs"]["initial"],
        noise=partial(normal_like, generator=generator),
        chain=schedule.full_chain(),
    )
    assert_equal(made, case["outputs"][f"full_{variance}"])


def test_a_network_that_knows_the_noise_gets_the_audio_back() -> None:
    """With the true noise as its estimate, each step goes to that noise at the next level, and the last to audio."""
    schedule = NoiseSchedule(variance="none", clip=0.0)
    torch.manual_seed(0)
    audio, noise = 0.3 * torch.randn(2, 1, 64), torch.randn(2, 1, 64)

    def estimate(x: Tensor, step: int) -> Tensor:
        alpha_bar = schedule.alpha_bars[step]
        return (x - alpha_bar.sqrt() * audio) / (1 - alpha_bar).sqrt()

    start = schedule.add_noise(audio, noise, 999)
    made = schedule.reverse(estimate, start, schedule.subsampled_chain([999, 0]), normal_unused)
    torch.testing.assert_close(made, audio, rtol=0, atol=0.05)  # step 0 itself is a little noisy


def normal_unused(x: Tensor) -> Tensor:
    raise AssertionError("the last step adds no noise")


def test_rescaled_audio_comes_back_at_its_level_from_the_full_chain_only() -> None:
    schedule = NoiseSchedule(rescale=2.0, num_steps=5)
    assert [step.factor for step in schedule.full_chain().steps] == [1, 1, 1, 1, 2]
    assert {step.factor for step in schedule.subsampled_chain().steps} == {1.0}


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"variance is 'gamma', want one of beta, beta_tilde, none"):
        NoiseSchedule(variance="gamma")
    with pytest.raises(ValueError, match="betas in"):
        NoiseSchedule(beta_end=1.5)
    for steps in ([999], [0, 999], [1000, 0], [999, 500, 500, 0], [10, -1]):
        with pytest.raises(ValueError, match="steps must fall, from at most 999"):
            NoiseSchedule().subsampled_chain(steps)
