"""Every form of a model opens through one door, and gives what it gave where it came from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import lightning_audio
from lightning_audio.checkpoints.audiocraft.folder import write_audiocraft
from lightning_audio.checkpoints.huggingface.folder import write_huggingface
from lightning_audio.checkpoints.native import write_native
from lightning_audio.checkpoints.stored import StoredModel, take_apart
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.codec.stereo import StereoFromMono
from lightning_audio.diffusion.multiband import MultiBandDiffusion
from lightning_audio.generation.masked import MaskedTextToAudio
from lightning_audio.generation.text_to_audio import TextToAudio
from lightning_audio.hashing import weights_hash
from lightning_audio.lm.token_lm import TokenLM

MUSICGEN = [
    "greedy",
    "greedy_two_step",
    "greedy_uncond",
    "greedy_continuation",
    "greedy_extended",
    "topk_seed0",
]
MAGNET = ["greedy", "greedy_stride1", "sampled_seed0"]
MakeModel = Callable[..., StoredModel]


@pytest.fixture(scope="module")
def load_package(reference_path: Callable[..., Path]) -> Callable[[str], Any]:
    def load(name: str) -> Any:
        folder = reference_path("pkg", name)
        return lightning_audio.load(folder, device="cpu", text_encoder=reference_path("t5"))

    return load


@pytest.fixture(scope="module")
def musicgen(load_package: Callable[[str], Any]) -> Any:
    return load_package("musicgen_tiny")


@pytest.fixture(scope="module")
def magnet(load_package: Callable[[str], Any]) -> Any:
    return load_package("magnet_tiny")


def expected_of(reference_path: Callable[..., Path], name: str) -> dict[str, Any]:
    return torch.load(reference_path("pkg", name, "expected.pt"), weights_only=True)


def assert_equals_case(model: Any, tokens: torch.Tensor, case: dict[str, Any]) -> None:
    assert torch.equal(tokens, case["tokens"])
    audio = model.decode(tokens)
    assert list(audio.shape) == case["audio_shape"]
    torch.testing.assert_close(audio[..., ::8], case["audio_every8"], rtol=1e-5, atol=1e-5)
    if case["audio"] is not None:
        torch.testing.assert_close(audio, case["audio"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MUSICGEN)
def test_musicgen_gives_the_tokens_and_audio_of_the_original(
    name: str, musicgen: Any, reference_path: Callable[..., Path]
) -> None:
    expected = expected_of(reference_path, "musicgen_tiny")["outputs"]
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
    model = TextToAudio(
        codec=musicgen.codec, lm=musicgen.lm, max_duration=longest, defaults=musicgen.defaults
    )
    assert_equals_case(model, model.generate_tokens(**options, **params), case)


@pytest.mark.parametrize("name", MAGNET)
def test_magnet_gives_the_tokens_and_audio_of_the_original(
    name: str, magnet: Any, reference_path: Callable[..., Path]
) -> None:
    assert isinstance(magnet, MaskedTextToAudio)
    expected = expected_of(reference_path, "magnet_tiny")["outputs"]
    case = expected["cases"][name]
    generator = torch.Generator().manual_seed(0) if name.endswith("seed0") else None
    tokens = magnet.generate_tokens(expected["texts"], generator=generator, **case["params"])
    assert_equals_case(magnet, tokens, case)


def test_a_model_is_as_the_original_says(
    musicgen: Any, magnet: Any, reference_path: Callable[..., Path]
) -> None:
    for model, name in ((musicgen, "musicgen_tiny"), (magnet, "magnet_tiny")):
        expected = expected_of(reference_path, name)["outputs"]
        for what in ("sample_rate", "frame_rate", "channels", "max_duration"):
            assert getattr(model, what) == expected[what]
    assert musicgen.defaults.cfg_coef == 3.0
    # Of the settings of a MAGNeT's training, all but the number of steps.
    settings = magnet.defaults
    assert (settings.temperature, settings.top_p, settings.max_cfg_coef) == (3.0, 0.9, 10.0)
    assert list(settings.decoding_steps) == [20, 10, 10, 10]


@pytest.mark.parametrize("source", ["", "mbd_musicgen_32khz.th", "mbd_plain.pt"])
def test_multi_band_diffusion_gives_the_audio_of_the_original(
    source: str, reference_path: Callable[..., Path]
) -> None:
    mbd = lightning_audio.load(reference_path("pkg", "mbd_tiny", source), device="cpu")
    assert isinstance(mbd, MultiBandDiffusion)
    expected = expected_of(reference_path, "mbd_tiny")
    tokens, generator = (
        expected["inputs"]["tokens"],
        torch.Generator().manual_seed(expected["inputs"]["seed"]),
    )
    wav = mbd.decode(tokens, generator=generator)
    torch.testing.assert_close(wav, expected["outputs"]["wav"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mbd.codec.decode(tokens), expected["outputs"]["encodec"], rtol=1e-5, atol=1e-5)


def test_bands_that_lie_elsewhere_decode_for_the_model(
    musicgen: Any, reference_path: Callable[..., Path]
) -> None:
    """Through the model's own codec, found by path, or by "mbd" beside it."""
    expected = expected_of(reference_path, "mbd_tiny")
    bands = reference_path("pkg", "mbd_tiny", "mbd_plain.pt")
    decoder = musicgen.decoder_of(str(bands))
    assert decoder.codec is not musicgen.codec
    tokens, generator = (
        expected["inputs"]["tokens"],
        torch.Generator().manual_seed(expected["inputs"]["seed"]),
    )
    assert decoder.decode(tokens, generator=generator).shape == expected["outputs"]["wav"].shape
    with pytest.raises(FileNotFoundError, match=r"mbd_musicgen_32khz\.th"):
        musicgen.decoder_of("mbd")
    with pytest.raises(ValueError, match="writes codes"):
        musicgen.decoder_of(str(reference_path("pkg", "musicgen_tiny")))


