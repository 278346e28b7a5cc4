"""Audio in and out: read, write, resample, channels, level. Waveforms are float32 [C, L] in [-1, 1]."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import julius
import numpy as np
import soundfile
import torch
from scipy.signal import lfilter
from torch import Tensor, nn

from lightning_audio.atomic import whole_file

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif")
"""File names that are taken for audio, in lower case."""

Source = str | Path | bytes | BinaryIO | int
"""A path, the bytes of a file, an open file, or a file descriptor (at its beginning; closed with the decoder)."""

# The suffix decides; libsndfile calls Opus a subtype of Ogg and would write Vorbis for it.
_FORMATS = {
    ".wav": ("WAV", None),
    ".flac": ("FLAC", None),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", None),
    ".aiff": ("AIFF", None),
    ".aif": ("AIFF", None),
}
_FLOAT_SUBTYPES = ("FLOAT", "DOUBLE")
# libsndfile's Vorbis encoder puts a whole write on the stack and overflows it on long audio.
_WRITE_BLOCK = 1 << 16
_MAX_KERNEL = 1 << 26
# Streamed FLAC states no length and hostile files lie: of more values than this, the length is found by decoding.
_UNBELIEVABLE = 1 << 25
# What a header may claim (Hz): at 1 Hz a few kilobytes would resample to gigabytes.
_RATES = (1_000, 1_000_000)
_READ_BLOCK = 1 << 20
_RESAMPLE_WINDOW = 1 << 15


@dataclass(frozen=True)
class AudioInfo:
    """What the header says: sample_rate (Hz), channels, num_samples (per channel)."""

    sample_rate: int
    channels: int
    num_samples: int

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.num_samples / self.sample_rate


def open_audio(source: Source) -> soundfile.SoundFile:
    """An open decoder; ValueError with the reason where it cannot be opened."""
    if isinstance(source, str | Path) and not Path(source).is_file():
        raise FileNotFoundError(f"no audio file at {source}")
    name = str(source) if isinstance(source, str | Path) else "audio data"
    file: BinaryIO | str = io.BytesIO(source) if isinstance(source, bytes) else source  # type: ignore[assignment]
    try:
        decoder = soundfile.SoundFile(file)
    except (soundfile.LibsndfileError, TypeError) as error:
        raise ValueError(f"{name} is no audio that can be read: {_reason(error)}") from error
    if not _RATES[0] <= decoder.samplerate <= _RATES[1]:
        decoder.close()
        raise ValueError(
            f"{name} claims a sample rate of {decoder.samplerate} Hz; known are {_RATES[0]} to {_RATES[1]}"
        )
    return decoder


def info(source: Source) -> AudioInfo:
    """Sample rate, channels and length, from the header alone."""
    with open_audio(source) as file:
        return AudioInfo(file.samplerate, file.channels, file.frames)


def read(source: Source, *, start: float = 0.0, duration: float | None = None) -> tuple[Tensor, int]:
    """The waveform [C, L] from `start` (s) for `duration` (s; None: to the end), and its sample rate (Hz).

    Sample-exact in every format. Shorter than asked where the file ends before.
    """
    with open_audio(source) as file:
        rate = file.samplerate
        count = -1 if duration is None else round(duration * rate)
        samples = read_samples(file, round(start * rate), count)
    return torch.from_numpy(np.ascontiguousarray(samples.T)), rate


def read_samples(file: soundfile.SoundFile, start: int, count: int = -1) -> np.ndarray:
    """`count` samples from sample `start` (-1: to the end), as decoded: float32 [L, C], interleaved."""
    if start < 0:
        raise ValueError(f"cannot read from sample {start}: before the beginning")
    if start >= file.frames:
        return np.zeros((0, file.channels), np.float32)
    try:
        if start:
            file.seek(start)
        if count >= 0 or file.frames * file.channels < _UNBELIEVABLE:
            return file.read(count, dtype="float32", always_2d=True)
        return np.concatenate([np.zeros((0, file.channels), np.float32), *read_blocks(file)])
    except soundfile.LibsndfileError as error:
        raise ValueError(f"audio cannot be decoded at sample {start}: {_reason(error)}") from error


def read_blocks(file: soundfile.SoundFile, size: int = _READ_BLOCK) -> Iterator[np.ndarray]:
    """What is left of the file in blocks [up to size, C], until it truly ends.

    Not `SoundFile.blocks`, which trusts the header: of a cut MP3 it gives what lay in the buffer before.
    """
    while len(block := file.read(size, dtype="float32", always_2d=True)):
        yield block


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).strip().rstrip(".")


def encode(
    wav: Tensor,
    sample_rate: int,
    *,
    suffix: str = ".flac",
    subtype: str | None = None,
    level: float | None = None,
) -> bytes:
    """The bytes of an audio file.  wav [C, L].

    suffix: chooses the format.  subtype: of libsndfile, e.g. "PCM_16", "PCM_24", "FLOAT".
    level: compression level in [0, 1] where the format has one.
    Values outside [-1, 1] are clipped (only float WAV could hold them); NaN and infinity are refused.
    """
    if suffix.lower() not in _FORMATS:
        raise ValueError(f"cannot write {suffix!r} audio; known are {', '.join(_FORMATS)}")
    if wav.dim() != 2 or not 1 <= wav.shape[0] <= 255:
        raise ValueError(f"audio to write must be [C, L], got {list(wav.shape)}")
    buffer = io.BytesIO()
    encode_blocks([wav], buffer, sample_rate, wav.shape[0], suffix=suffix, subtype=subtype, level=level)
    return buffer.getvalue()


def encode_blocks(
    blocks: Iterable[Tensor],
    file: BinaryIO,
    sample_rate: int,
    channels: int,
    *,
    suffix: str = ".flac",
    subtype: str | None = None,
    level: float | None = None,
) -> int:
    """`encode` for audio that comes in blocks [C, L], into an open file. Gives the number of samples written."""
    file_format, default_subtype = _FORMATS[suffix.lower()]
    what = f"{suffix} {subtype or ''}".strip()
    try:
        writer = soundfile.SoundFile(
            file,
            "w",
            samplerate=sample_rate,
            channels=channels,
            format=file_format,
            subtype=subtype or default_subtype,
            compression_level=level,
        )
    except (soundfile.LibsndfileError, ValueError) as error:
        raise ValueError(
            f"cannot write {what} at {sample_rate} Hz, {channels} ch: {_reason(error)}"
        ) from error
    num_samples = 0
    with writer:
        for block in blocks:
            samples = block.detach().to("cpu", torch.float32)
            if not torch.isfinite(samples).all():
                raise ValueError("audio to write has NaN or infinite values")
            if subtype not in _FLOAT_SUBTYPES:
                samples = samples.clamp(-1.0, 1.0)
            interleaved = np.ascontiguousarray(samples.numpy().T)
            try:
                for start in range(0, len(interleaved), _WRITE_BLOCK):
                    writer.write(interleaved[start : start + _WRITE_BLOCK])
            except soundfile.LibsndfileError as error:
                raise ValueError(f"cannot write {what}: {_reason(error)}") from error
            num_samples += len(interleaved)
    return num_samples


def write(path: str | Path, wav: Tensor, sample_rate: int, *, subtype: str | None = None) -> None:
    """Write [C, L] in the format of the path's suffix, whole or not at all (see `encode`)."""
    path = Path(path)
    data = encode(wav, sample_rate, suffix=path.suffix, subtype=subtype)
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


