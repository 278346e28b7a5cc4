"""A language model in AudioCraft's packaged form generates here what it generates there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_audio.checkpoints.audiocraft.lm import (
    build_lm,
    convert_state,
    read_lm,
    read_pattern,
    text_to_audio,
)
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.generation.text_to_audio import TextToAudio


@pytest.fixture(scope="module")
def model(shared_reference: Path, read_codec: Callable[..., EnCodec]) -> TextToAudio:
    folder = shared_reference / "pkg" / "musicgen_tiny"
    lm, config = read_lm(folder / "state_dict.bin", text_encoder=shared_reference / "t5")
    state = torch.load(folder / "compression_state_dict.bin", weights_only=True)["best_state"]
    return text_to_audio(lm, config, read_codec(state))


@pytest.fixture(scope="module")
def expected(shared_reference: Path) -> dict[str, Any]:
    file = shared_reference / "pkg" / "musicgen_tiny" / "expected.pt"
    return torch.load(file, weights_only=True)["outputs"]


@pytest.mark.parametrize(
    "name",
    ["greedy", "greedy_two_step", "greedy_uncond", "greedy_continuation", "greedy_extended", "topk_seed0"],
)
def test_tokens_and_audio_equal_the_original(name: str, model: TextToAudio, expected: dict[str, Any]) -> None:
    case = expected["cases"][name]
    params, args = dict(case["params"]), case["args"]
    options: dict[str, Any] = {"texts": expected["texts"]}
    if case["call"] == "generate_unconditional":
        options = {"num_samples": args[0]}
    if case["call"] == "generate_continuation":
        options |= {"prompt": args[0], "prompt_sample_rate": args[1]}
    if name.endswith("seed0"):
        options |= {"generator": torch.Generator().manual_seed(0)}
    longest = params.pop("max_duration", expected["max_duration"])
    here = TextToAudio(codec=model.codec, lm=model.lm, max_duration=longest, defaults=model.defaults)
    tokens = here.generate_tokens(**options, **params)
    assert torch.equal(tokens, case["tokens"])
    with torch.inference_mode():
        audio = here.codec.decode(tokens)
    assert list(audio.shape) == case["audio_shape"]
    torch.testing.assert_close(audio[..., ::8], case["audio_every8"], rtol=1e-5, atol=1e-5)


def test_the_whole_model_is_as_it_says(model: TextToAudio, expected: dict[str, Any]) -> None:
    assert model.sample_rate == expected["sample_rate"]
    assert model.frame_rate == expected["frame_rate"]
    assert model.channels == expected["channels"]
    assert model.max_duration == expected["max_duration"]
    assert model.defaults.cfg_coef == 3.0


def test_unknown_keys_and_other_kinds_are_named(tmp_path: Path, text_case: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="surprise"):
        convert_state({"surprise.weight": torch.zeros(1)})
    torch.save({"best_state": {}, "xp.cfg": "solver: compression"}, tmp_path / "codec.bin")
    with pytest.raises(ValueError, match="holds a 'compression' model"):
        read_lm(tmp_path / "codec.bin")
    torch.save({"weights": {}}, tmp_path / "other.bin")
    with pytest.raises(ValueError, match="lacks"):
        read_lm(tmp_path / "other.bin")
    with pytest.raises(ValueError, match="'valle'"):
        read_pattern({"modeling": "valle"}, 4)
    config = text_case["config"]
    odd = {**config, "conditioners": {"description": {"model": "clap", "clap": {}}}}
    with pytest.raises(ValueError, match="'description' is of the kind 'clap'"):
        build_lm(odd)
