"""The verb `generate` on the packaged model of the reference vectors, and on what a user gets wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import lightning_audio
from experiments.cli import main
from lightning_audio.audio import integrated_loudness, read, write


@pytest.fixture(scope="module")
def musicgen(reference_path: Callable[..., Path]) -> list[str]:
    """The settings that open the tiny MusicGen."""
    pkg = reference_path("pkg", "musicgen_tiny")
    return [f"model={pkg}", f"text_encoder={reference_path('t5')}", "device=cpu"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "tone.wav"
    write(path, 0.3 * torch.sin(torch.arange(4800) * 0.1).expand(2, -1), 16000)
    return path


def test_files_and_what_made_them(
    tmp_path: Path,
    musicgen: list[str],
    reference_path: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [*musicgen, f"out={tmp_path}", "seed=5", "batch_size=1", "duration=[0.4,0.2]", "format=flac"]
    assert main(["generate", *arguments, "sampling.top_k=10", "warm piano", "rain!"]) == 0
    names = ["0000_warm-piano.flac", "0001_rain.flac"]
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / name) for name in names]
    record = json.loads((tmp_path / "generations.json").read_text())
    assert [(file["file"], file["text"], file["seed"]) for file in record["files"]] == [
        (names[0], "warm piano", 5),
        (names[1], "rain!", 6),
    ]
    model = lightning_audio.load(
        reference_path("pkg", "musicgen_tiny"), text_encoder=reference_path("t5"), device="cpu"
    )
    for name, text, seed, duration in zip(names, ["warm piano", "rain!"], [5, 6], [0.4, 0.2], strict=True):
        wav, sample_rate = read(tmp_path / name)
        expected = model.generate([text], duration=duration, seed=seed, top_k=10)[0]
        assert sample_rate == 32000
        torch.testing.assert_close(wav, expected, rtol=0, atol=2e-4)


def test_a_stream_grows_into_the_same_file(tmp_path: Path, musicgen: list[str], sound: Path) -> None:
    for name, stream in (("whole", "false"), ("stream", "true")):
        arguments = [
            *musicgen,
            f"out={tmp_path / name}",
            "duration=1.0",
            f"prompt={sound}",
            f"stream={stream}",
        ]
        assert main(["generate", *arguments, "warm piano"]) == 0
    whole, _ = read(tmp_path / "whole" / "0000_warm-piano.wav")
    streamed, _ = read(tmp_path / "stream" / "0000_warm-piano.wav")
    torch.testing.assert_close(streamed, whole, rtol=0, atol=2e-4)


def test_another_decoder_and_levels(
    tmp_path: Path, musicgen: list[str], reference_path: Callable[..., Path]
) -> None:
    bands = reference_path("pkg", "mbd_tiny", "mbd_musicgen_32khz.th")
    common = [*musicgen, "duration=1.0", "num_samples=1"]
    for name, more in {
        "plain": ["level=peak"],
        "bands": [f"decoder={bands}", "level=peak"],
        "loud": ["loudness=-40"],
        "soft": ["loudness=-20", "compressor=true"],
        "rms": ["level=rms"],
        "clip": ["level=clip"],
    }.items():
        assert main(["generate", *common, f"out={tmp_path / name}", *more]) == 0
    wavs = {name: read(tmp_path / name / "0000_untitled.wav")[0] for name in ("plain", "bands", "loud")}
    assert not torch.equal(wavs["plain"], wavs["bands"])
    assert float(wavs["plain"].abs().max()) == pytest.approx(10 ** (-1 / 20), abs=1e-3)
    assert integrated_loudness(wavs["loud"], 32000) == pytest.approx(-40, abs=0.1)


BAD = {
    "unknown format": (["format=wma", "a"], "unknown format 'wma'"),
    "unknown level": (["level=loud", "a"], "unknown level 'loud'"),
    "a loudness for a peak": (["level=peak", "loudness=-14", "a"], "level=peak takes no loudness"),
    "a level of a stream": (["stream=true", "loudness=-14", "a"], "needs the whole clip"),
    "no melody there": (["melody=/nowhere.wav", "a"], "/nowhere.wav"),
    "melodies for other texts": (["melody=[x.wav,y.wav]", "a"], "2 files as melody for 1 texts"),
    "durations for other texts": (["duration=[1,2]", "a"], "2 durations for 1 texts"),
    "texts and samples": (["num_samples=2", "a"], "give one or the other"),
    "duration": (["duration=-1", "a"], "duration is -1"),
    "not a time": (["duration=long", "a"], "duration is long"),
    "unknown setting": (["sampling.top_q=1", "a"], "unknown sampling settings ['top_q']"),
    "no decoder there": (["decoder=/nowhere", "a"], "/nowhere"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_exit_code_2(
    name: str, tmp_path: Path, musicgen: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, mentioned = BAD[name]
    assert main(["generate", *musicgen, f"out={tmp_path / 'out'}", *arguments]) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert mentioned in err[-1]
    assert len([line for line in err if "error" in line]) == 1
    assert not (tmp_path / "out").exists()


def test_a_melody_that_the_model_does_not_know(
    musicgen: list[str], sound: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", *musicgen, f"melody={sound}", "a"]) == 2
    assert "this model takes no melody; it takes description" in capsys.readouterr().err


def test_a_codec_cannot_generate_and_a_magnet_cannot_stream(
    reference_path: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    pkg, t5 = reference_path("pkg"), f"text_encoder={reference_path('t5')}"
    codec = pkg / "musicgen_tiny" / "compression_state_dict.bin"
    assert main(["generate", f"model={codec}", "device=cpu", "a"]) == 2
    assert "is a EnCodec, which cannot generate" in capsys.readouterr().err
    assert main(["generate", f"model={pkg / 'magnet_tiny'}", "device=cpu", t5, "stream=true", "a"]) == 2
    assert "cannot stream" in capsys.readouterr().err
