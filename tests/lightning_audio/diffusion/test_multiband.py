"""The decoder: the original's audio from its codes; seeds, neighbours, precision, bad input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_audio.checkpoints.audiocraft.mbd import read_mbd
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.diffusion.band import BandDiffusion
from lightning_audio.diffusion.multiband import Bands, MultiBandDiffusion
from lightning_audio.generation.decoders import draws_noise

SHORT = [999, 600, 300, 0]


def some_codes(batch: int = 2, frames: int = 6, seed: int = 0) -> Tensor:
    return torch.randint(0, 32, (batch, 4, frames), generator=torch.Generator().manual_seed(seed))


def test_a_generator_gives_the_originals_audio(reference_path: Callable[..., Path]) -> None:
    folder = reference_path("pkg", "mbd_tiny")
    case = torch.load(folder / "expected.pt", weights_only=True)
    tokens, seed = case["inputs"]["tokens"], case["inputs"]["seed"]
    model = read_mbd(folder).assemble()
    torch.testing.assert_close(model.codec.decode(tokens), case["outputs"]["encodec"], rtol=1e-4, atol=1e-5)
    made = model.decode(tokens, generator=torch.Generator().manual_seed(seed))
    wanted = case["outputs"]["wav"]
    assert (made - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def test_the_audio_depends_on_the_codes_and_on_the_seed(mbd: MultiBandDiffusion) -> None:
    codes = some_codes(1)
    made = mbd.decode(codes, seed=3, steps=SHORT)
    assert made.shape == (1, 1, 6 * 320)
    assert torch.equal(made, mbd.decode(codes, seed=3, steps=SHORT))
    assert not torch.allclose(made, mbd.decode(some_codes(1, seed=1), seed=3, steps=SHORT))
    assert not torch.allclose(made, mbd.decode(codes, seed=4, steps=SHORT))
    # Not through the matched loudness alone: the bands themselves are made for the codes.
    latents = mbd.codec.decode_latent(torch.cat([codes, some_codes(1, seed=1)]))
    x = torch.randn(1, 1, 6 * 320)
    for band in mbd.bands:
        one, other = (band.network(x, 500, latent[None]) for latent in latents)
        assert (one - other).abs().max() > 1e-3 * one.abs().max()


def test_an_items_audio_does_not_depend_on_its_neighbours(mbd: MultiBandDiffusion) -> None:
    codes = some_codes(3)
    together = mbd.decode(codes, seed=[7, 8, 9], steps=SHORT)
    torch.testing.assert_close(together, mbd.decode(codes, seed=7, steps=SHORT), rtol=0, atol=0)
    alone = mbd.decode(codes[1:2], seed=8, steps=SHORT)
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mbd.decode(codes, steps=SHORT), mbd.decode(codes, seed=0, steps=SHORT))


def test_the_default_is_twenty_calls_of_each_network(mbd: MultiBandDiffusion) -> None:
    calls: list[int] = []
    for band in mbd.bands:
        band.network.encoders[0].register_forward_hook(lambda *_: calls.append(1))
    mbd.decode(some_codes(1))
    assert len(calls) == 2 * 20


@pytest.mark.parametrize("rate", [16000, 24000])
def test_regenerate_gives_audio_of_the_same_rate_and_length(mbd: MultiBandDiffusion, rate: int) -> None:
    wav = 0.1 * torch.randn(2, 1, rate // 8 + 7)
    made = mbd.regenerate(wav, rate, seed=1, steps=SHORT)
    assert made.shape[:2] == wav.shape[:2]
    assert abs(made.shape[-1] - wav.shape[-1]) <= 1
    assert torch.equal(made, mbd.regenerate(wav, rate, seed=1, steps=SHORT))


def test_regenerate_is_the_sum_of_the_bands_without_a_match(mbd: MultiBandDiffusion) -> None:
    wav = 0.1 * torch.randn(1, 1, 2000, generator=torch.Generator().manual_seed(0))
    made = mbd.regenerate(wav, 16000, generator=torch.Generator().manual_seed(5), steps=SHORT)
    generator = torch.Generator().manual_seed(5)
    draw = lambda x: torch.randn(x.shape, generator=generator)  # noqa: E731
    with torch.no_grad():
        latent = mbd.codec.decode_latent(mbd.codec.encode(wav).codes)
        bands = [
            band.sample(latent, draw(wav), noise=draw, chain=band.schedule.subsampled_chain(SHORT))
            for band in mbd.bands
        ]
    torch.testing.assert_close(made, bands[0] + bands[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_half_precision_weights_give_nearly_the_same(
    mbd: MultiBandDiffusion, dtype: torch.dtype
) -> None:
    codes = some_codes()
    exact = mbd.decode(codes, steps=SHORT)
    with torch.autocast("cpu", dtype=dtype):
        fast = mbd.decode(codes, steps=SHORT)
    assert fast.dtype == torch.float32
    assert (fast - exact).abs().max() < 0.1 * exact.abs().max()
    small = mbd.to(dtype).decode(codes, steps=SHORT)
    assert small.dtype == torch.float32
    assert (small - exact).abs().max() < 0.2 * exact.abs().max()


def test_it_is_a_decoder_that_generation_gives_seeds(mbd: MultiBandDiffusion) -> None:
    assert draws_noise(mbd)


def test_parts_that_do_not_fit_are_refused(
    make_codec: Callable[..., EnCodec], make_band: Callable[..., BandDiffusion]
) -> None:
    bands: dict[str, Any] = {"bands": Bands(bands=[make_band(0), make_band(1)])}
    with pytest.raises(ValueError, match=r"for 16000 Hz and 1 channels, the codec for 24000 Hz and 1"):
        MultiBandDiffusion(codec=make_codec(sample_rate=24000), **bands)
    with pytest.raises(ValueError, match="normalises volume"):
        MultiBandDiffusion(codec=make_codec(normalize=True), **bands)
    with pytest.raises(ValueError, match="bands are for 8 codebooks, the codec has 4"):
        MultiBandDiffusion(codec=make_codec(), num_codebooks=8, **bands)
    with pytest.raises(ValueError, match="at least one band"):
        Bands(bands=[])
    with pytest.raises(ValueError, match="band 2 of 2"):
        make_band(2)


def test_bad_calls_are_refused(mbd: MultiBandDiffusion) -> None:
    with pytest.raises(ValueError, match="3 seeds for 2 items"):
        mbd.decode(some_codes(), seed=[1, 2, 3])
    with pytest.raises(ValueError, match="choose one"):
        mbd.decode(some_codes(), seed=1, generator=torch.Generator())
    with pytest.raises(ValueError, match="steps must fall"):
        mbd.decode(some_codes(), steps=[0, 999])
    with pytest.raises(ValueError, match=r"want \[batch, channels, samples\]"):
        mbd.regenerate(torch.zeros(1, 3200), 16000)
