"""Embedders: one row per clip, whatever the rate, the channels and the padding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from eval.embedders import CodecLatentEmbedder, LogMelEmbedder


class _Framer(nn.Module):
    """A linear map of frames of 160 samples: a codec's encoder without its receptive field."""

    sample_rate = 8000
    channels = 1
    frame_rate = 50.0

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(160, 12)

    def encode_latent(self, wav: Tensor) -> Tensor:
        padded = nn.functional.pad(wav[:, 0], (0, -wav.shape[-1] % 160))
        return self.linear(padded.unflatten(1, (-1, 160))).transpose(1, 2)


EMBEDDERS = [(CodecLatentEmbedder(_Framer()), 24), (CodecLatentEmbedder(_Framer(), spread=False), 12)]
EMBEDDERS += [(LogMelEmbedder(sample_rate=8000, num_mels=20), 40)]  # type: ignore[list-item]


def _noise(*shape: int) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("embedder", "dim"), EMBEDDERS, ids=lambda v: getattr(v, "name", ""))
def test_a_padded_clip_is_embedded_as_alone(embedder: LogMelEmbedder, dim: int) -> None:
    wav = _noise(3, 1, 8000)
    rows = embedder.embed(wav, 8000, torch.tensor([8000, 4801, 160]))
    assert rows.shape == (3, dim)
    assert torch.allclose(rows[1:2], embedder.embed(wav[1:2, :, :4801], 8000), atol=1e-5)
    assert torch.allclose(rows[2:3], embedder.embed(wav[2:3, :, :160], 8000), atol=1e-5)


@pytest.mark.parametrize(("embedder", "dim"), EMBEDDERS, ids=lambda v: getattr(v, "name", ""))
def test_other_rates_and_channels_are_converted(embedder: LogMelEmbedder, dim: int) -> None:
    time = torch.arange(32_000) / 16_000
    # Faded in and out, since the ends of a clip are where a resampler has to guess.
    wav = 0.5 * (torch.sin(2 * torch.pi * 440 * time) * torch.hann_window(len(time)))[None, None]
    there = embedder.embed(wav.expand(1, 2, -1), 16_000)
    assert there.shape == (1, dim)
    assert torch.allclose(there, embedder.embed(wav[..., ::2], 8000), atol=0.05)


def test_what_goes_on_the_card() -> None:
    codec = CodecLatentEmbedder(_Framer())
    assert codec.name == "codec-latent-mean-std"
    assert (codec.sample_rate, len(codec.weights_hash or "")) == (8000, 64)
    assert LogMelEmbedder(num_mels=64).name == "log-mel-64-mean-std"
    assert LogMelEmbedder().weights_hash is None


def test_broken_audio_gives_a_broken_row_and_leaves_its_neighbours() -> None:
    wav = _noise(2, 1, 8000)
    whole = LogMelEmbedder(sample_rate=8000, num_mels=20)
    expected = whole.embed(wav[:1], 8000)
    wav[1, 0, 10] = torch.nan
    rows = whole.embed(wav, 8000)
    assert torch.allclose(rows[:1], expected, atol=1e-6)
    assert not rows[1].isfinite().all()


def test_shape_is_checked() -> None:
    with pytest.raises(ValueError, match=r"want \[B, C, L\]"):
        LogMelEmbedder().embed(_noise(2, 100), 16_000)
