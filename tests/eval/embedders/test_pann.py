"""PANN from a file in the published form, against its layers written out and a transform by convolution."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from eval.embedders.pann import Pann

WIDTHS = (4, 4, 8, 8, 8, 16)
PUBLISHED = (64, 128, 256, 512, 1024, 2048)


def _shapes(widths: tuple[int, ...], classes: int, window: int = 512) -> dict[str, tuple[int, ...]]:
    bins = window // 2 + 1
    shapes: dict[str, tuple[int, ...]] = {
        "spectrogram_extractor.stft.conv_real.weight": (bins, 1, window),
        "spectrogram_extractor.stft.conv_imag.weight": (bins, 1, window),
        "logmel_extractor.melW": (bins, 64),
        **_norm("bn0", 64),
    }
    for number, (channels, width) in enumerate(zip((1, *widths[:-1]), widths, strict=True), 1):
        for convolution, inputs in ((1, channels), (2, width)):
            name = f"conv_block{number}"
            shapes[f"{name}.conv{convolution}.weight"] = (width, inputs, 3, 3)
            shapes |= _norm(f"{name}.bn{convolution}", width)
    for name, size in (("fc1", widths[-1]), ("fc_audioset", classes)):
        shapes |= {f"{name}.weight": (size, widths[-1]), f"{name}.bias": (size,)}
    return shapes


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    parts = ("weight", "bias", "running_mean", "running_var")
    return {**{f"{name}.{part}": (width,) for part in parts}, f"{name}.num_batches_tracked": ()}


@pytest.fixture(scope="module")
def state(random_state: Callable[..., dict[str, Tensor]]) -> dict[str, Tensor]:
    from transformers.audio_utils import mel_filter_bank

    made = {key: 0.3 * value for key, value in random_state(_shapes(WIDTHS, 5), 0).items()}
    for key in made:
        if re.search(r"bn\d\.weight", key):
            made[key] = made[key] + 1.0
        if key.endswith("running_var"):
            made[key] = made[key].square() + 0.5
        if key.endswith("num_batches_tracked"):
            made[key] = torch.tensor(7)
    made["bn0.running_mean"] = torch.full((64,), -20.0)
    made["bn0.running_var"] = torch.full((64,), 100.0)
    filters = mel_filter_bank(257, 64, 50.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney")
    return made | {"logmel_extractor.melW": torch.from_numpy(filters).float()}


@pytest.fixture(scope="module")
def pann(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Pann:
    path = tmp_path_factory.mktemp("weights") / "Cnn14_16k_mAP=0.438.pth"
    torch.save({"model": state}, path)
    return Pann(path.parent, sample_rate=16_000, device="cpu", any_weights=True)


def _expected(state: dict[str, Tensor], wav: Tensor) -> Tensor:
    """wav [B, L] -> [B, D]"""
    grid = np.outer(np.arange(257), np.arange(512)) * (2 * np.pi / 512)
    taper = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    padded = F.pad(wav[:, None], (256, 256), mode="reflect").double()
    real, imaginary = (
        F.conv1d(padded, torch.from_numpy(wave(grid) * taper)[:, None], stride=160)
        for wave in (np.cos, np.sin)
    )
    power = (real.square() + imaginary.square()).transpose(1, 2).float()
    x = 10 * (power @ state["logmel_extractor.melW"]).clamp(min=1e-10).log10()  # [B, T, mels]

    def norm(x: Tensor, name: str) -> Tensor:
        mean, variance, weight, bias = (
            state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, variance, weight, bias)

    x = norm(x.transpose(1, 2), "bn0").transpose(1, 2)[:, None]
    for number in range(1, 7):
        for part in (1, 2):
            x = F.conv2d(x, state[f"conv_block{number}.conv{part}.weight"], padding=1)
            x = norm(x, f"conv_block{number}.bn{part}").relu()
        x = x if number == 6 else F.avg_pool2d(x, 2)
    x = x.mean(3)
    return F.linear(x.max(2).values + x.mean(2), state["fc1.weight"], state["fc1.bias"]).relu()


def _wav(*shape: int) -> Tensor:
    return 0.2 * torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def test_equals_the_layers_written_out(pann: Pann, state: dict[str, Tensor]) -> None:
    wav = _wav(2, 1, 24_000)
    expected = _expected(state, wav[:, 0])
    assert expected.std() > 0.05
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    assert torch.allclose(pann.embed(wav, 16_000), expected, atol=1e-4)


def test_equals_the_package(pann: Pann, state: dict[str, Tensor]) -> None:
    pytest.importorskip("torchlibrosa", reason="needs torchlibrosa, which the package's network is made with")
    from torchlibrosa.stft import LogmelFilterBank, Spectrogram

    wav = _wav(2, 16_000)
    filters = LogmelFilterBank(sr=16_000, n_fft=512, n_mels=64, fmin=50, fmax=8000, top_db=None)
    spectrum = Spectrogram(n_fft=512, hop_length=160, win_length=512)(wav)
    assert torch.allclose(pann.mel(wav), filters(spectrum)[:, 0], atol=1e-3)


def test_clips_of_all_lengths_are_embedded_as_alone(pann: Pann) -> None:
    wav, lengths = _wav(3, 1, 16_000), torch.tensor([16_000, 9000, 3000])
    found = pann.embed(wav, 16_000, lengths)
    assert torch.equal(
        found.isnan().all(1), torch.tensor([False, False, True])
    )  # under 0.32 s there is no row
    assert torch.allclose(found[1:2], pann.embed(wav[1:2, :, :9000], 16_000), atol=1e-6)


def test_logits_of_segments(pann: Pann, state: dict[str, Tensor]) -> None:
    wav = _wav(1, 1, 16_000 * 15)
    rows = torch.cat([_expected(state, wav[:, 0, :160_000]), _expected(state, wav[:, 0, 160_000:])])
    expected = F.linear(rows, state["fc_audioset.weight"], state["fc_audioset.bias"])
    assert torch.allclose(pann.logits(wav, 16_000), expected, atol=1e-3)
    assert pann.num_segments(torch.tensor([240_000]), 16_000).tolist() == [2]


def test_a_file_of_the_published_shapes_is_read(
    tmp_path: Path, random_state: Callable[..., dict[str, Tensor]]
) -> None:
    drawn = random_state(_shapes(PUBLISHED, 527, window=1024), 1)
    for key in list(drawn):
        if key.endswith("num_batches_tracked"):
            drawn[key] = torch.tensor(7)
    torch.save({"model": drawn}, tmp_path / "weights.pth")
    pann = Pann(tmp_path / "weights.pth", any_weights=True, device="cpu")
    assert (pann.dim, pann.net.fc_audioset.out_features, pann.mel.window) == (2048, 527, 1024)
    assert torch.equal(pann.net.conv_block6.conv2.weight, drawn["conv_block6.conv2.weight"])


def test_wrong_weights_and_rates_are_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="not for 44100 Hz"):
        Pann(sample_rate=44_100)
    torch.save({"model": state}, tmp_path / "Cnn14_16k_mAP=0.438.pth")
    with pytest.raises(ValueError, match="SHA-256"):
        Pann(tmp_path, sample_rate=16_000)
    torch.save({"model": {**state, "head.weight": torch.zeros(1)}}, tmp_path / "Cnn14_16k_mAP=0.438.pth")
    with pytest.raises(ValueError, match=r"head\.weight"):
        Pann(tmp_path, sample_rate=16_000, any_weights=True)
    torch.save({"weights": 1}, tmp_path / "Cnn14_16k_mAP=0.438.pth")
    with pytest.raises(ValueError, match="no file of PANN"):
        Pann(tmp_path, sample_rate=16_000, any_weights=True)
