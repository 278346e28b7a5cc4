"""What is written is the same model, checked, whole, or not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lightning_audio
from lightning_audio.checkpoints import load as loading
from lightning_audio.checkpoints.audiocraft.folder import write_audiocraft
from lightning_audio.checkpoints.native import write_native
from lightning_audio.checkpoints.stored import StoredModel, take_apart
from lightning_audio.checkpoints.verify import verify
from lightning_audio.layers.conv import fold_weight_norm

MakeModel = Callable[..., StoredModel]


def assert_same(one: StoredModel, other: StoredModel) -> None:
    for part, weights in one.weights.items():
        again = other.weights[part]
        assert weights.keys() == again.keys()
        for name, value in weights.items():
            assert value.dtype == again[name].dtype
            assert torch.equal(value, again[name]), name


@pytest.mark.parametrize("make", ["tiny_codec", "tiny_model", "tiny_stereo"])
def test_native_to_audiocraft_and_back_is_bit_equal(
    make: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model = request.getfixturevalue(make)().assemble()
    lightning_audio.export(model, tmp_path / "native")
    first = lightning_audio.load(tmp_path / "native", device="cpu")
    lightning_audio.export(first, tmp_path / "audiocraft", format="audiocraft")
    second = lightning_audio.load(tmp_path / "audiocraft", device="cpu")
    lightning_audio.export(second, tmp_path / "again")
    assert_same(take_apart(model), take_apart(lightning_audio.load(tmp_path / "again", device="cpu")))


@pytest.mark.parametrize("name", ["musicgen_tiny", "magnet_tiny", "mbd_tiny"])
@pytest.mark.parametrize("form", ["native", "audiocraft"])
def test_the_reference_packages_survive(
    name: str,
    form: str,
    reference_path: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = reference_path("pkg", name)
    model = lightning_audio.load(source, device="cpu", text_encoder=reference_path("t5"))
    out = lightning_audio.export(model, tmp_path / "out", form)
    assert "codes equal" in capsys.readouterr().out
    assert_same(take_apart(model), take_apart(lightning_audio.load(out, device="cpu")))


@pytest.mark.parametrize("name", ["musicgen_tiny", "magnet_tiny", "mbd_tiny"])
def test_what_audiocraft_reads_is_tensor_for_tensor_what_it_wrote(
    name: str, reference_path: Callable[..., Path], tmp_path: Path
) -> None:
    source = reference_path("pkg", name)
    model = lightning_audio.load(source, device="cpu", text_encoder=reference_path("t5"))
    write_audiocraft(take_apart(model), tmp_path)
    for file in sorted(tmp_path.glob("*.bin")):
        theirs, ours = (torch.load(folder / file.name, weights_only=True) for folder in (source, tmp_path))
        assert ours.keys() == theirs.keys()
        assert ours["version"] == theirs["version"]
        assert ours["best_state"].keys() == theirs["best_state"].keys()
        for key, value in theirs["best_state"].items():
            assert ours["best_state"][key].dtype == value.dtype
            assert torch.equal(ours["best_state"][key], value), key


def test_half_precision_rounds_the_language_model_only(
    tiny_model: MakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model().assemble()
    out = lightning_audio.export(model, tmp_path / "half", format="audiocraft", dtype=torch.float16)
    assert "weights rounded to torch.float16" in capsys.readouterr().out
    dtypes = {
        name: {v.dtype for v in torch.load(out / name, weights_only=True)["best_state"].values()}
        for name in ("state_dict.bin", "compression_state_dict.bin")
    }
    assert dtypes == {"state_dict.bin": {torch.float16}, "compression_state_dict.bin": {torch.float32}}
    with pytest.raises(ValueError, match="dtype is for 'audiocraft'"):
        lightning_audio.export(model, tmp_path / "native", dtype=torch.float16)


def test_a_model_in_half_precision_is_written_as_it_is(tiny_model: MakeModel, tmp_path: Path) -> None:
    model = tiny_model().assemble().to(torch.bfloat16)
    for form in ("native", "audiocraft"):
        out = lightning_audio.export(model, tmp_path / form, form)
        again = lightning_audio.load(out, device="cpu")
        assert torch.equal(again.lm.heads.weight, model.lm.heads.weight.float())


def test_after_generating_too(tiny_model: MakeModel, tmp_path: Path) -> None:
    """What generation keeps beside the weights is not written."""
    model = tiny_model().assemble()
    model.generate(["happy rock"], duration=0.2)
    lightning_audio.export(model, tmp_path / "out", format="audiocraft")


def test_a_conversion_that_went_wrong_leaves_nothing(
    tiny_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model().assemble()

    def swapped(stored: StoredModel, folder: Path) -> Path:
        """A writer that confuses two codebooks."""
        weights = dict(stored.weights["lm"])
        weights["heads.weight"] = weights["heads.weight"].flip(0)
        return write_native(StoredModel(stored.config, {**stored.weights, "lm": weights}), folder)

    monkeypatch.setitem(loading.FORMATS, "native", swapped)
    with pytest.raises(ValueError, match=r"lm that was written differs in the weights heads\.weight"):
        lightning_audio.export(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_equal_weights_in_another_model_are_noticed(tiny_model: MakeModel) -> None:
    """Such as a config that says another activation: it is what the models give that is compared."""
    stored = tiny_model()
    other = {**stored.config, "lm": {**stored.config["lm"], "activation": {"_target_": "torch.nn.ReLU"}}}
    assert "logits" in verify(stored, stored)
    with pytest.raises(ValueError, match="logits of the written model differ by"):
        verify(stored, StoredModel(other, stored.weights))
    codec = {**stored.config["codec"], "normalize": True}
    with pytest.raises(ValueError, match="codes of the written model differ"):
        verify(stored, StoredModel({**stored.config, "codec": codec}, stored.weights))
    with pytest.raises(ValueError, match="written were"):
        verify(stored, StoredModel({"codec": stored.config["codec"]}, {"codec": stored.weights["codec"]}))


def test_a_place_that_is_taken(tiny_codec: MakeModel, tmp_path: Path) -> None:
    model = tiny_codec().assemble()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="exists already and is not empty"):
        lightning_audio.export(model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    lightning_audio.export(model, tmp_path / "empty")
    lightning_audio.export(model, tmp_path / "empty", replace=True)
    assert sorted(path.name for path in (tmp_path / "empty").iterdir()) == [
        "codec.safetensors",
        "config.yaml",
    ]


def test_what_a_form_cannot_hold_is_said(
    tiny_codec: MakeModel, tiny_model: MakeModel, tmp_path: Path
) -> None:
    def refused(stored: StoredModel, match: str) -> None:
        with pytest.raises(ValueError, match=match):
            lightning_audio.export(stored.assemble(), tmp_path / "out", format="audiocraft")
        assert not (tmp_path / "out").exists()

    refused(tiny_codec(chunk_duration=1.0), "chunks of 1.0 s: AudioCraft has none")
    refused(tiny_model(sinusoidal=False), "without positions")
    with pytest.raises(ValueError, match="unknown format 'onnx'"):
        lightning_audio.export(tiny_codec().assemble(), tmp_path / "out", format="onnx")
    with pytest.raises(ValueError, match="only a model that came from `load`"):
        lightning_audio.export(torch.nn.Linear(1, 1), tmp_path / "out")


def test_a_codec_whose_weights_were_folded_is_not_half_written(tiny_codec: MakeModel, tmp_path: Path) -> None:
    model: Any = tiny_codec().assemble()
    fold_weight_norm(model)
    with pytest.raises(ValueError, match="folded for inference"):
        lightning_audio.export(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_prepared_codec_is_written_as_it_was(tiny_codec: MakeModel, tmp_path: Path) -> None:
    model: Any = tiny_codec().assemble()
    lightning_audio.export(model.prepare_for_inference(), tmp_path / "out")
    again = lightning_audio.load(tmp_path / "out", device="cpu")
    assert again.encoder.fast is not None
    wav = 0.1 * torch.randn(1, 1, 3000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.encode(wav).codes, model.encode(wav).codes)
