"""The program from outside: verbs, help, exit codes, and one clear line for what a user gets wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from experiments.cli import VERBS, main
from lightning_audio.audio import write


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_no_verb_shows_usage_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys)
    assert code == 2
    assert all(verb in out for verb in VERBS)


def test_a_mistyped_verb_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "trian")
    assert code == 2
    assert "did you mean train" in err


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    assert stopped.value.code == 0
    assert "example" in capsys.readouterr().out


BAD = {
    "train without an experiment": (["train"], "experiment="),
    "unknown experiment": (["train", "experiment=musicgen_smal"], "musicgen_small"),
    "unknown setting": (["train", "experiment=musicgen_small", "trainer.max_step=3"], "trainer.max_steps"),
    "setting without a value": (["train", "experiment=encodec_32khz"], "data.path"),
    "not an override": (["train", "experiment=encodec_32khz", "nonsense"], "nonsense"),
    "no dataset": (["train", "experiment=encodec_32khz", "data.path=/nowhere"], "/nowhere"),
    "no model": (["generate", "model=/nowhere", "a text"], "/nowhere"),
    "no text": (["generate", "model=/nowhere"], "give a text"),
    "no source": (["shard", "/nowhere", "/tmp/never"], "/nowhere"),
    "no dataset to check": (["check", "/nowhere"], "/nowhere"),
    "no codec": (["encode", "/nowhere", "/tmp/never", "--codec", "/nowhere"], "/nowhere"),
    "unknown protocol": (["evaluate", "protocol=quickstat", "model=x", "audio=x", "codes=x"], "quickstart"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_exit_code_2(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, mentioned = BAD[name]
    code, _, err = run(capsys, *arguments)
    assert code == 2, err
    assert mentioned in err
    assert len(err.strip().splitlines()) == 1, err


def test_a_folder_without_audio_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = run(capsys, "shard", str(tmp_path / "empty"), str(tmp_path / "out"))
    assert code == 2
    assert "empty" in err
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_broken_files_are_skipped_counted_and_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "audio"
    folder.mkdir()
    for i in range(4):
        write(folder / f"{i}.wav", torch.sin(torch.arange(8000) * 0.05 * (i + 1))[None] * 0.3, 8000)
    (folder / "broken.wav").write_bytes(b"RIFF no audio")
    (folder / "empty.flac").write_bytes(b"")
    code, out, _ = run(capsys, "shard", str(folder), str(tmp_path / "out"), "--workers", "1")
    assert code == 0
    assert "2 files skipped" in out
    assert "broken.wav" in out
    assert main(["check", str(tmp_path / "out"), "--workers", "1"]) == 0


def test_codec_and_language_model_that_do_not_fit_are_refused_with_both_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(
        capsys,
        "train",
        "experiment=musicgen_small",
        f"data.path={tmp_path}",
        "codec_source=x",
        "lm.num_codebooks=8",
    )
    assert code == 2
    assert "4" in err
    assert "8" in err


def test_a_world_size_that_does_not_divide_the_batch_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["experiment=musicgen_small", f"data.path={tmp_path}", "codec_source=x", "trainer.devices=5"]
    code, _, err = run(capsys, "train", *arguments)
    assert code == 2
    assert "192" in err
    assert "5 ranks" in err
