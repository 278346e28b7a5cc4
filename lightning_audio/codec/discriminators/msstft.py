"""The multi-scale STFT discriminator of EnCodec (section 3.4): 2-d convolutions on complex spectrograms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from lightning_audio.codec.discriminators.verdict import Verdict
from lightning_audio.layers.conv import conv2d_from_few


class STFTDiscriminator(nn.Module):
    """One resolution. Real and imaginary parts are channels, convolutions stride over frequency and dilate over time.

    The first convolution has no weight norm; the features leave out the last one, which gives the logits.
    """

    window: Tensor

    def __init__(
        self,
        *,
        n_fft: int,
        hop_length: int,
        win_length: int,
        channels: int,
        filters: int,
        filters_scale: int,
        max_filters: int,
        kernel_size: tuple[int, int],
        dilations: Sequence[int],
        freq_stride: int,
        negative_slope: float,
    ) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.win_length = win_length
        self.negative_slope = negative_slope
        window = torch.hann_window(win_length)
        # Dividing the window by its norm normalises the spectrogram at no cost per call.
        self.register_buffer("window", window / window.square().sum().sqrt(), persistent=False)

        time, freq = kernel_size
        widths = [min(filters * filters_scale**layer, max_filters) for layer in range(len(dilations) + 2)]
        convs: list[nn.Module] = [
            nn.Conv2d(2 * channels, filters, kernel_size, padding=(time // 2, freq // 2))
        ]
        width = filters
        for dilation, wider in zip(dilations, widths[1:], strict=False):
            padding = (dilation * (time - 1) // 2, freq // 2)
            conv = nn.Conv2d(
                width, wider, kernel_size, stride=(1, freq_stride), dilation=(dilation, 1), padding=padding
            )
            convs.append(weight_norm(conv))
            width = wider
        convs.append(weight_norm(nn.Conv2d(width, widths[-1], (time, time), padding=(time // 2, time // 2))))
        self.convs = nn.ModuleList(convs)
        self.conv_post = weight_norm(nn.Conv2d(widths[-1], 1, (time, time), padding=(time // 2, time // 2)))

    def forward(self, wav: Tensor) -> Verdict:
        first, *convs = self.convs
        assert isinstance(first, nn.Conv2d)
        x = conv2d_from_few(self.spectrogram(wav), first)
        x = F.leaky_relu(x, self.negative_slope, inplace=True)
        features = [x]
        for conv in convs:
            x = F.leaky_relu(conv(x), self.negative_slope, inplace=True)
            features.append(x)
        return Verdict(self.conv_post(x), features)

    def spectrogram(self, wav: Tensor) -> Tensor:
        """[B, C, L] -> [B, 2 * C, frames, bins], real parts first; only whole frames, no padding."""
        batch, channels, length = wav.shape
        if length < self.n_fft:
            raise ValueError(f"a discriminator with windows of {self.n_fft} samples got {length} samples")
        spec = torch.stft(
            wav.reshape(batch * channels, length),
            self.n_fft,
            self.hop_length,
            self.win_length,
            self.window,
            center=False,
            return_complex=True,
        )
        parts = torch.view_as_real(spec).unflatten(0, (batch, channels))  # [B, C, bins, frames, 2]
        spectrogram = parts.permute(0, 4, 1, 3, 2).flatten(1, 2)
        # On CPU with channels innermost, which the convolutions keep: over a tenth less time for them.
        on_cpu = wav.device.type == "cpu"
        return spectrogram.contiguous(
            memory_format=torch.channels_last if on_cpu else torch.contiguous_format
        )


class MultiScaleSTFTDiscriminator(nn.Module):
    """One `STFTDiscriminator` per window length.

    n_ffts, hop_lengths, win_lengths: samples, one of each per resolution.
    separate_channels: judge each channel as a clip of its own (the paper's 48 kHz stereo model).
    """

    def __init__(
        self,
        *,
        n_ffts: Sequence[int] = (1024, 2048, 512, 256, 128),
        hop_lengths: Sequence[int] = (256, 512, 128, 64, 32),
        win_lengths: Sequence[int] = (1024, 2048, 512, 256, 128),
        channels: int = 1,
        filters: int = 32,
        filters_scale: int = 1,
        max_filters: int = 1024,
        kernel_size: tuple[int, int] = (3, 9),
        dilations: Sequence[int] = (1, 2, 4),
        freq_stride: int = 2,
        negative_slope: float = 0.3,
        separate_channels: bool = False,
    ) -> None:
        super().__init__()
        self.separate_channels = separate_channels
        self.discriminators = nn.ModuleList(
            STFTDiscriminator(
                n_fft=n_fft,
                hop_length=hop_length,
                win_length=win_length,
                channels=1 if separate_channels else channels,
                filters=filters,
                filters_scale=filters_scale,
                max_filters=max_filters,
                kernel_size=kernel_size,
                dilations=dilations,
                freq_stride=freq_stride,
                negative_slope=negative_slope,
            )
            for n_fft, hop_length, win_length in zip(n_ffts, hop_lengths, win_lengths, strict=True)
        )

    def forward(self, wav: Tensor) -> list[Verdict]:
        if self.separate_channels:
            wav = wav.flatten(0, 1)[:, None]  # [B, C, L] -> [B * C, 1, L]
        return [discriminator(wav) for discriminator in self.discriminators]
