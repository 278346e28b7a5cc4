"""No room, or no permission: one line and exit code 2, and nothing half-written is left."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import lightning_audio
from experiments.cli import main
from lightning_audio.audio import write

TINY_CODEC = [
    "experiment=quickstart_codec",
    "trainer.max_steps=2",
    "trainer.val_check_interval=2",
    "callbacks.last.every_n_train_steps=1",
    "data.batch_size=2",
    "wandb.mode=disabled",
]


@contextmanager
def room_for(num_bytes: int) -> Iterator[None]:
    """Within it no file grows beyond `num_bytes`: writing on fails as on a full disk, without one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def audio_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audio")
    generator = torch.Generator().manual_seed(0)
    for split in ("train", "valid"):
        for i in range(4):
            write(folder / split / f"{i}.wav", 0.1 * torch.randn(1, 16000, generator=generator), 16000)
    return folder


@pytest.fixture(scope="module")
def shards(audio_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "shards"
    assert main(["shard", str(audio_folder), str(out), "--workers", "1"]) == 0
    return out


@pytest.fixture(scope="module")
def codec_run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "codec"
    assert main(["train", *TINY_CODEC, f"data.path={shards}", f"run_dir={run}"]) == 0
    return run


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The one line that the program says; it ends with code 2."""
    capsys.readouterr()
    code = main(arguments)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lightning-audio")]
    assert code == 2
    assert len(lines) == 1, lines
    return lines[0]


def test_shards_on_a_full_disk(
    audio_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["shard", str(audio_folder), str(tmp_path / "out"), "--workers", "1"]
    with room_for(20_000):
        line = refused(capsys, command)
    assert "too large" in line or "space" in line
    # What was finished is kept for the next run, out of sight; with room, that one ends as if nothing had been.
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".out.")] == []
    assert main(command) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_codes_on_a_full_disk(
    shards: Path, codec_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "codes")
    with room_for(
        500
    ):  # without workers: the limit is also on the shared memory through which they hand clips over
        refused(capsys, ["encode", str(shards), out, "--codec", str(codec_run), "--workers", "0"])
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_on_a_full_disk_leaves_the_one_before(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    arguments = ["train", *TINY_CODEC, f"data.path={shards}", f"run_dir={run}"]
    assert main(arguments) == 0
    before = {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()}
    with room_for(100_000):
        refused(capsys, [*arguments, "trainer.max_steps=4"])
    after = {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()}
    assert after == before
    lightning_audio.load(run, device="cpu")


def test_an_export_on_a_full_disk(
    codec_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with room_for(100_000):
        refused(capsys, ["export", str(codec_run), str(tmp_path / "package")])
    assert not list(tmp_path.rglob("*.safetensors"))
    assert not list(tmp_path.rglob("*partial*"))


@pytest.mark.parametrize("verb", ["shard", "encode", "export", "train"])
def test_an_output_that_cannot_be_written(
    verb: str,
    audio_folder: Path,
    shards: Path,
    codec_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / "file" / "out"
    arguments = {
        "shard": ["shard", str(audio_folder), str(out)],
        "encode": ["encode", str(shards), str(out), "--codec", str(codec_run)],
        "export": ["export", str(codec_run), str(out)],
        "train": ["train", *TINY_CODEC, f"data.path={shards}", f"run_dir={out}"],
    }[verb]
    assert str(tmp_path / "file") in refused(capsys, arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
