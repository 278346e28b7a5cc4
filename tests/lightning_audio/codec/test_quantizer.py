"""The quantiser against the reference vectors, and how its codebooks learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_audio.checkpoints.audiocraft.codec import convert_state
from lightning_audio.checkpoints.keymap import load_strict
from lightning_audio.codec.codebooks import AudioCraftLearning, CodebookLearning, Codebooks, kmeans
from lightning_audio.codec.quantizer import ResidualVectorQuantizer


def codebooks_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    converted = convert_state({f"quantizer.{name}": value for name, value in state.items()})
    return {name.removeprefix("quantizer."): value for name, value in converted.items()}


def read_case(file: Path) -> tuple[dict[str, Any], ResidualVectorQuantizer]:
    case = torch.load(file, weights_only=True)
    config = case["config"]
    quantizer = ResidualVectorQuantizer(
        dim=config["dimension"],
        num_codebooks=config["n_q"],
        cardinality=config["bins"],
        dropout=config.get("q_dropout", False),
        orthogonal_weight=config.get("orthogonal_reg_weight", 0.0),
        learning=AudioCraftLearning(
            kmeans_iterations=config["kmeans_iters"], dead_code_threshold=config["threshold_ema_dead_code"]
        ),
    )
    if case["state_dict"] is not None:
        load_strict(quantizer, codebooks_of(case["state_dict"]))
    return case, quantizer.train()


@pytest.mark.parametrize("name", ["ema_only", "kmeans_expiry", "q_dropout_orth"])
def test_training_steps_equal_audiocrafts(reference_path: Callable[..., Path], name: str) -> None:
    case, quantizer = read_case(reference_path("rvq_train", f"{name}.pt"))
    torch.manual_seed(case["inputs"].get("seed", 0))
    steps = case["outputs"].get("results", case["outputs"])
    for index, latent in enumerate(case["inputs"]["xs"]):
        wanted = steps[f"step{index}"]
        latent = latent.clone().requires_grad_()
        found = quantizer(latent)
        assert torch.equal(found.codes, wanted["codes"])
        torch.testing.assert_close(found.latent, wanted["x"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.penalty, wanted["penalty"], rtol=1e-5, atol=1e-6)
        if "grad" in wanted:
            (gradient,) = torch.autograd.grad((found.latent**2).sum() + 3 * found.penalty, latent)
            torch.testing.assert_close(gradient, wanted["grad"], rtol=1e-5, atol=1e-5)
        if "buffers_after" in case["outputs"]:
            for key, value in codebooks_of(case["outputs"]["buffers_after"][f"step{index}"]).items():
                torch.testing.assert_close(quantizer.state_dict()[key], value, rtol=1e-5, atol=1e-6)


def test_nearest_is_the_nearest() -> None:
    torch.manual_seed(0)
    books = Codebooks(num_codebooks=2, cardinality=32, dim=6)
    vectors = torch.randn(100, 6)
    wanted = torch.cdist(vectors, books.embed[1]).argmin(-1)
    assert torch.equal(books.nearest(1, vectors), wanted)
    books.freeze()
    assert torch.equal(books.nearest(1, vectors), wanted)


def test_codes_decode_to_what_the_forward_pass_gives() -> None:
    torch.manual_seed(0)
    quantizer = ResidualVectorQuantizer(dim=6, num_codebooks=4, cardinality=16).eval()
    latent = torch.randn(3, 6, 11)
    found = quantizer(latent)
    assert torch.equal(quantizer.encode(latent), found.codes)
    torch.testing.assert_close(quantizer.decode(found.codes), found.latent)
    fewer = quantizer.encode(latent, num_codebooks=2)
    assert torch.equal(fewer, found.codes[:, :2])
    residuals = [(latent - quantizer.decode(found.codes[:, :k])).square().mean() for k in (1, 4)]
    assert quantizer.decode(fewer).shape == latent.shape
    torch.testing.assert_close(found.penalty, quantizer(latent).penalty)
    assert residuals[0] != residuals[1]


def test_kmeans_leaves_consistent_statistics() -> None:
    """A second step on the batch that k-means saw hardly moves a used code (AudioCraft's shrink to 1/count)."""
    torch.manual_seed(0)
    latent = torch.randn(4, 6, 100)
    quantizer = ResidualVectorQuantizer(dim=6, num_codebooks=1, cardinality=8).train()
    quantizer(latent)
    after_one = quantizer.codebooks.embed.clone()
    quantizer(latent)
    assert (quantizer.codebooks.embed - after_one).norm() < 0.02 * after_one.norm()


def test_a_dead_code_comes_to_life() -> None:
    torch.manual_seed(0)
    latent = torch.randn(4, 6, 100)
    quantizer = ResidualVectorQuantizer(dim=6, num_codebooks=1, cardinality=8).train()
    quantizer(latent)
    books = quantizer.codebooks
    books.embed[0, 3] = books.embed_sum[0, 3] = 1e3  # far from everything
    books.count[0, 3] = 0.01
    quantizer(latent)
    vectors = latent.transpose(1, 2).reshape(-1, 6)
    assert (vectors - books.embed[0, 3]).norm(dim=-1).min() < 1e-6
    torch.testing.assert_close(books.embed_sum[0, 3] / books.count[0, 3], books.embed[0, 3])
    quantizer(latent)
    assert (quantizer.encode(latent) == 3).any()


def test_small_batches_do_not_call_codes_dead() -> None:
    """Fewer vectors than 2 per code: the published threshold would replace nearly all codes at every step."""
    torch.manual_seed(0)
    latent = torch.randn(2, 6, 50)
    quantizer = ResidualVectorQuantizer(dim=6, num_codebooks=1, cardinality=64).train()
    for _ in range(30):
        quantizer(latent)
    before = quantizer.codebooks.embed.clone()
    quantizer(latent)
    moved = (quantizer.codebooks.embed - before).norm(dim=-1) > 0.5 * before.norm(dim=-1)
    assert moved.float().mean() < 0.05


def test_learning_lowers_the_error() -> None:
    torch.manual_seed(0)
    quantizer = ResidualVectorQuantizer(
        dim=4, num_codebooks=2, cardinality=32, learning=CodebookLearning(decay=0.9, kmeans_iterations=0)
    ).train()
    batches = torch.randn(60, 4, 4, 64)
    penalties = [float(quantizer(latent).penalty) for latent in batches]
    assert sum(penalties[-5:]) < 0.8 * sum(penalties[:5])
    perplexity, used = quantizer.codebooks.usage()
    assert (perplexity > 16).all()
    assert (used > 0.9).all()


def test_random_choices_come_from_the_generator() -> None:
    latent = torch.randn(2, 6, 50)

    def state(seed: int) -> Tensor:
        torch.manual_seed(0)
        quantizer = ResidualVectorQuantizer(dim=6, num_codebooks=3, cardinality=8, dropout=True).train()
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(torch.seed())
        for _ in range(3):
            quantizer(latent, generator=generator)
        return quantizer.codebooks.embed

    assert torch.equal(state(1), state(1))
    assert not torch.equal(state(1), state(2))


def test_kmeans_keeps_a_mean_that_nobody_chose() -> None:
    vectors = torch.tensor([[0.0], [1.0]])
    means, counts = kmeans(vectors, torch.tensor([[0.5], [100.0]]), 3)
    assert means.tolist() == [[0.5], [100.0]]
    assert counts.tolist() == [2.0, 0.0]


def test_codebooks_that_are_not_there() -> None:
    quantizer = ResidualVectorQuantizer(dim=4, num_codebooks=2, cardinality=8)
    with pytest.raises(ValueError, match="3 codebooks asked for, the quantizer has 1 to 2"):
        quantizer.encode(torch.zeros(1, 4, 5), num_codebooks=3)
    with pytest.raises(ValueError, match="0 codebooks"):
        quantizer.num_codebooks = 0
