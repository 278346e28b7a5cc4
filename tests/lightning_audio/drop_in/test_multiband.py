"""AudioCraft's `MultiBandDiffusion`: equal to what it made there, and a decoder of the models here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lightning_audio
from lightning_audio import MultiBandDiffusion


@pytest.fixture(scope="module")
def case(reference_path: Callable[..., Path]) -> dict[str, Any]:
    return torch.load(reference_path("pkg", "mbd_tiny", "expected.pt"), weights_only=True)


@pytest.fixture(scope="module")
def mbd(reference_path: Callable[..., Path]) -> MultiBandDiffusion:
    path = reference_path("pkg", "mbd_tiny", "mbd_musicgen_32khz.th")
    return MultiBandDiffusion.get_pretrained(str(path), device="cpu")


def test_equal_to_audiocraft(mbd: MultiBandDiffusion, case: dict[str, Any]) -> None:
    torch.manual_seed(case["inputs"]["seed"])
    wav = mbd.tokens_to_wav(case["inputs"]["tokens"])
    torch.testing.assert_close(wav, case["outputs"]["wav"], rtol=0, atol=1e-4)
    plain = mbd.codec_model.decode(case["inputs"]["tokens"])
    torch.testing.assert_close(plain, case["outputs"]["encodec"], rtol=0, atol=1e-5)


def test_the_steps_of_it_are_the_decoder(mbd: MultiBandDiffusion, case: dict[str, Any]) -> None:
    """Latents, diffusion and loudness one after another, as AudioCraft's class has them, make what `decode` makes."""
    tokens = case["inputs"]["tokens"]
    torch.manual_seed(3)
    by_steps = mbd.tokens_to_wav(tokens)
    whole = mbd.model.decode(tokens, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(by_steps, whole, rtol=0, atol=1e-6)
    wav = 0.1 * torch.randn(1, 1, 3200)
    codes = mbd.codec_model.encode(wav).codes
    torch.testing.assert_close(mbd.get_condition(wav, 32000), mbd.get_emb(codes))
    torch.manual_seed(4)
    remade = mbd.generate(mbd.get_emb(codes), size=wav.shape)
    torch.manual_seed(4)
    torch.testing.assert_close(mbd.regenerate(wav, 32000), remade, rtol=0, atol=1e-6)
    torch.manual_seed(4)
    assert mbd.generate(mbd.get_emb(codes), step_list=[500, 0]).shape == (1, 1, 3200)


def test_as_the_decoder_of_a_model(mbd: MultiBandDiffusion, reference_path: Callable[..., Path]) -> None:
    folder = reference_path("pkg", "musicgen_tiny")
    model = lightning_audio.load(folder, text_encoder=reference_path("t5"), device="cpu")
    options: dict[str, Any] = {"duration": 0.2, "seed": 3}
    codes = model.generate_tokens(["a", "b"], **options)
    wav = model.generate(["a", "b"], decoder=mbd, **options)
    torch.testing.assert_close(wav, mbd.model.decode(codes, seed=[3, 4]))
    alone = model.generate(["b"], duration=0.2, seed=4, decoder=mbd.model)
    torch.testing.assert_close(wav[1:], alone, rtol=0, atol=1e-4)
    path = reference_path("pkg", "mbd_tiny", "mbd_plain.pt")
    named = model.generate(["a", "b"], decoder=str(path), **options)
    assert named.shape == wav.shape
    streamed = torch.cat(list(model.stream("a", decoder=mbd, duration=0.6, seed=3)), dim=-1)
    assert streamed.shape == (1, 19200)
    assert torch.isfinite(streamed).all()


def test_the_published_ones_by_bandwidth() -> None:
    with pytest.raises(ValueError, match=r"none for 2.0 kbit/s; there are \[1.5, 3.0, 6.0\]"):
        MultiBandDiffusion.get_mbd_24khz(bw=2.0)
    with pytest.raises(ValueError, match=r"3\.0 kbit/s are 4 codebooks, n_q is 8"):
        MultiBandDiffusion.get_mbd_24khz(bw=3.0, n_q=8)
    with pytest.raises(ValueError, match="experiment=mbd_24khz"):
        MultiBandDiffusion.get_mbd_24khz(pretrained=False)


def test_a_model_of_another_kind_is_refused(reference_path: Callable[..., Path]) -> None:
    codec = reference_path("pkg", "musicgen_tiny", "compression_state_dict.bin")
    with pytest.raises(ValueError, match="is a EnCodec, not a multi-band diffusion"):
        MultiBandDiffusion.get_pretrained(str(codec), device="cpu")
