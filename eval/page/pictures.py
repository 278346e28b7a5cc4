"""Pictures of sound: a waveform as SVG, a log-mel spectrogram as PNG, without a plotting library."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
import torch
from torch import Tensor

from eval.mel import LogMel
from eval.page.markup import Markup, tag

WAVE_COLUMNS, WAVE_HEIGHT = 300, 56
MEL_BANDS, MEL_COLUMNS = 80, 400
FLOOR_DB = -80.0

# From silence to full scale in equal steps of lightness (CIELAB L* 8 to 95), so that equal steps in dB look
# equal, in grey and to colour-blind eyes too.
_ANCHORS = (
    (20, 22, 46),
    (59, 41, 112),
    (132, 54, 145),
    (205, 76, 130),
    (242, 127, 107),
    (252, 186, 113),
    (253, 240, 190),
)


def colour_map() -> np.ndarray:
    """256 colours from dark to light.  [256, 3] uint8"""
    position = np.linspace(0, len(_ANCHORS) - 1, 256)
    columns = [np.interp(position, range(len(_ANCHORS)), channel) for channel in zip(*_ANCHORS, strict=True)]
    return np.stack(columns, axis=1).round().astype(np.uint8)


def png(indices: np.ndarray, palette: np.ndarray) -> bytes:
    """A PNG file of palette colours.  indices [height, width] uint8, palette [256, 3] uint8"""
    height, width = indices.shape

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)  # 8 bits, palette, no interlace
    rows = np.concatenate(
        [np.zeros((height, 1), dtype=np.uint8), indices], axis=1
    )  # filter 0 before each row
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"PLTE", palette.tobytes()),
            chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)),
            chunk(b"IEND", b""),
        ]
    )


def data_uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def waveform(wav: Tensor, peak: float = 1.0) -> Markup:
    """The envelope from lowest to highest sample of each column; `peak` fills the height.  wav [C, L]"""
    mono = (wav.float().mean(0).nan_to_num(0.0, 0.0, 0.0) / peak).clamp(-1.0, 1.0)
    columns = max(1, min(WAVE_COLUMNS, mono.numel()))
    size = -(-max(1, mono.numel()) // columns)
    padded = torch.nn.functional.pad(mono, (0, columns * size - mono.numel())).reshape(columns, size)
    low, high = padded.amin(1).tolist(), padded.amax(1).tolist()
    middle = WAVE_HEIGHT / 2

    def point(column: int, level: float) -> str:
        return f"{column + 0.5:g},{middle - level * (middle - 1):.1f}"

    outline = [point(i, max(h, 0.01)) for i, h in enumerate(high)]
    outline += [point(i, min(v, -0.01)) for i, v in reversed(list(enumerate(low)))]
    return tag(
        "svg",
        tag("polygon", points=" ".join(outline)),
        viewBox=f"0 0 {columns} {WAVE_HEIGHT}",
        preserveAspectRatio="none",
        class_="wave",
        aria_hidden="true",
    )


def spectrogram(wav: Tensor, sample_rate: int) -> bytes:
    """A PNG of the log-mel spectrogram from -80 to 0 dB, low bands at the bottom.  wav [C, L]"""
    mono = wav.float().mean(0).nan_to_num(0.0, 0.0, 0.0)
    window = 1024 if sample_rate <= 24_000 else 2048
    hop = max(64, -(-mono.numel() // MEL_COLUMNS))
    mel = LogMel(sample_rate=sample_rate, window=window, hop=hop, num_mels=MEL_BANDS, floor_db=FLOOR_DB)
    level = ((mel(mono) - FLOOR_DB) / -FLOOR_DB).clamp(0.0, 1.0)  # [M, T] in 0..1
    return png((level.flip(0) * 255).round().byte().numpy(), colour_map())
