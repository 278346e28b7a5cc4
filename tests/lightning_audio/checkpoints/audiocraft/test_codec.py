"""Codecs in AudioCraft's packaged form."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from lightning_audio.checkpoints.audiocraft.codec import (
    codec_config,
    codec_node,
    convert_state,
    read_codec,
    revert_state,
    seanet_arguments,
    write_codec,
)
from lightning_audio.checkpoints.stored import build


def package_of(reference_path: Callable[..., Path], name: str) -> Path:
    return reference_path("pkg", name, "compression_state_dict.bin")


@pytest.mark.parametrize("name", ["musicgen_tiny", "magnet_tiny"])
def test_published_tokens_give_the_published_audio(reference_path: Callable[..., Path], name: str) -> None:
    codec = read_codec(package_of(reference_path, name)).assemble()
    cases = torch.load(reference_path("pkg", name, "expected.pt"), weights_only=True)["outputs"]["cases"]
    for case in cases.values():
        audio = codec.decode(case["tokens"])
        assert list(audio.shape) == case["audio_shape"]
        wanted, found = case["audio"], audio
        if wanted is None:
            wanted, found = case["audio_every8"], audio[..., ::8]
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_tokens_of_multi_band_diffusion(reference_path: Callable[..., Path]) -> None:
    codec = read_codec(package_of(reference_path, "mbd_tiny")).assemble()
    expected = torch.load(reference_path("pkg", "mbd_tiny", "expected.pt"), weights_only=True)
    decoded = codec.decode(expected["inputs"]["tokens"])
    torch.testing.assert_close(decoded, expected["outputs"]["encodec"], rtol=1e-5, atol=1e-5)


def rewritten(reference_path: Callable[..., Path], file: Path, **changes: Any) -> Path:
    package = torch.load(package_of(reference_path, "musicgen_tiny"), weights_only=True)
    torch.save({**package, **changes}, file)
    return file


def test_half_precision_and_a_pickled_config(reference_path: Callable[..., Path], tmp_path: Path) -> None:
    original = torch.load(package_of(reference_path, "musicgen_tiny"), weights_only=True)
    half = {name: tensor.half() for name, tensor in original["best_state"].items()}
    config = OmegaConf.create(original["xp.cfg"])
    codec = read_codec(
        rewritten(reference_path, tmp_path / "a.bin", best_state=half, **{"xp.cfg": config})
    ).assemble()
    assert {p.dtype for p in codec.parameters()} == {torch.float32}
    assert codec.sample_rate == 32000


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("executed",)


def test_bad_files_are_named(
    reference_path: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = torch.load(package_of(reference_path, "musicgen_tiny"), weights_only=True)
    state, text = package["best_state"], package["xp.cfg"]
    extra, lacking = {**state, "surplus": torch.zeros(1)}, dict(list(state.items())[1:])
    with pytest.raises(ValueError, match="'surplus'"):
        read_codec(rewritten(reference_path, tmp_path / "extra.bin", best_state=extra))
    with pytest.raises(ValueError, match=r"missing: encoder\.layers\.0\.conv\.bias"):
        read_codec(rewritten(reference_path, tmp_path / "lacking.bin", best_state=lacking)).assemble()
    wrong = {"xp.cfg": text.replace("autoencoder: seanet", "autoencoder: sequence")}
    with pytest.raises(ValueError, match="'sequence'"):
        read_codec(rewritten(reference_path, tmp_path / "wrong.bin", **wrong))
    torch.save({"pretrained": "facebook/encodec_32khz"}, tmp_path / "pointer.bin")
    with pytest.raises(ValueError, match="pointer to 'facebook/encodec_32khz'"):
        read_codec(tmp_path / "pointer.bin")
    whole = package_of(reference_path, "musicgen_tiny").read_bytes()
    (tmp_path / "torn.bin").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be read safely"):
        read_codec(tmp_path / "torn.bin")
    (tmp_path / "bomb.bin").write_bytes(pickle.dumps({"best_state": Bomb()}))
    with pytest.raises(ValueError, match="cannot be read safely"):
        read_codec(tmp_path / "bomb.bin")
    assert "executed" not in capsys.readouterr().out


def test_options_that_are_not_understood() -> None:
    with pytest.raises(ValueError, match="'attention'"):
        seanet_arguments({"dimension": 8, "attention": 4})
    with pytest.raises(ValueError, match="'Snake'"):
        seanet_arguments({"activation": "Snake"})
    with pytest.raises(ValueError, match="'layer_norm'"):
        seanet_arguments({"norm": "layer_norm"})
    with pytest.raises(ValueError, match="'Softsign'"):
        seanet_arguments({"final_activation": "Softsign"})


SEANETS: dict[str, dict[str, Any]] = {
    "causal": {"causal": True, "norm": "weight_norm", "decoder": {"trim_right_ratio": 0.5}},
    "norm over time": {"norm": "time_group_norm", "lstm": 1, "decoder": {"final_activation": "Tanh"}},
    "no norm": {"norm": "none", "lstm": 0, "true_skip": False, "n_residual_layers": 2},
    "outer blocks without norm": {"norm": "weight_norm", "disable_norm_outer_blocks": 2},
    "reflecting": {"norm": "weight_norm", "pad_mode": "reflect", "encoder": {"kernel_size": 5}},
}


@pytest.mark.parametrize("name", SEANETS)
def test_a_codec_survives_being_written(name: str, tmp_path: Path) -> None:
    seanet = {"dimension": 8, "n_filters": 2, "ratios": [4, 2], "encoder": {}, "decoder": {}, **SEANETS[name]}
    config = {
        "sample_rate": 400,
        "encodec": {"autoencoder": "seanet", "quantizer": "rvq", "sample_rate": 400, "channels": 1},
        "seanet": seanet,
        "rvq": {"n_q": 2, "bins": 16, "q_dropout": True},
    }
    node = codec_node(config)
    torch.manual_seed(0)
    weights = build(node).state_dict()
    write_codec(node, weights, tmp_path / "codec.bin")
    again = read_codec(tmp_path / "codec.bin")
    assert codec_config(again.config["codec"]) == codec_config(node)
    assert weights.keys() == again.weights["codec"].keys()
    assert all(torch.equal(weights[key], value) for key, value in again.weights["codec"].items())


@pytest.mark.parametrize("name", ["causal", "disable_norm_outer2", "time_group_norm", "reflect_3res_noskip"])
def test_the_names_of_the_original_come_back(name: str, reference_path: Callable[..., Path]) -> None:
    state = torch.load(reference_path("seanet", f"{name}.pt"), weights_only=True)["state_dict"]
    again = revert_state(convert_state(state))
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], value) for key, value in state.items())