@functools.lru_cache(maxsize=32)
def _resampler(old: int, new: int, device: torch.device, dtype: torch.dtype) -> julius.ResampleFrac:
    if old * new > _MAX_KERNEL:
        raise ValueError(f"cannot resample: the ratio {old}/{new} does not reduce to small numbers")
    return julius.ResampleFrac(old, new).to(device, dtype)


def resample(wav: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """The same audio at another rate (Hz), by windowed sinc.  [..., L] -> [..., about L · to / from]."""
    if from_rate <= 0 or to_rate <= 0:
        raise ValueError(f"sample rates must be positive, got {from_rate} Hz and {to_rate} Hz")
    if from_rate == to_rate:
        return wav
    common = math.gcd(from_rate, to_rate)
    return _resampler(from_rate // common, to_rate // common, wav.device, wav.dtype)(wav)


def resample_blocks(blocks: Iterable[Tensor], from_rate: int, to_rate: int) -> Iterator[Tensor]:
    """`resample` for audio that comes in blocks [C, L]: joined, what comes out is the whole's conversion.

    The kernel has a finite width, so a window is joined to the end of the one before, just as much as the kernel
    reaches back; only the true beginning and end are padded (with their first and last value, as julius does).
    All windows have one size, whatever that of the blocks: the same samples give the same bits, and the
    convolution is not prepared, and kept in memory, for each size anew. The whole is cut to floor(L · to / from).
    """
    if from_rate == to_rate:
        yield from blocks
        return
    if from_rate <= 0 or to_rate <= 0:
        raise ValueError(f"sample rates must be positive, got {from_rate} Hz and {to_rate} Hz")
    common = math.gcd(from_rate, to_rate)
    old, new = from_rate // common, to_rate // common
    held: Tensor | None = None  # [C, L], what the kernel still has to pass over
    num_read = num_given = 0
    for block in blocks:
        if not block.shape[-1]:
            continue
        resampler = _resampler(old, new, block.device, block.dtype)
        stride = max(1, _RESAMPLE_WINDOW // old) * old  # of a window, in samples read
        window = stride - old + resampler.get_buffer("kernel").shape[-1]
        if held is None:
            held = block[:, :1].expand(-1, resampler._width)
        num_read += block.shape[-1]
        held = torch.cat([held, block], dim=-1)
        while held.shape[-1] >= window:
            made = _resample_window(held[:, :window], resampler)
            num_given += made.shape[-1]
            held = held[:, stride:]
            yield made
    if held is None:
        return
    held = torch.cat([held, held[:, -1:].expand(-1, window)], dim=-1)
    while (left := num_read * new // old - num_given) > 0:
        made = _resample_window(held[:, :window], resampler)[:, :left]
        num_given += made.shape[-1]
        held = nn.functional.pad(held[:, stride:], (0, stride))
        yield made


def _resample_window(wav: Tensor, resampler: julius.ResampleFrac) -> Tensor:
    """[C, L] -> [C, L'], without padding."""
    made = nn.functional.conv1d(wav[:, None], resampler.get_buffer("kernel"), stride=resampler.old_sr)
    return made.transpose(1, 2).flatten(1)  # [C, new, strides] -> [C, strides · new]


def convert_channels(wav: Tensor, channels: int) -> Tensor:
    """[..., C, L] -> [..., channels, L]: mean to mono, mono repeated, or the first channels of more."""
    present = wav.shape[-2]
    if present == channels:
        return wav
    if channels == 1:
        return wav.mean(dim=-2, keepdim=True)
    if present == 1:
        return wav.expand(*wav.shape[:-2], channels, wav.shape[-1])
    if present > channels:
        return wav[..., :channels, :]
    raise ValueError(f"cannot make {channels} channels from {present}")


def convert(wav: Tensor, from_rate: int, to_rate: int, channels: int) -> Tensor:
    """[..., C, L] at `from_rate` (Hz) -> [..., channels, L'] at `to_rate` (Hz)."""
    if wav.shape[-2] > channels:  # fewer channels first: less to resample
        wav = convert_channels(wav, channels)
    return convert_channels(resample(wav, from_rate, to_rate), channels)


def convert_blocks(blocks: Iterable[Tensor], from_rate: int, to_rate: int, channels: int) -> Iterator[Tensor]:
    """`convert` for audio that comes in blocks [C, L]."""
    fewer = (convert_channels(block, channels) if block.shape[0] > channels else block for block in blocks)
    for block in resample_blocks(fewer, from_rate, to_rate):
        yield convert_channels(block, channels)


def normalize_peak(wav: Tensor, *, peak: float = -1.0, only_down: bool = False) -> Tensor:
    """Scaled to have its largest sample at `peak` (dBFS); `only_down` leaves quieter audio as it is."""
    gain = 10 ** (peak / 20) / wav.abs().max().clamp_min(1e-12)
    return wav * gain.clamp(max=1.0) if only_down else wav * gain


def normalize_rms(wav: Tensor, *, rms: float = -18.0, peak: float = -1.0, only_down: bool = False) -> Tensor:
    """Scaled so that the RMS of the mono mix is `rms` (dBFS), then clipped at `peak` (dBFS).  [C, L]"""
    gain = 10 ** (rms / 20) / wav.mean(dim=-2).pow(2).mean().sqrt().clamp_min(1e-12)
    return clip(wav * gain.clamp(max=1.0) if only_down else wav * gain, peak=peak)


def normalize_loudness(
    wav: Tensor,
    sample_rate: int,
    *,
    loudness: float = -14.0,
    compress: bool = False,
    peak: float | None = -1.0,
) -> Tensor:
    """[C, L] scaled to `loudness` (LUFS), limited by tanh if `compress`, clipped at `peak` (dBFS; None: not).

    Audio with an RMS under 0.002 is nearly silence and would only have its noise raised: not scaled.
    """
    measured = integrated_loudness(wav, sample_rate) if wav.pow(2).mean().sqrt() >= 2e-3 else -math.inf
    if measured > -math.inf:
        wav = wav * 10 ** ((loudness - measured) / 20)
        wav = torch.tanh(wav) if compress else wav
    return wav if peak is None else clip(wav, peak=peak)


def clip(wav: Tensor, *, peak: float = -1.0) -> Tensor:
    """Limited hard to ± `peak` (dBFS)."""
    limit = 10 ** (peak / 20)
    return wav.clamp(-limit, limit)


def integrated_loudness(wav: Tensor, sample_rate: int) -> float:
    """Gated loudness (LUFS) of [C, L], C <= 5, by ITU-R BS.1770-4; -inf if every block is under -70 LUFS.

    Two things are torchaudio's, so that our levels are AudioCraft's: the filters (shelf +4 dB at 1500 Hz,
    high pass at 38 Hz; the standard's tables for 48 kHz amount to 1682 Hz and 38.1 Hz), and that each
    filter's output is limited to [-1, 1], so that very hot audio reads some tenths of a LU too soft.
    Audio shorter than a block of 0.4 s is measured as one block.
    """
    meter = LoudnessMeter(sample_rate, wav.shape[0])
    meter.add(wav)
    return meter.loudness()


class LoudnessMeter:
    """`integrated_loudness`, and RMS, of audio that comes in blocks; keeps two numbers for every 0.1 s."""

    def __init__(self, sample_rate: int, channels: int) -> None:
        if channels > 5:
            raise ValueError(f"loudness is defined for up to 5 channels, got {channels}")
        self._block, self._hop = round(0.4 * sample_rate), round(0.1 * sample_rate)
        self._filters = (_high_shelf(sample_rate, 1500.0, 4.0, 0.5**0.5), _high_pass(sample_rate, 38.0, 0.5))
        self._states = [np.zeros((channels, 2)) for _ in self._filters]
        self._total = np.zeros((channels, 1))  # energy up to here, weighted by the filters
        # The totals where the blocks of 0.4 s begin, and where they end.
        self._at_begin = [np.zeros((channels, 1))]
        self._at_end: list[np.ndarray] = []
        self._squares = 0.0
        self._num_samples = 0

    def add(self, wav: Tensor) -> None:
        """The next samples, [C, L]."""
        if not wav.shape[-1]:  # scipy forgets the filters' state over nothing
            return
        samples = wav.detach().to("cpu", torch.float64).numpy()
        self._squares += float((samples**2).sum())
        for i, (b, a) in enumerate(self._filters):
            samples, self._states[i] = lfilter(b, a, samples, axis=-1, zi=self._states[i])
            samples = np.clip(samples, -1.0, 1.0)
        totals = np.cumsum(np.concatenate([self._total, samples**2], axis=-1), axis=-1)
        place, stop = self._num_samples, self._num_samples + samples.shape[-1]  # totals[:, n]: at place + n
        for times, first in ((self._at_begin, 0), (self._at_end, self._block)):
            wanted = np.arange(first, stop + 1, self._hop)
            times.append(totals[:, wanted[wanted > place] - place])
        self._total, self._num_samples = totals[:, -1:], stop

    @property
    def rms(self) -> float:
        """Over all channels, linear."""
        return math.sqrt(self._squares / max(1, self._num_samples * len(self._total)))

    def loudness(self) -> float:
        """Gated loudness (LUFS) of what was added; -inf where nothing of it is above -70 LUFS."""
        if self._num_samples == 0:
            return -math.inf
        if self._num_samples < self._block:
            energy = self._total / self._num_samples
        else:
            ends = np.concatenate(self._at_end, axis=-1)
            begins = np.concatenate(self._at_begin, axis=-1)[:, : ends.shape[-1]]
            energy = (ends - begins) / self._block  # [C, blocks]
        weights = np.array([1.0, 1.0, 1.0, 1.41, 1.41])[: len(energy), None]
        power = (weights * energy).sum(axis=0)
        gate = 10 ** ((-70.0 + 0.691) / 10)
        if not (power > gate).any():
            return -math.inf
        gate = max(gate, 0.1 * power[power > gate].mean())  # the second is 10 LU under the first's result
        return float(-0.691 + 10 * np.log10(power[power > gate].mean()))


def _high_shelf(rate: int, frequency: float, gain: float, q: float) -> tuple[np.ndarray, np.ndarray]:
    """Biquad of the Audio EQ Cookbook (Bristow-Johnson); gain in dB."""
    w, amplitude = 2 * math.pi * frequency / rate, 10 ** (gain / 40)
    cos, root = math.cos(w), 2 * math.sqrt(amplitude) * math.sin(w) / (2 * q)
    up, down = amplitude + 1, amplitude - 1
    b = np.array([up + down * cos + root, -2 * (down + up * cos), up + down * cos - root]) * amplitude
    a = np.array([up - down * cos + root, 2 * (down - up * cos), up - down * cos - root])
    return b / a[0], a / a[0]


def _high_pass(rate: int, frequency: float, q: float) -> tuple[np.ndarray, np.ndarray]:
    w = 2 * math.pi * frequency / rate
    cos, alpha = math.cos(w), math.sin(w) / (2 * q)
    b = np.array([(1 + cos) / 2, -(1 + cos), (1 + cos) / 2])
    a = np.array([1 + alpha, -2 * cos, 1 - alpha])
    return b / a[0], a / a[0]
