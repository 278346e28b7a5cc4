"""Audio from text: windows, streams, prompts, seeds, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_audio.codec.encodec import EnCodec
from lightning_audio.codec.quantizer import ResidualVectorQuantizer
from lightning_audio.codec.seanet import SEANetDecoder, SEANetEncoder
from lightning_audio.conditioning.conditioning import Conditioning
from lightning_audio.conditioning.labels import LabelConditioner
from lightning_audio.conditioning.text import SubwordTextConditioner
from lightning_audio.generation.text_to_audio import SamplingSettings, TextToAudio
from lightning_audio.lm.patterns import DelayPattern
from lightning_audio.lm.token_lm import TokenLM


def tiny_codec(**options: Any) -> EnCodec:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"dim": 8, "num_filters": 4, "ratios": (4, 4, 2), **options}
    codec = EnCodec(
        encoder=SEANetEncoder(**shape),
        decoder=SEANetDecoder(**shape),
        quantizer=ResidualVectorQuantizer(dim=8, num_codebooks=3, cardinality=20),
        sample_rate=1600,  # 50 frames a second
    )
    codec.quantizer.codebooks.embed.normal_()
    codec.quantizer.codebooks.inited.fill_(True)
    return codec.eval()


def tiny_lm(num_codebooks: int = 3, **kwargs: Any) -> TokenLM:
    torch.manual_seed(1)
    lm = TokenLM(
        num_codebooks=num_codebooks,
        cardinality=20,
        dim=32,
        num_heads=2,
        num_layers=2,
        pattern=DelayPattern(range(num_codebooks)),
        conditioning=Conditioning(
            conditioners={
                "description": SubwordTextConditioner(dim=16, num_layers=1, num_buckets=128),
                "genre": LabelConditioner(labels=["rock", "jazz"], dim=4),
            },
            dim=32,
            fuse={"cross": ["description"], "sum": ["genre"]},
        ),
        **kwargs,
    )
    with torch.no_grad():
        lm.heads.weight.mul_(4)
    return lm.eval()


@pytest.fixture(scope="module")
def model() -> TextToAudio:
    return TextToAudio(
        codec=tiny_codec(), lm=tiny_lm(), max_duration=1.0, defaults=SamplingSettings(top_k=10)
    )


TEXTS = ["a slow piano with a long reverb", "drums", None]


def test_shapes_and_dtype(model: TextToAudio) -> None:
    wav = model.generate(TEXTS, duration=0.5)
    assert wav.shape == (3, 1, 800)
    assert wav.dtype == torch.float32
    tokens = model.generate_tokens(TEXTS, duration=0.5)
    assert tokens.shape == (3, 3, 25)
    assert 0 <= int(tokens.min()) <= int(tokens.max()) < 20
    with torch.inference_mode():
        torch.testing.assert_close(model.codec.decode(tokens), wav)


def test_the_same_seed_gives_the_same_clip_whatever_else_is_in_the_batch(model: TextToAudio) -> None:
    together = model.generate_tokens(TEXTS, duration=0.6, seed=7)
    for row, text in enumerate(TEXTS):
        assert torch.equal(model.generate_tokens([text], duration=0.6, seed=7 + row)[0], together[row])
        assert torch.equal(model.generate_tokens([text], duration=0.6, seed=[7 + row])[0], together[row])
    assert not torch.equal(model.generate_tokens(TEXTS, duration=0.6, seed=8), together)


def test_global_random_state_is_left_alone(model: TextToAudio) -> None:
    state = torch.get_rng_state()
    model.generate_tokens(TEXTS, duration=0.2)
    assert torch.equal(torch.get_rng_state(), state)


def test_longer_than_the_model_knows(model: TextToAudio) -> None:
    """Windows overlap: each goes on from the end of the one before, which it does not change."""
    options: dict[str, Any] = {"use_sampling": False, "extend_stride": 0.6}
    tokens = model.generate_tokens(TEXTS[:2], duration=2.5, **options)
    assert tokens.shape[-1] == 125
    assert torch.equal(tokens[..., :50], model.generate_tokens(TEXTS[:2], duration=1.0, **options))
    assert torch.equal(tokens[..., :80], model.generate_tokens(TEXTS[:2], duration=1.6, **options))


def test_attributes_steer_too(model: TextToAudio) -> None:
    rock, jazz = (
        model.generate_tokens(attributes=[{"genre": genre}], duration=0.4) for genre in ("rock", "jazz")
    )
    assert not torch.equal(rock, jazz)
    both = model.generate_tokens(["drums"], attributes=[{"genre": "rock"}], duration=0.4)
    assert not torch.equal(both, rock)
    free = model.generate_tokens(num_samples=2, duration=0.4, seed=3)
    assert torch.equal(free, model.generate_tokens([None, None], duration=0.4, seed=3))


def test_a_prompt_is_kept_and_continued(model: TextToAudio) -> None:
    prompt = 0.1 * torch.randn(2, 1, 640)  # 0.4 s
    tokens = model.generate_tokens(TEXTS[:2], duration=0.8, prompt=prompt, prompt_sample_rate=1600)
    with torch.inference_mode():
        assert torch.equal(tokens[..., :20], model.codec.encode(prompt).codes)
    assert tokens.shape[-1] == 40
    # Another rate and channel count come to the same length; one prompt serves all items.
    stereo = torch.randn(2, 1280)
    tokens = model.generate_tokens(TEXTS[:2], duration=0.8, prompt=stereo, prompt_sample_rate=3200)
    assert torch.equal(tokens[0, :, :20], tokens[1, :, :20])
    # A prompt longer than a window.
    long = 0.1 * torch.randn(1, 1, 2400)
    tokens = model.generate_tokens(["drums"], duration=2.0, prompt=long, prompt_sample_rate=1600)
    assert tokens.shape[-1] == 100


def test_progress_ends_with_everything_done(model: TextToAudio) -> None:
    calls: list[tuple[int, int]] = []
    model.generate_tokens(
        ["drums"], duration=1.5, extend_stride=0.5, progress=lambda done, total: calls.append((done, total))
    )
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1] == (75, 75)


@pytest.mark.parametrize("codec_options", [{}, {"causal": True}])
@pytest.mark.parametrize("duration", [0.9, 2.1])
def test_a_stream_is_the_clip_in_pieces(codec_options: dict[str, Any], duration: float) -> None:
    model = TextToAudio(codec=tiny_codec(**codec_options), lm=tiny_lm(), max_duration=1.0)
    whole = model.generate(["drums"], duration=duration, seed=5)[0]
    for context, tolerance in ((float("inf"), 1e-5), (1.0, 1e-3)):
        chunks = list(
            model.stream("drums", duration=duration, seed=5, chunk_duration=0.2, context_duration=context)
        )
        assert len(chunks) > 3
        assert chunks[0].shape[-1] == 320
        streamed = torch.cat(chunks, dim=-1)
        assert streamed.shape == whole.shape
        assert (streamed - whole).abs().max() <= tolerance * whole.abs().max()


def test_the_first_sound_comes_after_a_chunk_and_the_lookahead(model: TextToAudio) -> None:
    """Not after the whole clip: the model has then done 10 + 8 frames and its delays, of 500."""
    steps = 0
    original = model.lm.transformer.forward

    def counted(*args: Any, **kwargs: Any) -> torch.Tensor:
        nonlocal steps
        steps += 1
        return original(*args, **kwargs)

    model.lm.transformer.forward = counted  # type: ignore[method-assign]
    try:
        next(iter(model.stream("drums", duration=10.0, chunk_duration=0.2)))
    finally:
        del model.lm.transformer.forward
    assert steps == 10 + 8 + 2


def test_what_cannot_be_done_is_said_before_any_work(model: TextToAudio) -> None:
    def refused(match: str, texts: Any = ("drums",), duration: float = 0.5, **options: Any) -> None:
        with pytest.raises(ValueError, match=match):
            model.generate_tokens(texts, duration=duration, **options)

    refused("nothing to generate", texts=[])
    refused("nothing to generate", texts=None)
    refused("a list of descriptions", texts="drums")
    refused("duration is 0", duration=0.0)
    refused("duration is -1", duration=-1.0)
    refused("duration is nan", duration=float("nan"))
    refused("duration is inf", duration=float("inf"))
    refused("1 texts, but attributes of 2", attributes=[{}, {}])
    refused("3 seeds for 1 items", seed=[1, 2, 3])
    refused("unknown sampling settings \\['temprature'\\]", temprature=1.0)
    refused("extend_stride is 1.0 s", extend_stride=1.0)
    refused("give prompt_sample_rate", prompt=torch.zeros(1, 1, 160))
    refused("prompt lasts 1 s, the whole clip 0.5 s", prompt=torch.zeros(1, 1, 1600), prompt_sample_rate=1600)
    refused(r"prompt is \(4, 1, 160\)", prompt=torch.zeros(4, 1, 160), prompt_sample_rate=1600)
    with pytest.raises(ValueError, match="3 codebooks of 20 codes, the language model 4"):
        TextToAudio(codec=tiny_codec(), lm=tiny_lm(num_codebooks=4), max_duration=1.0)
