"""Audio while its codes are still being written: a chunk as soon as the frames that it needs are there."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_audio.generation.decoders import Decoder, DrawingDecoder, decode_codes, draws_noise
from lightning_audio.generation.windows import WindowedDecoding
from lightning_audio.lm.autoregressive import Progress


@torch.inference_mode()
def stream_chunks(
    run: WindowedDecoding,
    decoder: Decoder | DrawingDecoder,
    *,
    hop_length: int,
    chunk: int,
    context: int,
    lookahead: int,
    seed: int,
    progress: Progress | None = None,
) -> Iterator[Tensor]:
    """The audio of the run's only item in chunks [C, L].

    chunk, context, lookahead: frames of a chunk, and of what is decoded with it before and after.
    A decoder that draws noise draws anew for each chunk, so there each one fades into the next over the lookahead.
    """
    fade = lookahead if draws_noise(decoder) else 0
    heard, tail = 0, None
    for done in run:
        if progress is not None:
            progress(run.frames_done, run.total)
        is_last = done == run.total
        ready = done if is_last else done - lookahead
        if ready - heard < chunk and not (is_last and ready > heard):
            continue
        first = max(heard - context, 0)
        codes = run.codes()[..., first:done]
        wav = decode_codes(decoder, codes, seeds=[seed + heard])[0]
        if wav.shape[-1] != codes.shape[-1] * hop_length:
            raise ValueError(
                f"this decoder makes {wav.shape[-1]} samples of {codes.shape[-1]} frames, not {hop_length} of "
                "each: its audio cannot be made in chunks"
            )
        piece = wav[:, (heard - first) * hop_length : (ready - first) * hop_length]
        yield piece if tail is None else _faded(tail, piece)
        if fade:
            tail = wav[:, (ready - first) * hop_length : (ready - first + fade) * hop_length]
        heard = ready


def _faded(old: Tensor, new: Tensor) -> Tensor:
    """`new`, coming in while `old` goes out.  [C, L'], [C, L] -> [C, L]"""
    length = min(old.shape[-1], new.shape[-1])
    share = torch.linspace(0, 1, length, device=new.device)
    return torch.cat([old[:, :length] + (new[:, :length] - old[:, :length]) * share, new[:, length:]], dim=-1)
