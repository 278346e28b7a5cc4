"""VGGish: a convolutional network for stretches of 0.96 s, whose embeddings the Fréchet audio distance was made for.

Hershey et al., CNN Architectures for Large-Scale Audio Classification (arXiv 1609.09430). The network and its
file are those of torchvggish; as in `frechet-audio-distance` there is no PCA, no quantisation, and no activation
after the last layer. The front end is that of the TensorFlow original, which AudioCraft runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from eval.embedders.base import ClipEmbedder, default_device, frozen
from eval.embedders.hearing import Hearing
from eval.weights import VGGISH
from lightning_audio.checkpoints.keymap import load_strict
from lightning_audio.checkpoints.pickles import read_pickle

_RATE = 16_000
_WINDOW, _HOP, _FFT = 400, 160, 512  # 25 ms and 10 ms
_MELS, _LOW, _HIGH = 64, 125.0, 7500.0
_FRAMES = 96  # of an example: 0.96 s
_EXAMPLE = (_FRAMES - 1) * _HOP + _WINDOW  # samples that the first example needs


class VGGishNet(nn.Module):
    """The layers, under the names of torchvggish's file.  Log-mel examples [N, 1, 96, 64] -> [N, 128]"""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for stage in ((64,), (128,), (256, 256), (512, 512)):
            for width in stage:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.embeddings = nn.Sequential(
            nn.Linear(512 * 6 * 4, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 128)
        )

    def forward(self, examples: Tensor) -> Tensor:
        features = self.features(examples.to(memory_format=torch.channels_last))  # [N, 512, 6, 4]
        # TensorFlow has the channels last, and so has the order of the weights that follow.
        return self.embeddings(features.permute(0, 2, 3, 1).flatten(1))


class VGGishFrontEnd(nn.Module):
    """Audio at 16 kHz to log-mel examples: magnitudes of 25 ms every 10 ms, in 64 bands from 125 to 7500 Hz."""

    filters: Tensor
    taper: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filters", _mel_filters(), persistent=False)
        taper = torch.hann_window(_WINDOW, dtype=torch.float64).float()
        self.register_buffer("taper", taper, persistent=False)

    def forward(self, wav: Tensor) -> Tensor:
        """[B, L] -> [B, n, 96, 64]; what does not fill an example is left out."""
        frames = wav.unfold(-1, _WINDOW, _HOP)
        frames = frames[:, : frames.shape[1] // _FRAMES * _FRAMES]
        magnitudes = torch.fft.rfft(frames * self.taper, _FFT).abs()
        return (magnitudes @ self.filters + 0.01).log().unflatten(1, (-1, _FRAMES))


def num_examples(num_samples: int) -> int:
    """Examples in a clip of `num_samples` at 16 kHz."""
    return max(0, (num_samples - _WINDOW) // _HOP + 1) // _FRAMES


def _mel_filters() -> Tensor:
    """Triangles in mel, not in Hz, without the bin of 0 Hz.  [257, 64]"""

    def mel(frequency: Tensor) -> Tensor:
        return 1127.0 * torch.log1p(frequency / 700.0)

    bins = mel(torch.linspace(0.0, _RATE / 2, _FFT // 2 + 1, dtype=torch.float64))[:, None]
    low, high = (1127.0 * math.log1p(frequency / 700.0) for frequency in (_LOW, _HIGH))
    edges = torch.linspace(low, high, _MELS + 2, dtype=torch.float64)
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    filters = torch.minimum(rising, falling).clamp(min=0.0)
    filters[0] = 0.0
    return filters.float()


class VGGish(ClipEmbedder):
    """One row for every 0.96 s of a clip; what is left at its end does not count, as in the original.

    path: torchvggish's file `vggish-10086976.pth`, or its folder; by default where `eval.weights` finds it.
    batch_size: examples that go through the network at once.
    """

    sample_rate = _RATE
    dim = 128

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        hearing: Hearing | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 64,
        any_weights: bool = False,
    ) -> None:
        found = VGGISH.find(path, any_weights=any_weights)
        self.name, self.weights_hash = "vggish", found.sha256
        self.hearing = hearing or Hearing()
        self.device, self.batch_size = default_device(device), batch_size
        with torch.device("meta"):
            net = VGGishNet()
        net.to_empty(device="cpu")
        load_strict(net, read_pickle(found.path))
        self.net = frozen(net, self.device)
        self.front_end = VGGishFrontEnd().to(self.device)

    def num_rows(self, heard: Tensor) -> int:
        return max(1, num_examples(heard.shape[-1]))

    @torch.no_grad()
    def rows(self, heard: Sequence[Tensor]) -> Tensor:
        counts = [num_examples(clip.shape[-1]) for clip in heard]
        examples = [
            self.front_end(clip.to(self.device))[0]
            for clip, count in zip(heard, counts, strict=True)
            if count
        ]
        rows = torch.full((sum(max(1, count) for count in counts), self.dim), torch.nan)
        if examples:
            parts = torch.cat(examples)[:, None].split(self.batch_size)
            embedded = torch.cat([self.net(part) for part in parts]).cpu()
            filled = torch.tensor([count > 0 for count in counts for _ in range(max(1, count))])
            rows[filled] = embedded
        return rows
