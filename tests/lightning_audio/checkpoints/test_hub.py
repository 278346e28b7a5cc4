"""Models by name: the cache is looked into first, and what is lacking is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

import lightning_audio
from lightning_audio.checkpoints.audiocraft.folder import write_audiocraft
from lightning_audio.checkpoints.hub import files_of_a_model, locate
from lightning_audio.checkpoints.huggingface.folder import write_huggingface
from lightning_audio.checkpoints.stored import StoredModel
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.generation.text_to_audio import TextToAudio

MakeModel = Callable[..., StoredModel]
REVISION = "0123456789abcdef0123456789abcdef01234567"


def cached(cache: Path, repository: str) -> Path:
    """The folder of a repository's snapshot, as the hub's client lays out its cache."""
    root = cache / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(REVISION)
    snapshot = root / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    return snapshot


@pytest.mark.parametrize("name", ["small", "facebook/musicgen-small"])
@pytest.mark.parametrize("by", ["argument", "AUDIOCRAFT_CACHE_DIR"])
def test_a_cached_model_opens_by_its_name(
    name: str, by: str, tiny_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_audiocraft(tiny_model(), cached(tmp_path, "facebook/musicgen-small"))
    options: dict[str, Any] = {"cache_dir": tmp_path} if by == "argument" else {}
    if by == "AUDIOCRAFT_CACHE_DIR":
        monkeypatch.setenv("AUDIOCRAFT_CACHE_DIR", str(tmp_path))
    assert isinstance(lightning_audio.load(name, device="cpu", **options), TextToAudio)


def test_a_cached_codec_of_transformers_and_a_single_file(tiny_codec: MakeModel, tmp_path: Path) -> None:
    folder = cached(tmp_path, "facebook/encodec_tiny")
    write_huggingface(tiny_codec(), folder)
    assert isinstance(
        lightning_audio.load("facebook/encodec_tiny", device="cpu", cache_dir=tmp_path), EnCodec
    )
    (folder / "extra").mkdir()
    write_audiocraft(tiny_codec(), folder / "extra")
    name = "facebook/encodec_tiny/extra/compression_state_dict.bin"
    assert isinstance(lightning_audio.load(name, device="cpu", cache_dir=tmp_path), EnCodec)


def test_half_of_a_model_in_the_cache_is_not_taken_for_the_whole(
    tiny_model: MakeModel, tmp_path: Path
) -> None:
    folder = cached(tmp_path, "facebook/musicgen-small")
    write_audiocraft(tiny_model(), folder)
    (folder / "compression_state_dict.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"state_dict\.bin and compression_state_dict\.bin"):
        lightning_audio.load("small", cache_dir=tmp_path)


def test_offline_and_not_cached(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no 'facebook/musicgen-small'.*AUDIOCRAFT_CACHE_DIR"
    ) as error:
        lightning_audio.load("small", cache_dir=tmp_path)
    assert str(tmp_path) in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"put its files \(mbd_musicgen_32khz\.th\)"):
        locate("facebook/multiband-diffusion/mbd_musicgen_32khz.th", cache_dir=tmp_path)
    for path in ("./facebook/musicgen-small", "/facebook/musicgen-small", "not a name", "../a/b"):
        with pytest.raises(FileNotFoundError, match="there is no model at"):
            locate(path, cache_dir=tmp_path)


def test_a_folder_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "facebook" / "musicgen-small").mkdir(parents=True)
    assert locate("facebook/musicgen-small") == Path("facebook/musicgen-small")


def test_only_the_files_of_one_model_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class Hub:
        def list_repo_files(self, repository: str) -> list[str]:
            return ["README.md", "config.json", "model.safetensors", "tokenizer.json", "pytorch_model.bin"]

    def fetch(repository: str, **options: Any) -> str:
        asked.update(options, repository=repository)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert locate("somebody/model", cache_dir=tmp_path / "cache") == tmp_path
    assert asked["repository"] == "somebody/model"
    assert asked["cache_dir"] == tmp_path / "cache"
    assert sorted(asked["allow_patterns"]) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_which_files_make_a_model() -> None:
    both = ["state_dict.bin", "compression_state_dict.bin"]
    assert files_of_a_model([*both, "config.json", "model.safetensors"]) == both
    assert files_of_a_model(["config.json", "pytorch_model.bin"]) == ["config.json", "pytorch_model.bin"]
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = "model.safetensors.index.json"
    assert files_of_a_model(["config.json", index, *shards]) == ["config.json", *shards, index]
    assert files_of_a_model(["config.yaml", "codec.safetensors"]) == ["config.yaml", "codec.safetensors"]
    assert files_of_a_model(["config.json", "README.md"]) == []
