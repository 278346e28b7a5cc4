"""The multi-scale discriminator of MelGAN (Kumar et al. 2019): grouped convolutions on the waveform."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from lightning_audio.codec.discriminators.verdict import Verdict


class ScaleDiscriminator(nn.Module):
    """Strided convolutions on one scale of the waveform. The features include the logits.

    spectral: use spectral norm instead of weight norm.
    """

    def __init__(
        self,
        *,
        channels: int,
        kernel_sizes: tuple[int, int],
        filters: int,
        max_filters: int,
        downsample_scales: Sequence[int],
        groups: Sequence[int],
        negative_slope: float,
        spectral: bool,
    ) -> None:
        super().__init__()
        self.negative_slope = negative_slope
        norm = spectral_norm if spectral else weight_norm
        first = math.prod(kernel_sizes)
        self.pad = (first - 1) // 2
        convs: list[nn.Module] = [norm(nn.Conv1d(channels, filters, first))]
        width = filters
        for scale, num_groups in zip(downsample_scales, groups, strict=True):
            wider = min(width * scale, max_filters)
            kernel = scale * 10 + 1
            convs.append(
                norm(nn.Conv1d(width, wider, kernel, stride=scale, padding=kernel // 2, groups=num_groups))
            )
            width = wider
        wider = min(width * 2, max_filters)
        convs.append(norm(nn.Conv1d(width, wider, kernel_sizes[0], padding=kernel_sizes[0] // 2)))
        self.convs = nn.ModuleList(convs)
        self.conv_post = norm(nn.Conv1d(wider, 1, kernel_sizes[1], padding=kernel_sizes[1] // 2))

    def forward(self, wav: Tensor) -> Verdict:
        x = F.pad(wav, (self.pad, self.pad), "reflect")
        features = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), self.negative_slope, inplace=True)
            features.append(x)
        logits = self.conv_post(x)
        return Verdict(logits, [*features, logits])


class MultiScaleDiscriminator(nn.Module):
    """One `ScaleDiscriminator` per scale: the waveform, and its halved versions.

    num_spectral_scales: how many scales, from the first, have spectral norm; the others have weight norm.
    downsample: False shows the full rate to every scale, as AudioCraft does (it throws the pooled signal away).
    """

    def __init__(
        self,
        *,
        num_scales: int = 3,
        num_spectral_scales: int = 1,
        channels: int = 1,
        kernel_sizes: tuple[int, int] = (5, 3),
        filters: int = 16,
        max_filters: int = 1024,
        downsample_scales: Sequence[int] = (4, 4, 4, 4),
        groups: Sequence[int] = (4, 4, 4, 4),
        negative_slope: float = 0.3,
        downsample: bool = True,
    ) -> None:
        super().__init__()
        self.downsample = nn.AvgPool1d(4, stride=2, padding=2) if downsample else nn.Identity()
        self.discriminators = nn.ModuleList(
            ScaleDiscriminator(
                channels=channels,
                kernel_sizes=kernel_sizes,
                filters=filters,
                max_filters=max_filters,
                downsample_scales=downsample_scales,
                groups=groups,
                negative_slope=negative_slope,
                spectral=scale < num_spectral_scales,
            )
            for scale in range(num_scales)
        )

    def forward(self, wav: Tensor) -> list[Verdict]:
        verdicts = []
        for discriminator in self.discriminators:
            verdicts.append(discriminator(wav))
            wav = self.downsample(wav)
        return verdicts
