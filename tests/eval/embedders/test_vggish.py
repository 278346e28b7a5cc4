"""VGGish from a file in torchvggish's form, against its algorithm written anew in NumPy and plain convolutions."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from eval.embedders import Hearing, Peak, VGGish

CONVOLUTIONS = {0: (64, 1), 3: (128, 64), 6: (256, 128), 8: (256, 256), 11: (512, 256), 13: (512, 512)}
LAYERS = {0: (4096, 12288), 2: (4096, 4096), 4: (128, 4096)}
SHAPES: dict[str, tuple[int, ...]] = {}
for number, shape in CONVOLUTIONS.items():
    SHAPES |= {f"features.{number}.weight": (*shape, 3, 3), f"features.{number}.bias": shape[:1]}
for number, shape in LAYERS.items():
    SHAPES |= {f"embeddings.{number}.weight": shape, f"embeddings.{number}.bias": shape[:1]}


@pytest.fixture(scope="module")
def state(random_state: Callable[..., dict[str, Tensor]]) -> dict[str, Tensor]:
    drawn = random_state(SHAPES, 0)
    return {key: 0.05 * value if value.ndim == 1 else _scaled(value) for key, value in drawn.items()}


def _scaled(weight: Tensor) -> Tensor:
    """Of a size that neither grows nor shrinks what passes through, still a view of a small storage."""
    base = weight.new_empty(0).set_(weight.untyped_storage())
    scaled = base * math.sqrt(2 / weight[0].numel())
    return scaled.as_strided(weight.shape, weight.stride(), weight.storage_offset())


@pytest.fixture(scope="module")
def file(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "vggish-10086976.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def vggish(file: Path) -> VGGish:
    return VGGish(file, device="cpu", batch_size=3)


def _examples(samples: np.ndarray) -> np.ndarray:
    """Log-mel examples [n, 96, 64] of samples at 16 kHz, frame by frame in float64."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    count = 1 + (len(samples) - 400) // 160
    frames = np.stack([samples[160 * i : 160 * i + 400] * window for i in range(count)])
    spectrum = np.abs(np.fft.rfft(frames, 512))
    mels = 1127.0 * np.log(1.0 + np.linspace(0.0, 8000.0, 257) / 700.0)
    low, high = (1127.0 * np.log(1.0 + f / 700.0) for f in (125.0, 7500.0))
    edges = np.linspace(low, high, 66)
    weights = np.zeros((257, 64))
    for band in range(64):
        left, centre, right = edges[band : band + 3]
        rising, falling = (mels - left) / (centre - left), (right - mels) / (right - centre)
        weights[:, band] = np.maximum(0.0, np.minimum(rising, falling))
    weights[0] = 0.0
    logs = np.log(spectrum @ weights + 0.01)
    return logs[: count // 96 * 96].reshape(-1, 96, 64)


def _expected(state: dict[str, Tensor], samples: np.ndarray) -> Tensor:
    x = torch.from_numpy(_examples(samples)).float()[:, None]
    for number in CONVOLUTIONS:
        x = F.conv2d(
            x, state[f"features.{number}.weight"], state[f"features.{number}.bias"], padding=1
        ).relu()
        if number in (0, 3, 8, 13):
            x = F.max_pool2d(x, 2, 2)
    x = x.transpose(1, 3).transpose(1, 2).reshape(len(x), -1)  # time, frequency, channel
    for number in LAYERS:
        x = F.linear(x, state[f"embeddings.{number}.weight"], state[f"embeddings.{number}.bias"])
        x = x if number == 4 else x.relu()
    return x


def _clip(seconds: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * 16_000)) / 16_000
    tone = np.sin(2 * np.pi * rng.uniform(100, 3000) * time) * np.exp(-time)
    return 0.3 * tone + 0.05 * rng.standard_normal(len(time))


def test_equals_the_original_algorithm(vggish: VGGish, state: dict[str, Tensor]) -> None:
    samples = _clip(3.3)
    found = vggish.embed(torch.from_numpy(samples).float()[None, None], 16_000)
    expected = _expected(state, samples)
    assert found.shape == (3, 128)
    assert expected.std() > 0.05  # the weights let something through
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


def test_clips_of_all_lengths_in_one_batch_are_embedded_as_alone(vggish: VGGish) -> None:
    clips = [torch.from_numpy(_clip(seconds, i)).float() for i, seconds in enumerate((2.1, 0.96, 0.975, 1.3))]
    lengths = torch.tensor([len(clip) for clip in clips])
    wav = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)[:, None]
    wav[1, :, lengths[1] :] = 1.0  # what lies beyond a clip's end must not count
    found = vggish.embed(wav, 16_000, lengths)
    assert [vggish.num_rows(clip[None]) for clip in clips] == [2, 1, 1, 1]
    assert found.shape == (5, 128)
    assert torch.equal(
        found.isnan().all(1), torch.tensor([False, False, True, False, False])
    )  # 0.96 s is too short
    alone = torch.cat([vggish.embed(clip[None, None], 16_000) for clip in clips])
    assert torch.allclose(found, alone, atol=1e-5, equal_nan=True)


def test_rates_and_channels_are_converted_by_the_resampler_that_is_named(vggish: VGGish) -> None:
    samples = torch.from_numpy(_clip(1.0)).float()[None, None]
    there = vggish.embed(samples.repeat_interleave(2, -1).expand(1, 2, -1), 32_000)
    assert there.shape == (1, 128)
    assert str(vggish.hearing) == "resampler julius, level as given"


def test_level_changes_the_embedding_and_is_named(file: Path, vggish: VGGish) -> None:
    loud = VGGish(file, device="cpu", hearing=Hearing(level=Peak(-1.0)))
    wav = torch.from_numpy(_clip(1.0)).float()[None, None]
    assert torch.allclose(loud.embed(wav, 16_000), loud.embed(0.5 * wav, 16_000), atol=1e-3)
    assert not torch.allclose(vggish.embed(wav, 16_000), vggish.embed(0.5 * wav, 16_000), atol=1e-3)
    assert "peak at -1 dBFS" in str(loud.hearing)


def test_a_broken_clip_breaks_its_own_rows_only(vggish: VGGish) -> None:
    wav = torch.from_numpy(np.stack([_clip(1.0, 1), _clip(1.0, 2)])).float()[:, None]
    expected = vggish.embed(wav, 16_000)
    wav[0, 0, 5000] = torch.nan
    found = vggish.embed(wav, 16_000)
    assert found[0].isnan().any()
    assert torch.allclose(found[1], expected[1], atol=1e-5)


def test_what_goes_on_the_card(vggish: VGGish, file: Path) -> None:
    import hashlib

    assert (vggish.name, vggish.sample_rate, vggish.dim) == ("vggish", 16_000, 128)
    assert vggish.weights_hash == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features.0.weight": torch.zeros(64, 3, 3, 3)}, r"features\.0\.weight is \(64, 3, 3, 3\)"),
        ({"pproc.pca_matrix": torch.zeros(2, 2)}, r"unexpected: pproc\.pca_matrix"),
    ],
)
def test_a_file_of_another_network_is_refused(
    tmp_path: Path, state: dict[str, Tensor], change: dict[str, Any], message: str
) -> None:
    torch.save({**state, **change}, tmp_path / "vggish-10086976.pth")
    with pytest.raises(ValueError, match=message):
        VGGish(tmp_path, device="cpu")


def test_a_torn_file_is_refused(tmp_path: Path, file: Path) -> None:
    torn = tmp_path / "vggish-10086976.pth"
    torn.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(ValueError, match="cannot be read safely"):
        VGGish(torn, device="cpu")
