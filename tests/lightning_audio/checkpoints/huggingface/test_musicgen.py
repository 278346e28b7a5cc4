"""The same weights give the same logits and the same greedy tokens here and in `transformers`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoTokenizer,
    MusicgenDecoderConfig,
    MusicgenForCausalLM,
    MusicgenForConditionalGeneration,
)

from lightning_audio import load
from lightning_audio.checkpoints.huggingface.decoder import lm_node
from lightning_audio.checkpoints.huggingface.folder import read_huggingface, write_huggingface
from lightning_audio.checkpoints.huggingface.musicgen import read_musicgen, text_conditioning, write_musicgen
from lightning_audio.checkpoints.huggingface.text_encoder import t5_node
from lightning_audio.checkpoints.stored import build, take_apart
from lightning_audio.conditioning.base import FusedConditions

FRAMES = 20
SHAPES: dict[str, dict[str, Any]] = {
    "mono": {},
    "stereo": {"num_codebooks": 8, "audio_channels": 2},
    "text_as_wide": {"width": 32},
    "codec_with_more": {"codec": {"target_bandwidths": [0.5, 1.0, 2.0]}},
    "relu": {"activation_function": "relu"},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_transformers(shape: str, theirs: Any, tmp_path: Path) -> None:
    model = theirs.musicgen(**SHAPES[shape])
    folder = theirs.save(model, tmp_path)
    lm = read_huggingface(folder).assemble().lm
    codes = torch.randint(theirs.special + 1, (3, lm.num_codebooks, 40))
    wanted = model(**theirs.inputs(folder, theirs.texts), decoder_input_ids=codes.flatten(0, 1)).logits
    found = lm(codes, lm.conditioning([{"description": text} for text in theirs.texts]))
    torch.testing.assert_close(found.flatten(0, 1), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_tokens_and_audio_equal_transformers(shape: str, theirs: Any, tmp_path: Path) -> None:
    model = theirs.musicgen(**SHAPES[shape])
    folder = theirs.save(model, tmp_path)
    ours = read_huggingface(folder).assemble()
    wanted = theirs.tokens(model, FRAMES, **theirs.inputs(folder, theirs.texts), guidance_scale=3.0)
    duration = FRAMES / ours.frame_rate
    tokens = ours.generate_tokens(theirs.texts, duration=duration, use_sampling=False, cfg_coef=3.0)
    assert torch.equal(tokens, wanted)
    assert len(tokens.unique()) > 8
    assert not torch.equal(tokens[0], tokens[1])
    audio = model.generate(
        **theirs.inputs(folder, theirs.texts),
        do_sample=False,
        max_length=FRAMES + model.config.decoder.num_codebooks // ours.channels,
    )
    torch.testing.assert_close(ours.codec.decode(tokens), audio, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", ["mono", "stereo"])
def test_unconditional_and_continued_tokens_equal_transformers(
    shape: str, theirs: Any, tmp_path: Path
) -> None:
    model = theirs.musicgen(**SHAPES[shape])
    ours = read_musicgen(theirs.save(model, tmp_path)).assemble()
    free = theirs.tokens(model, FRAMES, **model.get_unconditional_inputs(num_samples=2))
    options: dict[str, Any] = {"duration": FRAMES / ours.frame_rate, "use_sampling": False}
    assert torch.equal(ours.generate_tokens(num_samples=2, **options), free)
    torch.manual_seed(3)
    prompt = 0.3 * torch.randn(2, ours.channels, 7 * ours.codec.hop_length)
    texts = theirs.texts[:2]
    inputs = theirs.inputs(tmp_path, texts)
    wanted = theirs.tokens(model, FRAMES, **inputs, input_values=prompt, guidance_scale=3.0)
    tokens = ours.generate_tokens(texts, prompt=prompt, prompt_sample_rate=ours.sample_rate, **options)
    assert torch.equal(tokens, wanted)


def test_positions_are_the_same_over_a_whole_clip(theirs: Any, tmp_path: Path) -> None:
    """There exp(-log(10000) ...) makes the frequencies, here a power: they round otherwise, and it must not matter."""
    model = theirs.musicgen(num_hidden_layers=1)
    lm = read_musicgen(theirs.save(model, tmp_path)).assemble().lm
    codes = torch.randint(theirs.special, (1, 4, 1500))
    wanted = model(**theirs.inputs(tmp_path, ["piano"]), decoder_input_ids=codes.flatten(0, 1)).logits
    found = lm(codes, lm.conditioning([{"description": "piano"}]))
    torch.testing.assert_close(found.flatten(0, 1), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_there_and_back(shape: str, theirs: Any, tmp_path: Path) -> None:
    model = theirs.musicgen(**SHAPES[shape])
    stored = take_apart(read_huggingface(theirs.save(model, tmp_path / "theirs")).assemble())
    folder = write_huggingface(stored, tmp_path / "ours")
    opened, info = MusicgenForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert opened.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(opened.state_dict()[name], tensor), name
    inputs = theirs.inputs(folder, theirs.texts)
    tokens = theirs.tokens(opened, FRAMES, **inputs, guidance_scale=3.0)
    assert torch.equal(tokens, theirs.tokens(model, FRAMES, **inputs, guidance_scale=3.0))
    again = read_huggingface(folder)
    for part, weights in stored.weights.items():
        assert again.weights[part].keys() == weights.keys()
        assert all(torch.equal(again.weights[part][name], tensor) for name, tensor in weights.items())
    assert again.config["generation"] == stored.config["generation"]
    if (
        "codec" not in SHAPES[shape]
    ):  # that one is written so that a prompt gets the codes that the model takes
        assert again.config["codec"] == stored.config["codec"]


def test_the_published_size() -> None:
    """MusicGen-small: its decoder and the projection of text, and nothing besides."""
    conditioning = text_conditioning(t5_node(768, None, None), 1024)
    with torch.device("meta"):
        ours, model = build(lm_node({}, conditioning)), MusicgenForCausalLM(MusicgenDecoderConfig())
    projection = 768 * 1024 + 1024
    assert sum(p.numel() for p in ours.parameters()) == projection + sum(
        p.numel() for p in model.parameters()
    )
    assert ours.conditioning.conditioners["description"].name == "t5-base"


def test_settings_are_read_and_written(theirs: Any, tmp_path: Path) -> None:
    model = theirs.musicgen()
    model.generation_config.update(top_k=20, temperature=0.7, guidance_scale=2.5)
    stored = read_musicgen(theirs.save(model, tmp_path / "theirs"))
    settings = stored.assemble().defaults
    assert (settings.use_sampling, settings.top_k, settings.temperature) == (True, 20, 0.7)
    assert (settings.top_p, settings.cfg_coef) == (0.0, 2.5)
    stored.config["generation"]["max_duration"] = 8.0
    stored.config["generation"]["defaults"] |= {"top_p": 0.9, "top_k": 0}
    folder = write_musicgen(stored, tmp_path / "ours")
    written = MusicgenForConditionalGeneration.from_pretrained(folder).generation_config
    assert (written.top_p, written.top_k, written.max_length) == (0.9, 0, 400)
    again = read_musicgen(folder).assemble()
    assert (again.max_duration, again.defaults.top_p, again.defaults.temperature) == (8.0, 0.9, 0.7)


def test_sampling_settings_that_are_left_out_are_those_of_transformers(theirs: Any, tmp_path: Path) -> None:
    folder = theirs.save(theirs.musicgen(), tmp_path)
    assert read_musicgen(folder).assemble().defaults.top_k == 50
    (folder / "generation_config.json").write_text('{"do_sample": true, "top_p": 0.8}')
    with pytest.warns(UserWarning, match="top_k 50 and top_p 0.8"):
        settings = read_musicgen(folder).assemble().defaults
    assert (settings.top_p, settings.cfg_coef) == (0.8, 1.0)
    (folder / "generation_config.json").unlink()
    assert read_musicgen(folder).assemble().defaults.cfg_coef == 3.0


def test_another_text_encoder(theirs: Any, tmp_path: Path) -> None:
    """`text_encoder` wins over what lies in the folder."""
    folder = theirs.save(theirs.musicgen(), tmp_path / "theirs")
    other = theirs.musicgen()
    other.text_encoder.shared.weight.normal_()
    other.text_encoder.save_pretrained(tmp_path / "t5")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "t5")
    own = read_musicgen(folder).assemble().lm.conditioning([{"description": "warm rain"}]).cross
    given = read_musicgen(folder, text_encoder=tmp_path / "t5").assemble()
    assert not torch.allclose(own, given.lm.conditioning([{"description": "warm rain"}]).cross)


def test_a_model_of_audiocraft_goes_over(
    theirs: Any, reference_path: Callable[..., Path], tmp_path: Path
) -> None:
    """One text alone has no padding, the only thing in which the two implementations differ."""
    ours = load(reference_path("pkg", "musicgen_tiny"), text_encoder=reference_path("t5"), device="cpu")
    with pytest.warns(UserWarning, match="attends to the padding"):
        folder = write_huggingface(take_apart(ours), tmp_path)
    model = MusicgenForConditionalGeneration.from_pretrained(folder)
    expected = torch.load(reference_path("pkg", "musicgen_tiny", "expected.pt"), weights_only=True)
    for text in expected["outputs"]["texts"]:
        inputs = theirs.inputs(folder, [text])
        wanted = ours.generate_tokens(
            [text], duration=FRAMES / ours.frame_rate, use_sampling=False, cfg_coef=3.0
        )
        assert torch.equal(theirs.tokens(model, FRAMES, **inputs, guidance_scale=3.0), wanted)


@pytest.mark.parametrize("shape", ["mono", "stereo"])
def test_the_decoder_alone(shape: str, theirs: Any, tmp_path: Path) -> None:
    model = theirs.musicgen(**SHAPES[shape]).decoder
    model.save_pretrained(tmp_path / "theirs")
    stored = read_huggingface(tmp_path / "theirs")
    lm = stored.assemble()
    codes = torch.randint(theirs.special + 1, (2, lm.num_codebooks, 12))
    states, mask = torch.randn(2, 5, 32), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    wanted = model(codes.flatten(0, 1), encoder_hidden_states=states, encoder_attention_mask=mask).logits
    found = lm(codes, FusedConditions(cross=states, cross_mask=mask.bool()))
    torch.testing.assert_close(found.flatten(0, 1), wanted, rtol=1e-4, atol=1e-4)
    write_huggingface(stored, tmp_path / "ours")
    opened, info = MusicgenForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, tensor in model.state_dict().items():
        assert torch.equal(opened.state_dict()[name], tensor), name
