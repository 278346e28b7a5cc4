"""Streams: the same clip as `generate` makes, in pieces, and soon."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_audio.codec.encodec import EnCodec
from lightning_audio.generation.text_to_audio import TextToAudio
from lightning_audio.lm.token_lm import TokenLM


@pytest.mark.parametrize("codec_options", [{}, {"causal": True}])
@pytest.mark.parametrize("duration", [0.9, 2.1])
def test_a_stream_is_the_clip_in_pieces(
    tiny_codec: Callable[..., EnCodec],
    tiny_lm: Callable[..., TokenLM],
    codec_options: dict[str, Any],
    duration: float,
) -> None:
    model = TextToAudio(codec=tiny_codec(**codec_options), lm=tiny_lm(), max_duration=1.0)
    whole = model.generate(["drums"], duration=duration, seed=5)[0]
    for context, tolerance in ((float("inf"), 1e-5), (1.0, 1e-3)):
        chunks = list(model.stream("drums", duration=duration, seed=5, context_duration=context))
        assert len(chunks) > 3
        assert chunks[0].shape[-1] == 320
        streamed = torch.cat(chunks, dim=-1)
        assert streamed.shape == whole.shape
        assert (streamed - whole).abs().max() <= tolerance * whole.abs().max()


@pytest.mark.parametrize("name", ["melody", "style", "prompt"])
def test_what_is_heard_is_heard_in_a_stream(listener: TextToAudio, tune: Tensor, name: str) -> None:
    given: dict[str, Any] = {name: tune, f"{name}_sample_rate": 1600, "duration": 1.7, "seed": 3}
    whole = listener.generate(["drums"], **given)[0]
    streamed = torch.cat(list(listener.stream("drums", context_duration=float("inf"), **given)), dim=-1)
    torch.testing.assert_close(streamed, whole, rtol=0, atol=1e-5)


def test_stereo(stereo: TextToAudio, tune: Tensor) -> None:
    given: dict[str, Any] = {"melody": tune, "melody_sample_rate": 1600, "duration": 0.8}
    whole = stereo.generate(["drums"], **given)[0]
    streamed = torch.cat(list(stereo.stream("drums", context_duration=float("inf"), **given)), dim=-1)
    assert streamed.shape == (2, 1280)
    torch.testing.assert_close(streamed, whole, rtol=0, atol=1e-5)


class Noisy:
    """Each frame's first code as a level, with some noise: what comes of it differs from call to call."""

    sample_rate = 1600

    def decode(self, codes: Tensor, *, seed: Any = None, generator: Any = None) -> Tensor:
        level = codes[:, :1].repeat_interleave(32, dim=-1) / 20
        noise = [torch.randn(1, level.shape[-1], generator=torch.Generator().manual_seed(s)) for s in seed]
        return level + 1e-3 * torch.stack(noise)

    def regenerate(self, wav: Tensor, sample_rate: int) -> Tensor:
        return wav


class Plain:
    def decode(self, codes: Tensor) -> Tensor:
        return codes[:, :1].repeat_interleave(32, dim=-1) / 20


def test_any_decoder(model: TextToAudio) -> None:
    whole = model.generate(["drums"], duration=0.9, seed=5, decoder=Plain())[0]
    for decoder, tolerance in ((Plain(), 0.0), (Noisy(), 0.01)):
        pieces = list(model.stream("drums", duration=0.9, seed=5, decoder=decoder))
        assert len(pieces) == 4
        assert (torch.cat(pieces, dim=-1) - whole).abs().max() <= tolerance

    class Short:
        def decode(self, codes: Tensor) -> Tensor:
            return torch.zeros(1, 1, 5)

    with pytest.raises(ValueError, match="5 samples of 18 frames"):
        list(model.stream("drums", duration=0.9, decoder=Short()))


@pytest.mark.parametrize(("causal", "lookahead"), [(False, 8), (True, 0)])
def test_the_first_sound_comes_after_a_chunk_and_the_lookahead(
    tiny_codec: Callable[..., EnCodec], tiny_lm: Callable[..., TokenLM], causal: bool, lookahead: int
) -> None:
    """Not after the whole clip: the model has then done 10 + 8 frames and its delays, of 500: 0.4 s of steps."""
    model = TextToAudio(codec=tiny_codec(causal=causal), lm=tiny_lm(), max_duration=10.0)
    steps = 0
    original = model.lm.transformer.forward

    def counted(*args: Any, **kwargs: Any) -> Tensor:
        nonlocal steps
        steps += 1
        return original(*args, **kwargs)

    model.lm.transformer.forward = counted  # type: ignore[method-assign]
    try:
        next(iter(model.stream("drums")))
    finally:
        del model.lm.transformer.forward
    assert steps == 10 + lookahead + 2


def test_what_a_stream_cannot_do_is_said_before_the_first_piece_is_asked_for(model: TextToAudio) -> None:
    bad: dict[str, dict[str, Any]] = {
        "duration is nan": {"duration": float("nan")},
        "chunk_duration > 0": {"chunk_duration": 0.0},
        "lookahead_frames >= 0": {"lookahead_frames": -1},
        "takes no melody": {"melody": torch.zeros(1, 9), "melody_sample_rate": 1600},
        "only a model that came from `load`": {"decoder": "mbd"},
    }
    for match, options in bad.items():
        with pytest.raises(ValueError, match=match):
            model.stream("drums", **options)


def test_progress(model: TextToAudio) -> None:
    calls: list[tuple[int, int]] = []
    list(model.stream("drums", duration=1.4, progress=lambda done, total: calls.append((done, total))))
    assert calls == sorted(calls)
    assert calls[-1] == (70, 70)
