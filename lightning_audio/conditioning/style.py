"""A style as a condition: some seconds of audio through a narrow bottleneck (MusicGen-Style, arXiv 2407.12563).

An excerpt of the audio -> frozen features -> a transformer that learns -> batch norm -> residual quantisation
-> every n-th vector. What passes is too little to copy the excerpt from, and enough to say how it sounds.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_audio.audio import convert
from lightning_audio.conditioning.base import Condition, Conditioner, WavCondition
from lightning_audio.conditioning.bottleneck import Quantizer, squeeze
from lightning_audio.conditioning.features import CodecFeatures, FeatureCodec, StyleFeatures
from lightning_audio.layers.transformer import Transformer


class StyleConditioner(Conditioner):
    """Vectors of the style of an excerpt, drawn from the waveform (a `WavCondition`, at least one sample).

    features: what the excerpt is heard by; its width is that of the transformer.
    num_heads, num_layers, dropout: of the transformer, which sees the whole excerpt; 0 layers leave it out.
    quantizer: residual codebooks, or None.   levels: how many of them count outside of training; the fewer, the
        less of the excerpt comes through (1 to 6 in the published model).
    batch_norm: whether what is quantised is normalised first, by running averages outside of training.
    downsampling: of the quantised vectors every so many-th is given.
    sample_rate: Hz, at which excerpts are cut, the model's.
    excerpt: s, outside of training; shorter audio goes round and round.
    excerpt_range: s, from which the length of a training batch's excerpts is drawn; None: always `excerpt`.
    middle: take the middle instead of a random place. The place is random outside of training too.
    code_frame: samples of a frame of codes. Where the style is the clip's own, the frames of the excerpt are not
        asked for in training: the answer is in the question. None: they are.

    In training, batch norm and codebooks learn only from items that have a style. In AudioCraft they also learn
    from the zeros that stand for a dropped one, which is nearly half of its steps.
    """

    rank: ClassVar[int] = 1

    def __init__(
        self,
        *,
        features: StyleFeatures,
        quantizer: Quantizer | None,
        sample_rate: int,
        num_heads: int = 8,
        num_layers: int = 8,
        dropout: float = 0.1,
        levels: int = 3,
        batch_norm: bool = True,
        downsampling: int = 15,
        excerpt: float = 3.0,
        excerpt_range: Sequence[float] | None = (1.5, 4.5),
        middle: bool = False,
        code_frame: int | None = 640,
    ) -> None:
        super().__init__()
        if excerpt_range is not None and not 0 < excerpt_range[0] <= excerpt_range[1]:
            raise ValueError(f"excerpt_range is (shortest, longest) in s, got {tuple(excerpt_range)}")
        self.dim = features.dim
        self.features = features
        self.transformer: nn.Module = nn.Identity()
        if num_layers:
            self.transformer = Transformer(
                dim=self.dim,
                num_heads=num_heads,
                num_layers=num_layers,
                hidden_dim=4 * self.dim,
                causal=False,
                dropout=dropout,
            )
        self.batch_norm = nn.BatchNorm1d(self.dim, affine=False) if batch_norm else None
        self.quantizer: Any = quantizer
        self.sample_rate, self.downsampling = sample_rate, downsampling
        self.excerpt_range, self.middle, self.code_frame = excerpt_range, middle, code_frame
        self.configure(levels=levels, excerpt=excerpt)

    def configure(self, *, levels: int | None = None, excerpt: float | None = None) -> None:
        """How much of the style counts from now on: codebooks, and seconds of audio."""
        highest = getattr(self.quantizer, "max_codebooks", None)
        if levels is not None:
            if highest is not None and not 1 <= levels <= highest:
                raise ValueError(f"{levels} levels of style asked for, the model has 1 to {highest}")
            self.levels = levels
        if excerpt is not None:
            if not excerpt > 0:
                raise ValueError(f"an excerpt lasts more than 0 s, got {excerpt}")
            self.excerpt = excerpt

    def use_codec(self, codec: FeatureCodec) -> None:
        """The codec of the model as a whole, for features that are its codes and have no codec of their own."""
        if isinstance(self.features, CodecFeatures) and not self.features.has_codec:
            self.features.use_codec(codec)

    def prepare(self, values: Sequence[Any], *, rng: random.Random | None = None) -> dict[str, Tensor]:
        """wav [B, 1, L], the excerpts; start, length [B], where they lie in samples, 0 for none.

        seed [1], in training: of the quantiser's draws, which then go on with a resumed run as `rng` does.
        """
        draw: Any = random if rng is None else rng
        seconds = self.excerpt
        if self.training and self.excerpt_range is not None:
            seconds = draw.uniform(*self.excerpt_range)
        wanted = int(seconds * self.sample_rate)
        wavs = [self._waveform(value) for value in values]
        starts = self._starts(values, wavs, wanted, draw)
        lengths = [min(wav.shape[-1], wanted) for wav in wavs]
        excerpts = torch.zeros(len(wavs), 1, wanted if any(lengths) else 0)
        for excerpt, wav, start, length in zip(excerpts, wavs, starts, lengths, strict=True):
            if length:
                excerpt.copy_(wav[:, start + torch.arange(wanted) % length])
        prepared = {"wav": excerpts, "start": torch.tensor(starts), "length": torch.tensor(lengths)}
        if self.training and rng is not None:
            prepared["seed"] = torch.tensor([rng.getrandbits(62)])
        return prepared

    def _waveform(self, value: Any) -> Tensor:
        if value is None:
            return torch.zeros(1, 0)
        if not isinstance(value, WavCondition) or value.wav.shape[-1] == 0:
            raise ValueError(f"a style is a WavCondition with at least one sample, got {value!r}")
        return convert(value.wav.cpu().float(), value.sample_rate, self.sample_rate, 1)

    def _starts(self, values: Sequence[Any], wavs: Sequence[Tensor], wanted: int, draw: Any) -> list[int]:
        """Where each excerpt starts, in samples.

        There is one draw for a batch, as in AudioCraft, which each waveform takes within its own length: what
        neighbours it has changes nothing.
        """
        state = draw.getstate()
        starts = []
        for value, wav in zip(values, wavs, strict=True):
            spare = max(wav.shape[-1] - wanted, 0)
            if value is None or self.middle:
                starts.append(spare // 2)
            elif value.seed is not None:
                starts.append(random.Random(value.seed).randint(0, spare))
            else:
                draw.setstate(state)
                starts.append(draw.randint(0, spare))
        return starts

    def forward(self, prepared: dict[str, Tensor]) -> Condition:
        wav, present = prepared["wav"], prepared["length"] > 0
        extracted = (
            self.features.extract(wav, self.sample_rate)
            if wav.shape[-1]
            else self.features.nothing(len(wav), wav.device)
        )
        x = self.transformer(self.features(extracted))  # [B, T, D]
        rows = present.nonzero()[:, 0]
        if len(rows):
            generator = None
            if "seed" in prepared:
                generator = torch.Generator().manual_seed(int(prepared["seed"]))
            x = x.index_copy(0, rows, self._bottleneck(x[rows], generator).to(x.dtype))
        x = x[:, :: self.downsampling]
        return Condition(x, present[:, None].expand(-1, x.shape[1]))

    def _bottleneck(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """x [B, S, D], normalised and quantised, in float32."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            if self.batch_norm is not None:
                x = self.batch_norm(x.transpose(1, 2)).transpose(1, 2)
            return (
                x
                if self.quantizer is None
                else squeeze(x, self.quantizer, levels=self.levels, generator=generator)
            )

    def counted(self, prepared: Mapping[str, Tensor], num_frames: int) -> Tensor | None:
        if self.code_frame is None:
            return None
        first = prepared["start"][:, None] // self.code_frame
        end = first + prepared["length"][:, None] // self.code_frame
        frames = torch.arange(num_frames, device=first.device)
        return (frames < first) | (frames >= end)
