"""EnCodec: audio to codes and back (Défossez et al. 2022, "High Fidelity Neural Audio Compression")."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_audio.codec.base import Encoded
from lightning_audio.codec.quantizer import ResidualVectorQuantizer
from lightning_audio.codec.seanet import SEANetDecoder, SEANetEncoder
from lightning_audio.codec.time_major import fast_form
from lightning_audio.layers.recompute import in_parts


@dataclass(frozen=True)
class CodecOutput:
    """wav: [B, C, L] reconstruction, as long as the input.   codes: [B, K, T] int64.
    penalty: [] commitment of the encoder to the codes, to be added to the training loss.   bandwidth: kbit/s.
    """

    wav: Tensor
    codes: Tensor
    penalty: Tensor
    bandwidth: float


class EnCodec(nn.Module):
    """A neural audio codec: an encoder, a residual vector quantiser, a decoder.

    sample_rate: Hz.   channels: of the audio.
    normalize: divide each chunk by its volume (root mean square over its mono mix) and multiply it back after.
    chunk_duration: s; longer audio is encoded in chunks of this length, or None for one piece of any length.
    chunk_overlap: share of a chunk that it has in common with the next; decoded chunks are cross-faded over it.
    num_codebooks: in use where a call does not say how many; all by default.
    """

    def __init__(
        self,
        *,
        encoder: SEANetEncoder,
        decoder: SEANetDecoder,
        quantizer: ResidualVectorQuantizer,
        sample_rate: int,
        channels: int = 1,
        normalize: bool = False,
        chunk_duration: float | None = None,
        chunk_overlap: float = 0.01,
        num_codebooks: int | None = None,
    ) -> None:
        super().__init__()
        _check_fit(encoder, decoder, quantizer, channels)
        if num_codebooks is not None:
            quantizer.num_codebooks = num_codebooks
        self.encoder = encoder
        self.decoder = decoder
        self.quantizer = quantizer
        self.sample_rate = sample_rate
        self.channels = channels
        self.normalize = normalize
        self.hop_length = encoder.hop_length
        self.chunk_length = None if chunk_duration is None else int(chunk_duration * sample_rate)
        self.chunk_stride = self.chunk_length and max(1, int((1 - chunk_overlap) * self.chunk_length))

    @property
    def frame_rate(self) -> float:
        """Frames per second of audio, in Hz."""
        return self.sample_rate / self.hop_length

    @property
    def cardinality(self) -> int:
        """Codes per codebook."""
        return self.quantizer.cardinality

    @property
    def max_codebooks(self) -> int:
        return self.quantizer.max_codebooks

    @property
    def num_codebooks(self) -> int:
        """Codebooks in use where a call does not say how many; may be set."""
        return self.quantizer.num_codebooks

    @num_codebooks.setter
    def num_codebooks(self, number: int) -> None:
        self.quantizer.num_codebooks = number

    def bandwidth(self, num_codebooks: int) -> float:
        """kbit/s of that many codebooks (of each chunk, where the codec works in overlapping ones)."""
        return num_codebooks * math.log2(self.cardinality) * self.frame_rate / 1000

    def codebooks_within(self, bandwidth: float) -> int:
        """The largest number of codebooks that stays within `bandwidth` kbit/s."""
        number = math.floor(bandwidth / self.bandwidth(1) + 1e-6)
        if not 1 <= number <= self.max_codebooks:
            least, most = self.bandwidth(1), self.bandwidth(self.max_codebooks)
            raise ValueError(
                f"a bandwidth of {bandwidth} kbit/s; this codec has {least:g} to {most:g} kbit/s"
            )
        return number

    def codebooks_asked_for(self, num_codebooks: int | None, bandwidth: float | None) -> int:
        """How many codebooks a call is to use that says their number, a bandwidth (kbit/s), or neither."""
        if num_codebooks is not None and bandwidth is not None:
            raise ValueError(
                f"num_codebooks={num_codebooks} and bandwidth={bandwidth} both given: choose one"
            )
        if bandwidth is not None:
            return self.codebooks_within(bandwidth)
        return self.num_codebooks if num_codebooks is None else num_codebooks

    def forward(
        self, wav: Tensor, *, generator: torch.Generator | None = None, parts: int = 1
    ) -> CodecOutput:
        """wav [B, C, L] through the codec. In training mode the codebooks learn, choices from `generator`.

        parts: how many pieces the batch goes in through the encoder and the decoder, which are then computed again
            in the backward pass: less memory, the same result. The codebooks see the whole batch in any case.
        """
        self._check_wav(wav)
        reconstructed, codes, penalties = [], [], []
        # What fits into one chunk is one here; `encode` keeps to the published format, in which a last chunk
        # starts wherever a stride ends, even inside the overlap.
        fits = self.chunk_length is not None and wav.shape[-1] <= self.chunk_length
        number = self.quantizer.draw_num_codebooks(generator) if self.training else None  # one for all chunks
        for chunk in [wav] if fits else self._chunks(wav):
            chunk, scale = self._normalized(chunk)
            latent = in_parts(self.encoder, chunk, parts=parts)
            quantized = self.quantizer(latent, num_codebooks=number, generator=generator)
            reconstructed.append(_rescaled(in_parts(self.decoder, quantized.latent, parts=parts), scale))
            codes.append(quantized.codes)
            penalties.append(quantized.penalty)
        return CodecOutput(
            wav=self._joined(reconstructed)[..., : wav.shape[-1]],
            codes=torch.cat(codes, -1),
            penalty=torch.stack(penalties).mean(),
            bandwidth=self.bandwidth(codes[0].shape[1]),
        )

    def encode(
        self, wav: Tensor, *, num_codebooks: int | None = None, bandwidth: float | None = None
    ) -> Encoded:
        """Codes of wav [B, C, L]; of `num_codebooks`, or of as many as fit into `bandwidth` kbit/s."""
        self._check_wav(wav)
        number = self.codebooks_asked_for(num_codebooks, bandwidth)
        codes, scales = [], []
        for chunk in self._chunks(wav):
            chunk, scale = self._normalized(chunk)
            codes.append(self.quantizer.encode(self.encoder(chunk), num_codebooks=number))
            scales.append(scale)
        scale = torch.stack([s for s in scales if s is not None], 1) if self.normalize else None
        return Encoded(codes=torch.cat(codes, -1), scale=scale)

    def decode(self, encoded: Encoded | Tensor) -> Tensor:
        """Audio [B, C, T * hop_length] (less where chunks overlap) of an `Encoded`, or of bare codes [B, K, T]."""
        codes, scale = (encoded, None) if isinstance(encoded, Tensor) else (encoded.codes, encoded.scale)
        chunks = codes.split(self._frames_per_chunk(codes), -1)
        scales = [None] * len(chunks) if scale is None else list(scale.unbind(1))
        if len(scales) != len(chunks):
            raise ValueError(
                f"{codes.shape[-1]} frames are {len(chunks)} chunks, but there are {len(scales)} scales"
            )
        decoded = [self.decoder(self.quantizer.decode(chunk)) for chunk in chunks]
        return self._joined([_rescaled(wav, s) for wav, s in zip(decoded, scales, strict=True)])

    def encode_latent(self, wav: Tensor) -> Tensor:
        """Continuous latents before quantisation, in one piece: wav [B, C, L] -> [B, D, T]."""
        self._check_wav(wav)
        return self.encoder(self._normalized(wav)[0])

    def decode_latent(self, codes: Tensor) -> Tensor:
        """The latents that the codes stand for: [B, K, T] -> [B, D, T]."""
        return self.quantizer.decode(codes)

    def prepare_for_inference(self) -> EnCodec:
        """The same codec, ready to use: frozen, in eval mode, code norms computed, encoder and decoder in the form
        that is fastest where they are (`time_major`). Its state stays as it is; training ends the preparation.
        """
        self.requires_grad_(False).eval()
        self.quantizer.codebooks.freeze()
        for part in (self.encoder, self.decoder):
            part.fast = fast_form(part)
        return self

    def _chunks(self, wav: Tensor) -> Iterator[Tensor]:
        if self.chunk_length is None or self.chunk_stride is None:
            yield wav
            return
        for start in range(0, wav.shape[-1], self.chunk_stride):
            yield wav[..., start : start + self.chunk_length]

    def _frames_per_chunk(self, codes: Tensor) -> int:
        return (
            codes.shape[-1] if self.chunk_length is None else math.ceil(self.chunk_length / self.hop_length)
        )

    def _joined(self, chunks: list[Tensor]) -> Tensor:
        return chunks[0] if self.chunk_stride is None else overlap_add(chunks, self.chunk_stride)

    def _normalized(self, wav: Tensor) -> tuple[Tensor, Tensor | None]:
        """wav at unit volume, and the volume that it had [B]; unchanged where the codec does not normalise."""
        if not self.normalize:
            return wav, None
        volume = wav.mean(1).square().mean(-1).sqrt() + 1e-8
        return wav / volume[:, None, None], volume

    def _check_wav(self, wav: Tensor) -> None:
        if wav.dim() != 3 or wav.shape[1] != self.channels:
            raise ValueError(f"wav is {tuple(wav.shape)}, the codec wants [batch, {self.channels}, samples]")
        if wav.shape[-1] == 0:
            raise ValueError("wav holds no samples")


def overlap_add(chunks: list[Tensor], stride: int) -> Tensor:
    """Chunks [B, C, L] that start `stride` samples apart, cross-faded into one.

    Each is weighted by a triangle that is highest in its middle, and the sum divided by the sum of weights: where
    one chunk is alone it is unchanged, where two overlap one fades linearly into the other.
    """
    if len(chunks) == 1:
        return chunks[0]
    longest = chunks[0].shape[-1]
    position = torch.linspace(0, 1, longest + 2, device=chunks[0].device, dtype=chunks[0].dtype)[1:-1]
    triangle = 0.5 - (position - 0.5).abs()
    length = stride * (len(chunks) - 1) + chunks[-1].shape[-1]
    total = chunks[0].new_zeros(*chunks[0].shape[:-1], length)
    weight = chunks[0].new_zeros(length)
    for index, chunk in enumerate(chunks):
        span = slice(index * stride, index * stride + chunk.shape[-1])
        total[..., span] += triangle[: chunk.shape[-1]] * chunk
        weight[span] += triangle[: chunk.shape[-1]]
    return total / weight


def _rescaled(wav: Tensor, scale: Tensor | None) -> Tensor:
    return wav if scale is None else wav * scale[:, None, None]


def _check_fit(
    encoder: SEANetEncoder, decoder: SEANetDecoder, quantizer: ResidualVectorQuantizer, channels: int
) -> None:
    """ValueError where the parts of a codec do not fit each other."""
    if encoder.channels != channels or decoder.channels != channels:
        raise ValueError(
            f"the codec has {channels} channels, its encoder {encoder.channels}, its decoder {decoder.channels}"
        )
    if not encoder.dim == decoder.dim == quantizer.dim:
        raise ValueError(
            f"latent widths differ: encoder {encoder.dim}, quantizer {quantizer.dim}, decoder {decoder.dim}"
        )
    if encoder.hop_length != decoder.hop_length:
        raise ValueError(
            f"hop lengths differ: encoder {encoder.hop_length}, decoder {decoder.hop_length} samples"
        )
