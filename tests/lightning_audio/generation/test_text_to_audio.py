"""Audio from text: windows, streams, prompts, seeds, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lightning_audio.conditioning.base import WavCondition
from lightning_audio.conditioning.guidance import with_null
from lightning_audio.generation.text_to_audio import TextToAudio
from lightning_audio.lm.patterns import CoarseFirstPattern, FlatteningPattern, Pattern
from lightning_audio.lm.token_lm import TokenLM

BuildLM = Callable[..., TokenLM]
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


def test_unlike_prompts(model: TextToAudio) -> None:
    """One of another length for each, or none: each item goes on from its own."""
    prompts = [0.1 * torch.randn(1, 640), None, 0.1 * torch.randn(2, 320)]
    calls: list[tuple[int, int]] = []
    together = model.generate_tokens(
        TEXTS,
        duration=[0.8, 0.6, 1.7],
        prompt=prompts,
        prompt_sample_rate=1600,
        seed=2,
        progress=lambda done, total: calls.append((done, total)),
    )
    for row, (duration, prompt) in enumerate(zip([0.8, 0.6, 1.7], prompts, strict=True)):
        options: dict[str, Any] = {"duration": duration, "seed": 2 + row}
        if prompt is not None:
            options |= {"prompt": prompt, "prompt_sample_rate": 1600}
        assert torch.equal(together[row], model.generate_tokens([TEXTS[row]], **options)[0])
    assert calls == sorted(calls)
    assert calls[-1] == (40 + 30 + 85, 40 + 30 + 85)


def test_progress_ends_with_everything_done(model: TextToAudio) -> None:
    calls: list[tuple[int, int]] = []
    model.generate_tokens(
        ["drums"], duration=1.5, extend_stride=0.5, progress=lambda done, total: calls.append((done, total))
    )
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1] == (75, 75)


@pytest.mark.parametrize("pattern", [None, FlatteningPattern([0, 1, 1]), CoarseFirstPattern(3)])
def test_items_of_unlike_durations_are_what_they_are_alone(
    tiny_codec: Any, tiny_lm: BuildLM, pattern: Pattern | None
) -> None:
    """Among them one that takes three windows, and one that ends within a frame's delays."""
    model = TextToAudio(codec=tiny_codec(), lm=tiny_lm(pattern=pattern), max_duration=1.0)
    durations = [0.5, 2.2, 0.98]
    together = model.generate(TEXTS, duration=durations, seed=3)
    assert [wav.shape for wav in together] == [(1, 800), (1, 3520), (1, 1568)]
    for row, (text, duration) in enumerate(zip(TEXTS, durations, strict=True)):
        alone = model.generate_tokens([text], duration=duration, seed=3 + row)[0]
        assert torch.equal(model.generate_tokens(TEXTS, duration=durations, seed=3)[row], alone)
        torch.testing.assert_close(
            together[row], model.generate([text], duration=duration, seed=3 + row)[0], rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("hears", [[], ["melody"]])
def test_padding_of_neighbours_does_not_reach_a_seed(
    tiny_codec: Any, tiny_lm: BuildLM, hears: list[str], tune: torch.Tensor
) -> None:
    """Not even where the model attends to padding, as all that came from AudioCraft do."""
    lm = tiny_lm(mask_padding=False, hears=hears)
    model = TextToAudio(codec=tiny_codec(), lm=lm, max_duration=1.0)
    texts = [TEXTS[0], "drums"]
    melodies: dict[str, Any] = {"melody": [tune, None], "melody_sample_rate": 1600} if hears else {}
    together = model.generate_tokens(texts, duration=0.6, seed=1, **melodies)
    one: dict[str, Any] = {"melody": [None], "melody_sample_rate": 1600} if hears else {}
    alone = model.generate_tokens(["drums"], duration=0.6, seed=2, **one)
    assert torch.equal(together[1], alone[0])
    padded = lm.conditioning(with_null([{"description": text} for text in texts])).cross
    assert padded is not None
    assert padded.shape[1] > lm.conditioning([{"description": "drums"}]).cross.shape[1]  # type: ignore[union-attr]


def test_without_a_duration_a_clip_is_as_long_as_the_model_knows(model: TextToAudio) -> None:
    assert model.generate_tokens(["drums"]).shape[-1] == 50


def test_a_melody_and_a_style_are_heard(listener: TextToAudio, tune: torch.Tensor) -> None:
    plain = listener.generate_tokens(["drums"], duration=0.5)
    for name in ("melody", "style"):
        given: dict[str, Any] = {name: tune, f"{name}_sample_rate": 1600}
        heard = listener.generate_tokens(["drums"], duration=0.5, **given)
        assert not torch.equal(heard, plain)
        other: dict[str, Any] = {name: torch.randn(1, 1600), f"{name}_sample_rate": 1600}
        assert not torch.equal(listener.generate_tokens(["drums"], duration=0.5, **other), heard)
        # At another rate and in stereo it is the same sound, for all items or for each.
        double = tune.repeat_interleave(2, dim=-1).expand(2, -1)
        shapes = [
            listener.generate_tokens(["drums"] * 2, duration=0.5, **{name: wavs, f"{name}_sample_rate": 3200})
            for wavs in (double, double[None], [double, None], torch.stack([double, double]))
        ]
        assert torch.equal(shapes[0], shapes[1])
        assert torch.equal(shapes[0], shapes[3])
        assert torch.equal(shapes[0][0], shapes[2][0])
        assert not torch.equal(shapes[0][1], shapes[2][1])


def test_the_excerpt_of_a_style_is_of_its_seed(listener: TextToAudio) -> None:
    """Not of the batch, nor of what was drawn before."""
    wavs = 0.3 * torch.randn(2, 1, 1600)
    given: dict[str, Any] = {"duration": 0.4, "style_sample_rate": 1600}
    together = listener.generate_tokens(["drums"] * 2, style=wavs, seed=4, **given)
    for row in range(2):
        alone = listener.generate_tokens(["drums"], style=wavs[row], seed=4 + row, **given)
        assert torch.equal(alone[0], together[row])


def test_a_melody_alone_is_enough(listener: TextToAudio, tune: torch.Tensor) -> None:
    given: dict[str, Any] = {"melody": torch.stack([tune, tune]), "melody_sample_rate": 1600}
    assert listener.generate_tokens(duration=0.3, **given).shape == (2, 3, 15)


def test_stereo(stereo: TextToAudio) -> None:
    wav = stereo.generate(["drums"], duration=0.5)
    assert wav.shape == (1, 2, 800)
    assert not torch.equal(wav[:, 0], wav[:, 1])
    prompt = 0.1 * torch.randn(1, 640)  # mono, for both channels
    tokens = stereo.generate_tokens(["drums"], duration=0.8, prompt=prompt, prompt_sample_rate=1600)
    assert torch.equal(tokens[:, 0::2, :20], tokens[:, 1::2, :20])


def test_what_cannot_be_done_is_said_before_any_work(
    model: TextToAudio, tiny_codec: Any, tiny_lm: BuildLM
) -> None:
    def refused(match: str, texts: Any = ("drums",), duration: Any = 0.5, **options: Any) -> None:
        with pytest.raises(ValueError, match=match):
            model.generate_tokens(texts, duration=duration, **options)

    refused("nothing to generate", texts=[])
    refused("nothing to generate", texts=None)
    refused("a list of descriptions", texts="drums")
    refused("duration is 0", duration=0.0)
    refused("duration is -1", duration=-1.0)
    refused("duration is nan", duration=float("nan"))
    refused("duration is inf", duration=float("inf"))
    refused("1 texts, 2 attributes", attributes=[{}, {}])
    refused("attributes is a list", attributes={"genre": "rock"})
    refused("a text or None, got 3", texts=[3])
    refused("1 texts, 3 samples", num_samples=3)
    refused("2 durations for 1 items", duration=[1.0, 2.0])
    refused("duration is -1.0 s", duration=[-1.0])
    refused("duration is long s", duration="long")
    tone = torch.zeros(1, 1600)
    refused("takes no melody; it takes description, genre", melody=tone, melody_sample_rate=1600)
    refused("takes no style", style=[tone], style_sample_rate=1600)
    refused("takes no melody", attributes=[{"melody": WavCondition(tone, 1600)}])
    refused("give melody_sample_rate", melody=tone)
    refused(r"a melody is \[channels, samples\], got \[1600\]", melody=[tone[0]], melody_sample_rate=1600)
    refused("a melody has NaN", melody=tone / 0, melody_sample_rate=1600)
    refused("a prompt has NaN", prompt=tone[:, :160] / 0, prompt_sample_rate=1600)
    refused("got a str", style="a.wav", style_sample_rate=1600)
    refused("1 texts, 2 melody", melody=[tone, tone], melody_sample_rate=1600)
    refused("3 seeds for 1 items", seed=[1, 2, 3])
    refused("unknown sampling settings \\['temprature'\\]", temprature=1.0)
    refused("extend_stride is 1.0 s", extend_stride=1.0)
    refused("got a float", prompt=[0.0], prompt_sample_rate=1600)
    refused("give prompt_sample_rate", prompt=torch.zeros(1, 1, 160))
    refused("prompt lasts 1 s, the whole clip 0.5 s", prompt=torch.zeros(1, 1, 1600), prompt_sample_rate=1600)
    refused("4 prompts for 1 items", prompt=torch.zeros(4, 1, 160), prompt_sample_rate=1600)
    with pytest.raises(ValueError, match="3 codebooks of 20 codes, the language model 4"):
        TextToAudio(codec=tiny_codec(), lm=tiny_lm(num_codebooks=4), max_duration=1.0)
