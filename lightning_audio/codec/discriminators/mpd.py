"""The multi-period discriminator of HiFi-GAN (Kong et al. 2020): audio folded at prime periods."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from lightning_audio.codec.discriminators.verdict import Verdict


class PeriodDiscriminator(nn.Module):
    """Sees every `period`-th sample as one column. The features include the logits."""

    def __init__(
        self,
        *,
        period: int,
        channels: int,
        num_layers: int,
        kernel_size: int,
        stride: int,
        filters: int,
        filters_scale: int,
        max_filters: int,
        negative_slope: float,
    ) -> None:
        super().__init__()
        self.period = period
        self.negative_slope = negative_slope
        convs: list[nn.Module] = []
        width = channels
        for layer in range(num_layers):
            wider = min(filters * filters_scale ** (layer + 1), max_filters)
            step = stride if layer < num_layers - 1 else 1
            conv = nn.Conv2d(width, wider, (kernel_size, 1), stride=(step, 1), padding=(kernel_size // 2, 0))
            convs.append(weight_norm(conv))
            width = wider
        self.convs = nn.ModuleList(convs)
        self.conv_post = weight_norm(nn.Conv2d(width, 1, (3, 1), padding=(1, 0)))

    def forward(self, wav: Tensor) -> Verdict:
        x = F.pad(wav, (0, -wav.shape[-1] % self.period), "reflect")
        x = x.unflatten(-1, (-1, self.period))  # [B, C, L] -> [B, C, L / period, period]
        features = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), self.negative_slope, inplace=True)
            features.append(x)
        logits = self.conv_post(x)
        return Verdict(logits, [*features, logits])


class MultiPeriodDiscriminator(nn.Module):
    """One `PeriodDiscriminator` per period (in samples)."""

    def __init__(
        self,
        *,
        periods: Sequence[int] = (2, 3, 5, 7, 11),
        channels: int = 1,
        num_layers: int = 5,
        kernel_size: int = 5,
        stride: int = 3,
        filters: int = 8,
        filters_scale: int = 4,
        max_filters: int = 1024,
        negative_slope: float = 0.3,
    ) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(
            PeriodDiscriminator(
                period=period,
                channels=channels,
                num_layers=num_layers,
                kernel_size=kernel_size,
                stride=stride,
                filters=filters,
                filters_scale=filters_scale,
                max_filters=max_filters,
                negative_slope=negative_slope,
            )
            for period in periods
        )

    def forward(self, wav: Tensor) -> list[Verdict]:
        return [discriminator(wav) for discriminator in self.discriminators]
