"""AudioCraft's classes: what a script written for it gets is what it got there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lightning_audio
from lightning_audio import AudioGen, MAGNeT, MusicGen

KINDS = {"musicgen_tiny": MusicGen, "magnet_tiny": MAGNeT}
CASES = {
    "musicgen_tiny": [
        "greedy",
        "greedy_two_step",
        "greedy_uncond",
        "greedy_continuation",
        "greedy_extended",
        "topk_seed0",
    ],
    "magnet_tiny": ["greedy", "greedy_stride1", "sampled_seed0"],
}


@pytest.fixture(scope="module")
def packages(reference_path: Callable[..., Path]) -> dict[str, tuple[Any, dict[str, Any]]]:
    """The drop-in model and what AudioCraft's own made, by package."""
    opened = {}
    for name, kind in KINDS.items():
        folder = reference_path("pkg", name)
        model = kind.get_pretrained(str(folder), device="cpu", text_encoder=reference_path("t5"))
        opened[name] = (model, torch.load(folder / "expected.pt", weights_only=True)["outputs"])
    return opened


@pytest.mark.parametrize(("package", "case"), [(name, case) for name in CASES for case in CASES[name]])
def test_equal_to_audiocraft(
    packages: dict[str, tuple[Any, dict[str, Any]]], package: str, case: str
) -> None:
    model, outputs = packages[package]
    expected = outputs["cases"][case]
    params = dict(expected["params"])
    usual = model.max_duration
    model.max_duration = params.pop("max_duration", usual)
    try:
        model.set_generation_params(**params)
        torch.manual_seed(0)
        wav, tokens = getattr(model, expected["call"])(*expected["args"], return_tokens=True)
    finally:
        model.max_duration = usual
    assert torch.equal(tokens, expected["tokens"])
    assert list(wav.shape) == expected["audio_shape"]
    torch.testing.assert_close(wav[..., ::8], expected["audio_every8"], rtol=0, atol=1e-5)


def test_what_it_says_of_itself(packages: dict[str, tuple[Any, dict[str, Any]]]) -> None:
    for model, outputs in packages.values():
        assert model.frame_rate == outputs["frame_rate"]
        assert model.sample_rate == outputs["sample_rate"]
        assert model.audio_channels == outputs["channels"]
        assert model.max_duration == outputs["max_duration"]
        assert model.compression_model is model.model.codec
        assert model.lm is model.model.lm


def test_every_case_is_tried(packages: dict[str, tuple[Any, dict[str, Any]]]) -> None:
    for name, (_, outputs) in packages.items():
        assert sorted(CASES[name]) == sorted(outputs["cases"])


def test_defaults_of_the_classes(packages: dict[str, tuple[Any, dict[str, Any]]]) -> None:
    musicgen, _ = packages["musicgen_tiny"]
    audiogen = AudioGen("mine", musicgen.compression_model, musicgen.lm, max_duration=10)
    assert (audiogen.duration, audiogen.extend_stride) == (5, 2)
    fresh = MusicGen("mine", musicgen.compression_model, musicgen.lm, max_duration=20)
    assert (fresh.duration, fresh.extend_stride) == (15, 18)
    fresh.set_generation_params()
    assert fresh.duration == 30
    assert fresh.generation_params == {
        "use_sampling": True,
        "top_k": 250,
        "top_p": 0.0,
        "temperature": 1.0,
        "cfg_coef": 3.0,
        "cfg_coef_beta": None,
        "two_step_cfg": False,
    }
    magnet, _ = packages["magnet_tiny"]
    assert MAGNeT("mine", magnet.compression_model, magnet.lm, max_duration=3).duration == 3


def test_progress_is_told_where_it_is_asked_for(
    packages: dict[str, tuple[Any, dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    model, _ = packages["musicgen_tiny"]
    model.set_generation_params(duration=0.2)
    calls: list[tuple[int, int]] = []
    model.set_custom_progress_callback(lambda done, total: calls.append((done, total)))
    model.generate(["drums"])
    assert not calls
    model.generate(["drums"], progress=True)
    assert calls[-1] == (10, 10)
    model.set_custom_progress_callback()
    assert isinstance(model.generate(["drums"], progress=True), Tensor)
    assert "10 /     10" in capsys.readouterr().out


def test_a_model_of_another_kind_is_refused(reference_path: Callable[..., Path]) -> None:
    folder = reference_path("pkg", "magnet_tiny")
    with pytest.raises(ValueError, match="MaskedTextToAudio, which MusicGen cannot be made of"):
        MusicGen.get_pretrained(str(folder), device="cpu", text_encoder=reference_path("t5"))


def test_what_a_model_does_not_take_is_said(packages: dict[str, tuple[Any, dict[str, Any]]]) -> None:
    model, _ = packages["musicgen_tiny"]
    with pytest.raises(ValueError, match="takes no melody; it takes description"):
        model.generate_with_chroma(["drums"], torch.zeros(1, 1, 3200), 32000)
    with pytest.raises(ValueError, match="takes no style"):
        model.set_style_conditioner_params(eval_q=2)
    with pytest.raises(ValueError, match="nothing to generate"):
        model.generate([])
    with pytest.raises(ValueError, match="give max_duration"):
        MusicGen("mine", model.compression_model, model.lm)


def test_below_the_classes_a_seed_does_not_depend_on_the_batch(
    packages: dict[str, tuple[Any, dict[str, Any]]],
) -> None:
    """Though padding counts in these models, and the second text is far longer than the first."""
    for name, options in (
        ("musicgen_tiny", {"duration": 0.4}),
        ("magnet_tiny", {"decoding_steps": [4, 2, 2, 2]}),
    ):
        dressed, outputs = packages[name]
        texts = outputs["texts"]
        together = dressed.model.generate_tokens(texts, seed=3, **options)
        for row, text in enumerate(texts):
            alone = dressed.model.generate_tokens([text], seed=3 + row, **options)
            assert torch.equal(together[row], alone[0])


def test_the_names_are_public() -> None:
    for name in lightning_audio.__all__:
        assert getattr(lightning_audio, name).__name__ == name
