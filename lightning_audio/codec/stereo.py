"""Stereo audio through a mono codec: each channel on its own, the codes of both side by side (MusicGen stereo)."""

from __future__ import annotations

from torch import Tensor, nn

from lightning_audio.codec.base import Encoded
from lightning_audio.codec.encodec import CodecOutput, EnCodec


class StereoFromMono(nn.Module):
    """A stereo codec of 2 K codebooks out of a mono one of K: left and right in turn, L0, R0, L1, R1, ...

    Each channel is what the mono codec makes of it alone. AudioCraft interleaves so, and so does `transformers`.
    Where the mono codec normalises volume, `Encoded.scale` is [B, 2, number of chunks].
    """

    channels = 2

    def __init__(self, *, codec: EnCodec) -> None:
        super().__init__()
        if codec.channels != 1:
            raise ValueError(
                f"want a codec of 1 channel to make a stereo one of, got {codec.channels} channels"
            )
        self.codec = codec

    @property
    def sample_rate(self) -> int:
        """Hz"""
        return self.codec.sample_rate

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return self.codec.hop_length

    @property
    def frame_rate(self) -> float:
        """Frames per second of audio, in Hz."""
        return self.codec.frame_rate

    @property
    def cardinality(self) -> int:
        """Codes per codebook."""
        return self.codec.cardinality

    @property
    def max_codebooks(self) -> int:
        return 2 * self.codec.max_codebooks

    @property
    def num_codebooks(self) -> int:
        """Codebooks in use, of both channels together, where a call does not say how many; may be set."""
        return 2 * self.codec.num_codebooks

    @num_codebooks.setter
    def num_codebooks(self, number: int) -> None:
        self.codec.num_codebooks = _per_channel(number)

    def bandwidth(self, num_codebooks: int) -> float:
        """kbit/s of that many codebooks, of both channels together."""
        return self.codec.bandwidth(num_codebooks)

    def forward(self, wav: Tensor) -> CodecOutput:
        """wav [B, 2, L] through the codec, for use and scores; what learns is the mono codec, before it gets here."""
        self._check_wav(wav)
        output = self.codec(_as_mono(wav))
        return CodecOutput(
            wav=_as_stereo(output.wav),
            codes=interleave(output.codes),
            penalty=output.penalty,
            bandwidth=2 * output.bandwidth,
        )

    def encode(
        self, wav: Tensor, *, num_codebooks: int | None = None, bandwidth: float | None = None
    ) -> Encoded:
        """Codes [B, 2 K, T] of wav [B, 2, L]; `num_codebooks` and `bandwidth` are of both channels together."""
        self._check_wav(wav)
        encoded = self.codec.encode(
            _as_mono(wav),
            num_codebooks=None if num_codebooks is None else _per_channel(num_codebooks),
            bandwidth=None if bandwidth is None else bandwidth / 2,
        )
        scale = None if encoded.scale is None else encoded.scale.unflatten(0, (-1, 2))
        return Encoded(codes=interleave(encoded.codes), scale=scale)

    def decode(self, encoded: Encoded | Tensor) -> Tensor:
        """Audio [B, 2, L] of an `Encoded`, or of bare codes [B, 2 K, T]."""
        codes, scale = (encoded, None) if isinstance(encoded, Tensor) else (encoded.codes, encoded.scale)
        flat = None if scale is None else scale.flatten(0, 1)
        return _as_stereo(self.codec.decode(Encoded(codes=deinterleave(codes), scale=flat)))

    def prepare_for_inference(self) -> StereoFromMono:
        """The same codec, ready to use (see `EnCodec.prepare_for_inference`)."""
        self.codec.prepare_for_inference()
        return self.eval()

    def _check_wav(self, wav: Tensor) -> None:
        if wav.dim() != 3 or wav.shape[1] != 2:
            raise ValueError(f"wav is {tuple(wav.shape)}, the codec wants [batch, 2, samples]")


def interleave(codes: Tensor) -> Tensor:
    """Codes of left and right in turn in the batch, in turn by codebook: [2 B, K, T] -> [B, 2 K, T]."""
    return codes.unflatten(0, (-1, 2)).transpose(1, 2).flatten(1, 2)


def deinterleave(codes: Tensor) -> Tensor:
    """What `interleave` was given: [B, 2 K, T] -> [2 B, K, T]."""
    return codes.unflatten(1, (_per_channel(codes.shape[1]), 2)).transpose(1, 2).flatten(0, 1)


def _as_mono(wav: Tensor) -> Tensor:
    """[B, 2, L] -> [2 B, 1, L]: the channels are items of the batch, so both go through at once."""
    return wav.flatten(0, 1)[:, None]


def _as_stereo(wav: Tensor) -> Tensor:
    """[2 B, 1, L] -> [B, 2, L]"""
    return wav[:, 0].unflatten(0, (-1, 2))


def _per_channel(num_codebooks: int) -> int:
    if num_codebooks % 2:
        raise ValueError(f"{num_codebooks} codebooks cannot be shared evenly by 2 channels")
    return num_codebooks // 2