def test_each_form_gives_the_same_model(tiny_codec: MakeModel, tiny_model: MakeModel, tmp_path: Path) -> None:
    codec, model = tiny_codec(), tiny_model()
    write_native(model, tmp_path / "native")
    write_audiocraft(model, tmp_path / "audiocraft")
    for name in ("native", "audiocraft"):
        loaded = lightning_audio.load(tmp_path / name, device="cpu")
        assert isinstance(loaded, TextToAudio)
        assert loaded.defaults.cfg_coef == 2.5
        assert loaded.max_duration == 2.0
        again = take_apart(loaded)
        for part, weights in model.weights.items():
            assert all(torch.equal(weights[key], again.weights[part][key]) for key in weights)
    (tmp_path / "transformers").mkdir()
    write_huggingface(codec, tmp_path / "transformers")
    assert isinstance(lightning_audio.load(tmp_path / "transformers", device="cpu"), EnCodec)


def test_one_of_the_packaged_files_gives_what_it_holds(tiny_model: MakeModel, tmp_path: Path) -> None:
    write_audiocraft(tiny_model(), tmp_path)
    codec = lightning_audio.load(tmp_path / "compression_state_dict.bin", device="cpu")
    assert isinstance(codec, EnCodec)
    assert isinstance(lightning_audio.load(tmp_path / "state_dict.bin", device="cpu"), TokenLM)
    (tmp_path / "compression_state_dict.bin").rename(tmp_path / "renamed.bin")
    assert isinstance(lightning_audio.load(tmp_path / "renamed.bin", device="cpu"), EnCodec)
    assert isinstance(lightning_audio.load(tmp_path, device="cpu"), TokenLM)
    (tmp_path / "state_dict.bin").unlink()
    (tmp_path / "renamed.bin").rename(tmp_path / "compression_state_dict.bin")
    assert isinstance(lightning_audio.load(tmp_path, device="cpu"), EnCodec)


