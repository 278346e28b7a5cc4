"""What steers a model, from AudioCraft's config and weights to ours and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_audio.checkpoints.audiocraft.conditioners import (
    read_conditioning,
    read_weights,
    write_conditioning,
    write_weights,
)
from lightning_audio.checkpoints.keymap import load_strict
from lightning_audio.checkpoints.stored import build

OURS, THEIRS = "conditioning.", "condition_provider."
T5 = {
    "model": "t5",
    "t5": {"name": "t5-base", "finetune": False, "word_dropout": 0.2, "normalize_text": False},
}
CHROMA = {
    "model": "chroma_stem",
    "chroma_stem": {
        "sample_rate": 32000,
        "n_chroma": 12,
        "radix2_exp": 14,
        "argmax": True,
        "match_len_on_eval": True,
        "eval_wavs": None,
        "n_eval_wavs": 0,
        "cache_path": None,
    },
}
CLAP = {
    "model": "clap",
    "clap": {
        "checkpoint": "//reference/clap/music_audioset_epoch_15_esc_90.14.pt",
        "model_arch": "HTSAT-base",
        "enable_fusion": False,
        "sample_rate": 48000,
        "max_audio_length": 10,
        "audio_stride": 1,
        "dim": 8,
        "attribute": "description",
        "normalize": True,
        "quantize": True,
        "n_q": 3,
        "bins": 4,
        "kmeans_iters": 50,
        "text_p": 0.0,
        "cache_path": None,
    },
}
LUT = {"model": "lut", "lut": {"n_bins": 30, "dim": 8, "tokenizer": "whitespace"}}


def config_of(conditioners: dict[str, Any], **fuse: list[str]) -> dict[str, Any]:
    ways = {"sum": [], "prepend": [], "cross": [], "input_interpolate": [], **fuse}
    return {
        "transformer_lm": {"dim": 16, "card": 64},
        "dataset": {"segment_duration": 20},
        "conditioners": conditioners,
        "fuser": {"cross_attention_pos_emb": False, "cross_attention_pos_emb_scale": 1, **ways},
    }


@pytest.fixture(scope="module")
def style_case(reference_path: Callable[..., Path]) -> dict[str, Any]:
    return torch.load(reference_path("lm", "style.pt"), weights_only=True)


def test_a_melody_model(tmp_path: Path) -> None:
    config = config_of(
        {"self_wav": CHROMA, "description": T5, "args": {"p": 1}}, prepend=["self_wav", "description"]
    )
    node = read_conditioning(config, text_encoder=tmp_path)
    assert node["fuse"] == {"prepend": ["melody", "description"]}
    assert node["conditioners"]["description"]["path"] == str(tmp_path)
    conditioning = build(node).eval()
    melody = conditioning.conditioners["melody"]
    assert melody.num_frames == 1 + 20 * 32000 // 4096
    assert not conditioning.mask_padding
    # No melody is the chroma of silence, every frame of it attended to.
    null = conditioning.encode(
        {"melody": melody.prepare([None]), "description": {}}
        | {"description": conditioning.conditioners["description"].prepare([None])}
    )["melody"]
    projection = conditioning.output_proj["melody"]
    torch.testing.assert_close(null.embedding[0, 5], projection.weight[:, 0] + projection.bias)

    weights = {OURS + name: value for name, value in conditioning.state_dict().items()}
    theirs = write_weights(weights, node)
    window = THEIRS + "conditioners.self_wav.chroma.spec.window"
    assert torch.equal(theirs[window], torch.hann_window(2**14))
    assert all(torch.equal(value, weights[name]) for name, value in read_weights(theirs).items())
    sections = write_conditioning(node)
    assert sections["conditioners"] == {"self_wav": CHROMA, "description": T5}
    assert read_conditioning({**config, **sections}, text_encoder=tmp_path) == node


def test_a_style_model(style_case: dict[str, Any]) -> None:
    config, state = style_case["config"], style_case["state_dict"]
    node = read_conditioning(config, state=state)
    theirs = {name: value for name, value in state.items() if name.startswith(THEIRS)}
    conditioning = build(node)
    ours = read_weights(theirs)
    load_strict(conditioning, {name.removeprefix(OURS): value for name, value in ours.items()})
    back = write_weights(ours, node)
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[name], value) for name, value in theirs.items())
    # Without weights the scale says how many layers there are.
    named = read_conditioning(config)["conditioners"]["style"]
    assert named["num_layers"] == 4
    with pytest.raises(ValueError, match=r"style transformers of .*\(256, 8, 1\)"):
        write_conditioning(node)
    written = write_conditioning({**node, "conditioners": {**node["conditioners"], "style": named}})
    options = dict(config["conditioners"]["self_wav"]["style"])
    found = dict(written["conditioners"]["self_wav"]["style"])
    assert found.pop("encodec_checkpoint") == "//pretrained/facebook/encodec_32khz"
    assert options.pop("encodec_checkpoint") != ""
    assert found == options


def test_a_style_model_of_mert() -> None:
    style = {
        "model": "style",
        "style": {
            "model_name": "mert",
            "transformer_scale": "none",
            "sample_rate": 32000,
            "n_q_out": 2,
            "eval_q": 1,
            "bins": 4,
        },
    }
    node = read_conditioning(config_of({"self_wav": style}, prepend=["self_wav"]))
    conditioning = build(node)
    weights = {OURS + name: value for name, value in conditioning.state_dict().items()}
    theirs = write_weights(weights, node)
    own = THEIRS + "conditioners.self_wav."
    assert theirs[own + "embed.weight"].shape == (512, 768)
    assert theirs[own + "rvq.vq.layers.1._codebook.inited"].shape == (1,)
    assert all(torch.equal(value, weights[name]) for name, value in read_weights(theirs).items())


def test_labels_and_clap(tmp_path: Path) -> None:
    config = config_of({"description": CLAP, "genre": LUT}, cross=["description"], sum=["genre"])
    node = read_conditioning(config)
    conditioning = build(node)
    assert conditioning.kept == ["description"]  # guidance there does not take joint embeddings away
    weights = {OURS + name: value for name, value in conditioning.state_dict().items()}
    theirs = write_weights(weights, node)
    assert THEIRS + "conditioners.description.quantizer.vq.layers.2._codebook.embed_avg" in theirs
    assert THEIRS + "conditioners.genre.embed.weight" in theirs
    assert all(torch.equal(value, weights[name]) for name, value in read_weights(theirs).items())
    sections = write_conditioning(node)
    assert sections["conditioners"] == {"description": CLAP, "genre": LUT}
    assert sections["fuser"] == config["fuser"]


def test_what_has_no_place_is_named() -> None:
    with pytest.raises(ValueError, match=r"'description'.*surprise"):
        read_weights({THEIRS + "conditioners.description.surprise": torch.zeros(1)})
    with pytest.raises(ValueError, match="no weight of a conditioner"):
        read_weights({THEIRS + "surprise": torch.zeros(1)})
    with pytest.raises(ValueError, match="kind 'theremin'"):
        read_conditioning(config_of({"self_wav": {"model": "theremin", "theremin": {}}}, cross=["self_wav"]))
    finetuned = {"model": "t5", "t5": {"name": "t5-base", "finetune": True}}
    with pytest.raises(ValueError, match="finetune"):
        read_conditioning(config_of({"description": finetuned}, cross=["description"]))
    node = read_conditioning(config_of({"self_wav": CHROMA}, prepend=["self_wav"]))
    with pytest.raises(ValueError, match="mask_padding=false"):
        write_conditioning({**node, "mask_padding": True})
    subword = {"_target_": "lightning_audio.conditioning.text.SubwordTextConditioner"}
    with pytest.raises(ValueError, match="nothing like SubwordTextConditioner"):
        write_conditioning(
            {**node, "conditioners": {"description": subword}, "fuse": {"cross": ["description"]}}
        )
