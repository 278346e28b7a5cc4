"""Codecs in AudioCraft's packaged form."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from lightning_audio.checkpoints.audiocraft.codec import read_codec, seanet_arguments


def package_of(shared_reference: Path, name: str) -> Path:
    return shared_reference / "pkg" / name / "compression_state_dict.bin"


@pytest.mark.parametrize("name", ["musicgen_tiny", "magnet_tiny"])
def test_published_tokens_give_the_published_audio(shared_reference: Path, name: str) -> None:
    codec, config = read_codec(package_of(shared_reference, name))
    assert config.solver == "compression"
    cases = torch.load(shared_reference / "pkg" / name / "expected.pt", weights_only=True)["outputs"]["cases"]
    for case in cases.values():
        audio = codec.decode(case["tokens"])
        assert list(audio.shape) == case["audio_shape"]
        wanted, found = case["audio"], audio
        if wanted is None:
            wanted, found = case["audio_every8"], audio[..., ::8]
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_tokens_of_multi_band_diffusion(shared_reference: Path) -> None:
    codec, _ = read_codec(package_of(shared_reference, "mbd_tiny"))
    expected = torch.load(shared_reference / "pkg" / "mbd_tiny" / "expected.pt", weights_only=True)
    decoded = codec.decode(expected["inputs"]["tokens"])
    torch.testing.assert_close(decoded, expected["outputs"]["encodec"], rtol=1e-5, atol=1e-5)


def rewritten(shared_reference: Path, file: Path, **changes: Any) -> Path:
    package = torch.load(package_of(shared_reference, "musicgen_tiny"), weights_only=True)
    torch.save({**package, **changes}, file)
    return file


def test_half_precision_and_a_pickled_config(shared_reference: Path, tmp_path: Path) -> None:
    original = torch.load(package_of(shared_reference, "musicgen_tiny"), weights_only=True)
    half = {name: tensor.half() for name, tensor in original["best_state"].items()}
    config = OmegaConf.create(original["xp.cfg"])
    codec, _ = read_codec(
        rewritten(shared_reference, tmp_path / "a.bin", best_state=half, **{"xp.cfg": config})
    )
    assert {p.dtype for p in codec.parameters()} == {torch.float32}
    assert codec.sample_rate == 32000


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("executed",)


def test_bad_files_are_named(
    shared_reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = torch.load(package_of(shared_reference, "musicgen_tiny"), weights_only=True)
    state, text = package["best_state"], package["xp.cfg"]
    extra, lacking = {**state, "surplus": torch.zeros(1)}, dict(list(state.items())[1:])
    with pytest.raises(ValueError, match="'surplus'"):
        read_codec(rewritten(shared_reference, tmp_path / "extra.bin", best_state=extra))
    with pytest.raises(ValueError, match=r"missing: encoder\.layers\.0\.conv\.bias"):
        read_codec(rewritten(shared_reference, tmp_path / "lacking.bin", best_state=lacking))
    wrong = {"xp.cfg": text.replace("autoencoder: seanet", "autoencoder: sequence")}
    with pytest.raises(ValueError, match="'sequence'"):
        read_codec(rewritten(shared_reference, tmp_path / "wrong.bin", **wrong))
    torch.save({"pretrained": "facebook/encodec_32khz"}, tmp_path / "pointer.bin")
    with pytest.raises(ValueError, match="pointer to 'facebook/encodec_32khz'"):
        read_codec(tmp_path / "pointer.bin")
    whole = package_of(shared_reference, "musicgen_tiny").read_bytes()
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