def test_device_and_dtype(tiny_model: MakeModel, tmp_path: Path) -> None:
    write_native(tiny_model(), tmp_path)
    model = lightning_audio.load(tmp_path, device="cpu", dtype=torch.bfloat16)
    assert {p.dtype for p in model.lm.parameters()} == {torch.bfloat16}
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert not any(p.requires_grad for p in model.parameters())
    assert not model.training


def test_loading_draws_no_random_numbers(tiny_model: MakeModel, tmp_path: Path) -> None:
    """A seed that was set before `load` gives the same after it; and no time goes into weights to be replaced."""
    write_native(tiny_model(), tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    lightning_audio.load(tmp_path, device="cpu")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", ["facebook/encodec_tiny", "//pretrained/facebook/encodec_tiny"])
@pytest.mark.parametrize("place", ["encodec_tiny", "facebook/encodec_tiny", "../encodec_tiny"])
@pytest.mark.parametrize("write", [write_audiocraft, write_huggingface])
def test_a_pointer_to_a_codec_is_followed(
    name: str, place: str, write: Callable[..., Path], tiny_model: MakeModel, tmp_path: Path
) -> None:
    model = tiny_model()
    folder = tmp_path / "model"
    write_audiocraft(model, folder)
    torch.save({"pretrained": name}, folder / "compression_state_dict.bin")
    with pytest.raises(
        FileNotFoundError, match=r"points to .*encodec_tiny.* which is not there: put its folder"
    ):
        lightning_audio.load(folder, device="cpu")
    codec = StoredModel({"codec": model.config["codec"]}, {"codec": model.weights["codec"]})
    (folder / place).mkdir(parents=True)
    write(codec, folder / place)
    loaded = lightning_audio.load(folder, device="cpu")
    embed = model.weights["codec"]["quantizer.codebooks.embed"]
    assert torch.equal(loaded.codec.quantizer.codebooks.embed, embed)
    pointer = lightning_audio.load(folder / "compression_state_dict.bin", device="cpu")
    assert isinstance(pointer, EnCodec)


def test_a_pointer_that_points_to_itself(tmp_path: Path) -> None:
    folder = tmp_path / "encodec_tiny"
    folder.mkdir()
    torch.save({"pretrained": "facebook/encodec_tiny"}, folder / "compression_state_dict.bin")
    with pytest.raises(FileNotFoundError, match="points to"):
        lightning_audio.load(folder)


def test_a_pointer_to_another_codec_is_refused(tmp_path: Path) -> None:
    torch.save({"pretrained": "//pretrained/dac_44khz"}, tmp_path / "compression_state_dict.bin")
    with pytest.raises(ValueError, match="descript-audio-codec"):
        lightning_audio.load(tmp_path)


def test_stereo_and_fewer_codebooks(tiny_stereo: MakeModel, tiny_model: MakeModel, tmp_path: Path) -> None:
    write_audiocraft(tiny_stereo(), tmp_path / "stereo")
    stereo = lightning_audio.load(tmp_path / "stereo", device="cpu")
    assert isinstance(stereo.codec, StereoFromMono)
    assert (stereo.channels, stereo.lm.num_codebooks) == (2, 4)
    assert stereo.generate(num_samples=1, duration=0.2).shape == (1, 2, 80)
    # A language model over the first codebook of the same codec, as its config says.
    write_audiocraft(tiny_model(), tmp_path / "mono")
    file = tmp_path / "stereo" / "state_dict.bin"
    package = torch.load(file, weights_only=True)
    config = yaml.safe_load(package["xp.cfg"])
    config |= {"compression_model_n_q": 1, "codebooks_pattern": {"modeling": "parallel"}}
    config["transformer_lm"]["n_q"] = 2
    state = {
        k: v
        for k, v in package["best_state"].items()
        if not k.startswith(("emb.2", "emb.3", "linears.2", "linears.3"))
    }
    torch.save({**package, "best_state": state, "xp.cfg": yaml.safe_dump(config)}, file)
    narrow = lightning_audio.load(tmp_path / "stereo", device="cpu")
    assert (narrow.codec.num_codebooks, narrow.lm.num_codebooks) == (2, 2)


def test_what_is_wrong_with_a_place_is_said(tiny_model: MakeModel, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no model at /nowhere/at/all"):
        lightning_audio.load("/nowhere/at/all")
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(ValueError, match=r"neither a run or package .*it holds notes\.txt"):
        lightning_audio.load(tmp_path)
    with pytest.raises(ValueError, match="cannot be read safely"):
        lightning_audio.load(tmp_path / "notes.txt")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.bin")
    with pytest.raises(ValueError, match=r"no model that is known.*it holds weights"):
        lightning_audio.load(tmp_path / "other.bin")
    write_native(tiny_model(), tmp_path / "package")
    (tmp_path / "package" / "lm.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks lm\.safetensors"):
        lightning_audio.load(tmp_path / "package")
    (tmp_path / "package" / "lm.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"lm\.safetensors is torn"):
        lightning_audio.load(tmp_path / "package")


@pytest.mark.parametrize("name", ["state_dict.bin", "compression_state_dict.bin"])
def test_torn_and_foreign_packages_are_named(name: str, tiny_model: MakeModel, tmp_path: Path) -> None:
    write_audiocraft(tiny_model(), tmp_path)
    file = tmp_path / name
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f"{name} cannot be read safely"):
        lightning_audio.load(tmp_path)
    file.write_bytes(whole)
    package = torch.load(file, weights_only=True)
    state = package["best_state"]
    first = next(iter(state))
    torch.save({**package, "best_state": {**state, "surplus.weight": torch.zeros(1)}}, file)
    with pytest.raises(ValueError, match=r"surplus\.weight"):
        lightning_audio.load(tmp_path)
    torch.save({**package, "best_state": {k: v for k, v in state.items() if k != first}}, file)
    with pytest.raises(ValueError, match="missing: "):
        lightning_audio.load(tmp_path)
    torch.save({**package, "best_state": {**state, first: torch.zeros(1, 2, 3)}}, file)
    with pytest.raises(ValueError, match="wrong shape: "):
        lightning_audio.load(tmp_path)
    torch.save({"best_state": state}, file)
    with pytest.raises(ValueError, match=r"lacks \['xp\.cfg'\]"):
        lightning_audio.load(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["state_dict.bin", "compression_state_dict.bin", "mbd.th", "pytorch_model.bin", "run.ckpt", "encodec.th"],
)
def test_nothing_in_a_file_is_executed(
    name: str, bomb: tuple[Any, Path], tiny_codec: MakeModel, tmp_path: Path
) -> None:
    value, trace = bomb
    folder = tmp_path / "model"
    folder.mkdir()
    content: dict[Any, Any] = {"best_state": {"emb.0.weight": value}, "xp.cfg": value, "state_dict": value}
    content |= {"n_bands": 1, "sample_rate": 400, 0: {"cfg": value, "model_state": {}, "processor_state": {}}}
    if name == "pytorch_model.bin":
        write_huggingface(tiny_codec(), folder)
        (folder / "model.safetensors").unlink()
    torch.save(content, folder / name)
    for source in (folder, folder / name):
        with pytest.raises(ValueError):
            lightning_audio.load(source)
    torch.save(content, folder / name, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError):
        lightning_audio.load(folder / name)
    assert not trace.exists()


@pytest.mark.parametrize(
    "target",
    [
        *("os.system", "builtins.eval", "torch.load", "lightning_audio.checkpoints.stored.os.system"),
        *("lightning_audio.checkpoints.stored.get_object", "lightning_audio.codec.encodec.EnCodecc"),
    ],
)
def test_a_config_builds_nothing_foreign(target: str, tiny_codec: MakeModel, tmp_path: Path) -> None:
    stored = tiny_codec()
    write_native(stored, tmp_path)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    config["codec"]["quantizer"]["learning"] = {
        "_target_": target,
        "command": f"touch {tmp_path / 'executed'}",
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match="no class of this project"):
        lightning_audio.load(tmp_path)
    (tmp_path / "config.yaml").write_text("!!python/object/apply:os.system ['touch executed']")
    with pytest.raises(yaml.YAMLError):
        lightning_audio.load(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_a_packaged_config_asks_for_nothing_of_the_machine(
    tiny_codec: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """References between keys are followed, the environment is not read."""
    monkeypatch.setenv("SECRET_RATE", "400")
    write_audiocraft(tiny_codec(), tmp_path)
    file = tmp_path / "compression_state_dict.bin"
    package = torch.load(file, weights_only=True)
    config = yaml.safe_load(package["xp.cfg"])
    config["encodec"]["sample_rate"] = "${sample_rate}"
    torch.save({**package, "xp.cfg": yaml.safe_dump(config)}, file)
    assert lightning_audio.load(tmp_path, device="cpu").sample_rate == 400
    config["encodec"]["channels"] = "${oc.env:SECRET_RATE}"
    torch.save({**package, "xp.cfg": yaml.safe_dump(config)}, file)
    with pytest.raises(ValueError, match=r"oc\.env.*plain values"):
        lightning_audio.load(tmp_path, device="cpu")


def test_a_run_of_ours_still_opens(tiny_codec: MakeModel, tmp_path: Path) -> None:
    stored = tiny_codec()
    weights = {f"model.{name}": value for name, value in stored.weights["codec"].items()}
    checkpoint = {"config": {"task": {"model": stored.config["codec"]}}, "state_dict": weights}
    (tmp_path / "checkpoints").mkdir()
    torch.save(checkpoint, tmp_path / "checkpoints" / "last.ckpt")
    (tmp_path / "config.yaml").write_text("{}")
    codec = lightning_audio.load(tmp_path, device="cpu")
    assert torch.equal(codec.quantizer.codebooks.embed, stored.weights["codec"]["quantizer.codebooks.embed"])
    moved = shutil.copy(tmp_path / "checkpoints" / "last.ckpt", tmp_path / "elsewhere.ckpt")
    assert isinstance(lightning_audio.load(moved, device="cpu"), EnCodec)


@pytest.mark.parametrize("write", [write_native, write_audiocraft, write_huggingface])
def test_a_run_finds_its_codec_in_any_form(
    write: Callable[..., Path], tiny_model: MakeModel, tmp_path: Path
) -> None:
    stored = tiny_model()
    codec = StoredModel({"codec": stored.config["codec"]}, {"codec": stored.weights["codec"]})
    (tmp_path / "codec").mkdir()
    write(codec, tmp_path / "codec")
    config = {
        "task": {"model": stored.config["lm"]},
        "generation": stored.config["generation"],
        "codec_source": "trained/elsewhere/codec",  # moved together with the run
        "codec_hash": weights_hash(codec.assemble()),
    }
    weights = {f"model.{name}": value for name, value in stored.weights["lm"].items()}
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    file = tmp_path / "run" / "checkpoints" / "last.ckpt"
    torch.save({"config": config, "state_dict": weights}, file)
    (tmp_path / "run" / "config.yaml").write_text("{}")
    model = lightning_audio.load(tmp_path / "run", device="cpu")
    assert torch.equal(model.lm.heads.weight, stored.weights["lm"]["heads.weight"])
    torch.save({"config": {**config, "codec_hash": "f" * 64}, "state_dict": weights}, file)
    with pytest.raises(ValueError, match="was trained with codec ffffffffffff"):
        lightning_audio.load(tmp_path / "run", device="cpu")
    torch.save({"config": {**config, "codec_source": "/gone/away"}, "state_dict": weights}, file)
    with pytest.raises(FileNotFoundError, match="trained with the codec /gone/away, which is not there"):
        lightning_audio.load(tmp_path / "run", device="cpu")
