"""PANN: Cnn14, a convolutional tagger of AudioSet's 527 classes, and the layer before its classes as an embedding.

Kong et al., PANNs: Large-Scale Pretrained Audio Neural Networks for Audio Pattern Recognition (arXiv 1912.10211);
the published files for 32, 16 and 8 kHz, which differ in their front ends only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eval.embedders.base import ClipEmbedder, by_length, clips_of, default_device, frozen
from eval.embedders.decibel_mel import DecibelMel
from eval.embedders.hearing import Hearing
from eval.embedders.segments import num_segments, segments_of
from eval.weights import PANN_8K, PANN_16K, PANN_32K, WeightsFile
from lightning_audio.checkpoints.keymap import load_strict, rename_keys
from lightning_audio.checkpoints.pickles import read_pickle

_FILES: dict[int, tuple[WeightsFile, int]] = {  # rate (Hz): file, hop (samples)
    32_000: (PANN_32K, 320),
    16_000: (PANN_16K, 160),
    8_000: (PANN_8K, 80),
}
_WIDTHS = (64, 128, 256, 512, 1024, 2048)
_SHORTEST = 32  # frames that five halvings leave one of


class ConvBlock(nn.Module):
    """Two convolutions, then the mean over `pool` x `pool`."""

    def __init__(self, channels: int, width: int, pool: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.pool = nn.AvgPool2d(pool)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu_()
        return self.pool(self.bn2(self.conv2(x)).relu_())


class Cnn14(nn.Module):
    """The layers, under the names of the published files.  Log-mel [B, T, mels] -> [B, 2048]"""

    def __init__(self, num_mels: int = 64, widths: Sequence[int] = _WIDTHS, num_classes: int = 527) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(num_mels)
        pairs = zip((1, *widths[:-1]), widths, strict=True)
        self.num_blocks = len(widths)
        for number, (channels, width) in enumerate(pairs, 1):
            pool = 2 if number < self.num_blocks else 1
            setattr(self, f"conv_block{number}", ConvBlock(channels, width, pool))
        self.fc1 = nn.Linear(widths[-1], widths[-1])
        self.fc_audioset = nn.Linear(widths[-1], num_classes)

    def forward(self, mel: Tensor) -> Tensor:
        x = self.bn0(mel.transpose(1, 2)[..., None])  # [B, mels, T, 1]
        x = x.permute(0, 3, 2, 1).contiguous(memory_format=torch.channels_last)  # [B, 1, T, mels]
        for number in range(1, self.num_blocks + 1):
            x = getattr(self, f"conv_block{number}")(x)
        x = x.mean(dim=3)
        return self.fc1(x.amax(dim=2) + x.mean(dim=2)).relu()


class Pann(ClipEmbedder):
    """One row for a whole clip, whatever its length; of less than 0.32 s there is none. Also a tagger.

    path: the published file (`Cnn14_mAP=0.431.pth` for 32 kHz), or its folder; by default where `eval.weights`
    finds it.   sample_rate: 32000, 16000 or 8000 Hz, each with its own file.   segment: s, of `logits`.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        sample_rate: int = 32_000,
        segment: float = 10.0,
        hearing: Hearing | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 16,
        any_weights: bool = False,
    ) -> None:
        if sample_rate not in _FILES:
            raise ValueError(f"PANN's Cnn14 is published for {list(_FILES)} Hz, not for {sample_rate} Hz")
        weights, self.hop = _FILES[sample_rate]
        found = weights.find(path, any_weights=any_weights)
        self.name, self.weights_hash = weights.name, found.sha256
        self.sample_rate, self.segment = sample_rate, segment
        self.hearing = hearing or Hearing()
        self.device, self.batch_size = default_device(device), batch_size
        net, mel = _read(found.path, self.hop)
        self.net = frozen(net, self.device)
        self.mel = mel.to(self.device)
        self.dim = net.fc1.out_features

    @torch.no_grad()
    def rows(self, heard: Sequence[Tensor]) -> Tensor:
        rows = torch.full((len(heard), self.dim), torch.nan)
        for places, wav in by_length(heard, self.batch_size):
            if wav.shape[-1] // self.hop + 1 >= _SHORTEST:
                rows[places] = self.net(self.mel(wav[:, 0].to(self.device))).cpu()
        return rows

    @torch.no_grad()
    def logits(self, wav: Tensor, sample_rate: int, num_samples: Tensor | None = None) -> Tensor:
        """wav [B, C, L] at `sample_rate` Hz -> [N, 527], before the sigmoid; a row per segment."""
        heard = [self.hear(clip, sample_rate) for clip in clips_of(wav, num_samples)]
        segments = [part for clip in heard for part in segments_of(clip, self.sample_rate, self.segment)]
        return self.net.fc_audioset(self.rows(segments).to(self.device)).cpu()

    def num_segments(self, num_samples: Tensor, sample_rate: int) -> Tensor:
        """Rows of `logits` of clips of `num_samples` [B] -> [B]"""
        return num_segments(num_samples, sample_rate, self.sample_rate, self.segment)


def _read(path: Path, hop: int) -> tuple[Cnn14, DecibelMel]:
    state: Any = read_pickle(path).get("model")
    if not isinstance(state, Mapping) or "logmel_extractor.melW" not in state:
        raise ValueError(f"{path} is no file of PANN's Cnn14: it has no model with logmel_extractor.melW")
    blocks = [key for key in state if key.endswith(".conv1.weight")]
    with torch.device("meta"):
        net = Cnn14(
            num_mels=state["bn0.weight"].shape[0],
            widths=[state[key].shape[0] for key in blocks],
            num_classes=state["fc_audioset.weight"].shape[0],
        )
    net.to_empty(device="cpu")
    # The front end lies in the file as convolutions, which an FFT does faster.
    kept = rename_keys(
        state, [(r"(spectrogram|logmel)_extractor\..+", ""), (r"((bn0|conv_block|fc).+)", r"\1")]
    )
    load_strict(net, kept)
    return net, DecibelMel(state["logmel_extractor.melW"].float(), hop=hop)
