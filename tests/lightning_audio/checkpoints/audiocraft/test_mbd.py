"""AudioCraft's files of bands: read as data, written back, and what cannot be read is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from lightning_audio.checkpoints.audiocraft.mbd import is_mbd, read_mbd, write_mbd
from lightning_audio.checkpoints.audiocraft.mbd_config import band_config, band_node
from lightning_audio.checkpoints.audiocraft.package import read_file
from lightning_audio.checkpoints.read import read_model
from lightning_audio.checkpoints.stored import StoredModel, arguments_of, build, take_apart
from lightning_audio.layers.unet import LSTMBottleneck, TransformerBottleneck


@pytest.fixture
def folder(reference_path: Callable[..., Path]) -> Path:
    return reference_path("pkg", "mbd_tiny")


@pytest.fixture
def plain(folder: Path) -> dict[Any, Any]:
    """The package with plain configs, to be changed."""
    return torch.load(folder / "mbd_plain.pt", weights_only=True)


def same(one: StoredModel, other: StoredModel) -> bool:
    return one.config == other.config and all(
        one.weights[part].keys() == other.weights[part].keys()
        and all(torch.equal(value, other.weights[part][name]) for name, value in one.weights[part].items())
        for part in one.weights
    )


def saved(package: dict[Any, Any], file: Path) -> Path:
    torch.save(package, file)
    return file


def test_the_pickled_and_the_plain_file_hold_the_same_model(folder: Path) -> None:
    stored = read_mbd(folder / "mbd_musicgen_32khz.th")
    assert same(stored, read_mbd(folder / "mbd_plain.pt"))
    assert same(stored, read_mbd(folder))
    assert stored.config["generation"]["num_codebooks"] == 4
    first, second = map(arguments_of, stored.config["bands"]["bands"])
    assert (first["band"], second["band"], first["num_bands"]) == (0, 1, 2)
    assert same(take_apart(stored.assemble()), stored)


def test_what_is_written_is_what_was_read(folder: Path, tmp_path: Path) -> None:
    original = folder / "mbd_musicgen_32khz.th"
    stored = read_mbd(original)
    write_mbd(stored, tmp_path / "mbd.th")
    assert same(read_mbd(tmp_path / "mbd.th", codec=stored), stored)
    theirs: dict[Any, Any] = read_file(original)
    ours: dict[Any, Any] = read_file(tmp_path / "mbd.th")
    assert ours.keys() == theirs.keys()
    for number in range(2):
        assert isinstance(ours[number]["cfg"], DictConfig)  # AudioCraft reads its settings as attributes
        for part in ("model_state", "processor_state"):
            assert ours[number][part].keys() == theirs[number][part].keys()
            torch.testing.assert_close(ours[number][part], theirs[number][part], rtol=0, atol=0)
        for section in ("diffusion_unet", "processor", "filter"):
            assert ours[number]["cfg"][section] == theirs[number]["cfg"][section], section
        schedule = theirs[number]["cfg"].schedule
        assert all(schedule[name] == value for name, value in ours[number]["cfg"].schedule.items())


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"bilstm": False, "transformer": False}, None),
        ({"bilstm": True, "transformer": False}, LSTMBottleneck),
        ({"bilstm": False, "transformer": True}, TransformerBottleneck),
        ({"bilstm": False, "transformer": True, "cross_attention": True}, TransformerBottleneck),
    ],
)
def test_every_bottleneck_goes_there_and_back(
    plain: dict[Any, Any], folder: Path, tmp_path: Path, options: dict[str, bool], kind: Any
) -> None:
    codec, stored = read_mbd(folder), read_mbd(folder)
    config = plain[0]["cfg"]
    config["diffusion_unet"].update(options)
    node = band_node(config, 32000)
    assert band_config(node, 4)["diffusion_unet"] == config["diffusion_unet"]
    band = build(node)
    assert kind is None or isinstance(band.network.bottleneck, kind)
    weights = {f"bands.0.{name}": value for name, value in band.state_dict().items()}
    bands = {**stored.config["bands"], "bands": [node]}
    one = StoredModel({**stored.config, "bands": bands}, {**stored.weights, "bands": weights})
    write_mbd(one, tmp_path / "one.th")
    assert same(read_mbd(tmp_path / "one.th", codec=codec), one)
    if options.get("cross_attention"):
        names = set(read_file(tmp_path / "one.th")[0]["model_state"])  # type: ignore[index]
        assert "transformer.layers.5.cross_attention.mha.in_proj_weight" in names
        assert "transformer.layers.0.self_attn.mha.out_proj.weight" in names


def test_bands_without_processor_or_filter(plain: dict[Any, Any], folder: Path, tmp_path: Path) -> None:
    for number in range(2):
        plain[number]["cfg"]["processor"]["use"] = False
        plain[number]["processor_state"] = {}
    plain[1]["cfg"]["filter"]["use"] = False
    stored = read_mbd(saved(plain, tmp_path / "mbd.th"), codec=read_mbd(folder))
    first, second = map(arguments_of, stored.config["bands"]["bands"])
    assert first["processor"] is None
    assert (second["band"], second["num_bands"]) == (0, 1)
    assert stored.assemble().decode(torch.zeros(1, 4, 3, dtype=torch.long), steps=[999, 0]).isfinite().all()
    write_mbd(stored, tmp_path / "again.th")
    assert same(read_mbd(tmp_path / "again.th", codec=stored), stored)


def test_half_precision_weights_are_read_as_float32(
    plain: dict[Any, Any], folder: Path, tmp_path: Path
) -> None:
    for number in range(2):
        plain[number]["model_state"] = {k: v.half() for k, v in plain[number]["model_state"].items()}
    stored = read_mbd(saved(plain, tmp_path / "mbd.th"), codec=read_mbd(folder))
    assert all(value.dtype == torch.float32 for value in stored.weights["bands"].values())
    stored.assemble()


def test_files_of_bands_are_told_from_others(folder: Path, tmp_path: Path) -> None:
    assert is_mbd(folder)
    assert is_mbd(folder / "mbd_plain.pt")
    assert not is_mbd(folder / "compression_state_dict.bin")
    assert not is_mbd(folder / "expected.pt")
    assert not is_mbd(folder.parent / "musicgen_tiny")
    (tmp_path / "torn.th").write_bytes((folder / "mbd_plain.pt").read_bytes()[:1000])
    assert not is_mbd(tmp_path / "torn.th")


def test_a_folder_of_several_files_wants_one_named(folder: Path, tmp_path: Path) -> None:
    for name in ("mbd_comp_2.pt", "mbd_comp_4.pt"):
        shutil.copy(folder / "mbd_plain.pt", tmp_path / name)
    with pytest.raises(ValueError, match=r"it has mbd_comp_2.pt, mbd_comp_4.pt: name the file"):
        read_mbd(tmp_path)


def _without_a_weight(package: dict[Any, Any]) -> None:
    del package[0]["model_state"]["conv_codec.bias"]


def _with_a_weight(package: dict[Any, Any]) -> None:
    package[1]["model_state"]["extra.weight"] = torch.zeros(1)


def _without_a_band(package: dict[Any, Any]) -> None:
    del package[1]


def _without_a_count(package: dict[Any, Any]) -> None:
    del package["n_bands"]


def _with_an_option(package: dict[Any, Any]) -> None:
    package[0]["cfg"]["diffusion_unet"]["wavelets"] = True


def _with_a_cosine(package: dict[Any, Any]) -> None:
    package[0]["cfg"]["schedule"]["repartition"] = "cosine"


def _with_other_codebooks(package: dict[Any, Any]) -> None:
    package[1]["cfg"]["n_q"] = 8


def _with_resampling(package: dict[Any, Any]) -> None:
    package[0]["cfg"]["resampling"]["use"] = True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_a_weight, r"missing: bands.0.network.condition_proj.bias"),
        (_with_a_weight, r"'extra.weight' must be matched"),
        (_without_a_band, r"says it has 2 bands: missing or unknown are \['1'\]"),
        (_without_a_count, r"lacks \['n_bands'\]"),
        (_with_an_option, r"not understood: \['wavelets'\]"),
        (_with_a_cosine, r"repartition 'cosine'"),
        (_with_other_codebooks, r"different numbers of codebooks: \['4', '8'\]"),
        (_with_resampling, r"resampling.use"),
    ],
)
def test_what_does_not_fit_is_named(
    plain: dict[Any, Any],
    folder: Path,
    tmp_path: Path,
    change: Callable[[dict[Any, Any]], None],
    message: str,
) -> None:
    change(plain)
    with pytest.raises(ValueError, match=message):
        read_mbd(saved(plain, tmp_path / "mbd.th"), codec=read_mbd(folder)).assemble()


def test_bands_without_their_codec_say_what_is_missing(plain: dict[Any, Any], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"compression_state_dict.bin beside it, or give the codec"):
        read_mbd(saved(plain, tmp_path / "mbd.th"))


@pytest.mark.parametrize(
    ("name", "codec"),
    [("mbd_musicgen_32khz.th", "musicgen-small"), ("mbd_comp_4.pt", "encodec_24khz")],
)
def test_a_published_file_finds_its_codec_by_name(
    folder: Path, tmp_path: Path, name: str, codec: str
) -> None:
    """Beside it here, else at the hub."""
    shutil.copy(folder / "mbd_plain.pt", tmp_path / name)
    (tmp_path / codec).mkdir()
    shutil.copy(folder / "compression_state_dict.bin", tmp_path / codec)
    assert same(read_model(tmp_path / name), read_mbd(folder))
    assert same(read_model(tmp_path), read_mbd(folder))


class Trap:
    """What a hostile file would run when it is read by a plain pickle."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("ran"),)


def test_a_file_that_holds_code_is_refused_and_not_run(
    plain: dict[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain[0]["cfg"]["solver"] = Trap()
    with pytest.raises(ValueError, match="cannot be read safely"):
        read_mbd(saved(plain, tmp_path / "mbd.th"))
    assert not (tmp_path / "ran").exists()
