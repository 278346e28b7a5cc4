"""Multi-band diffusion from shards to a decoder: each band is one run, and the runs are joined."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import lightning_audio
from experiments.cli import main
from experiments.compose import compose_config, resolve
from lightning_audio import audio
from lightning_audio.checkpoints.bands import join_bands, read_band
from lightning_audio.checkpoints.native import write_native
from lightning_audio.checkpoints.stored import StoredModel, build
from lightning_audio.codec.encodec import EnCodec
from sharding.sources import find_clips
from sharding.writing.write import write_shards

RATE = 16000
SMALL = [
    "codec=tiny",
    "diffusion.network.hidden=8",
    "diffusion.network.depth=2",
    "diffusion.network.growth=2",
    "diffusion.num_bands=2",
    "processors=[null,{_target_:lightning_audio.diffusion.processor.BandProcessor,sample_rate:16000,num_bands:4,"
    "num_samples:8}]",
    "data.batch_size=4",
    "data.segment_duration=0.25",
    "data.num_workers=0",
    "trainer.accelerator=cpu",
    "trainer.max_steps=3",
    "trainer.val_check_interval=3",
    "trainer.log_every_n_steps=1",
    "callbacks.last.every_n_train_steps=1",
    "wandb.mode=disabled",
]


def random_codec(seed: int, folder: Path) -> Path:
    """A codec with random weights, as a package."""
    node = resolve(compose_config("train", ["experiment=quickstart_codec", "data.path=/data"]))["codec"]
    torch.manual_seed(seed)
    return write_native(StoredModel({"codec": node}, {"codec": build(node).state_dict()}), folder)


@pytest.fixture(scope="module")
def codec_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_codec(0, tmp_path_factory.mktemp("codec"))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mbd")
    generator = torch.Generator().manual_seed(0)
    for number in range(12):
        split = "train" if number < 8 else "valid"
        wav = 0.2 * torch.randn(1, RATE // 2, generator=generator)
        audio.write(folder / f"in/{split}/clip{number:02d}.flac", wav, RATE)
    write_shards(find_clips(folder / "in"), folder / "out", samples_per_shard=4)
    return folder / "out"


def train_band(band: int, run: Path, shards: Path, codec: Path, *more: str) -> Path:
    given = [f"band={band}", f"run_dir={run}", f"data.path={shards}", f"codec_source={codec}", *SMALL, *more]
    assert main(["train", "experiment=mbd_32khz", *given]) == 0
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, shards: Path, codec_folder: Path) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [train_band(band, folder / f"band{band}", shards, codec_folder) for band in (0, 1)]


def test_joined_runs_are_one_decoder(runs: list[Path], tmp_path: Path) -> None:
    assert main(["join", *map(str, reversed(runs)), "--out", str(tmp_path / "mbd")]) == 0
    model = lightning_audio.load(tmp_path / "mbd", device="cpu")
    assert [(band.band, band.processor is not None) for band in model.bands] == [(0, False), (1, True)]
    assert model.num_codebooks == 4
    assert model.bands.bands[1].processor.num_seen() == 8
    codes = torch.randint(0, 256, (1, 4, 5), generator=torch.Generator().manual_seed(0))
    wav = model.decode(codes, seed=0, steps=[999, 300, 0])
    assert wav.shape == (1, 1, 5 * 320)
    assert wav.isfinite().all()
    # What was trained is what decodes: the averaged weights of the run, not those of another step.
    checkpoint = torch.load(runs[1] / "checkpoints" / "best.ckpt", weights_only=True)
    averages = checkpoint["ema"]["average"]
    weights = model.bands.bands[1].state_dict()
    assert all(torch.equal(weights[name], value) for name, value in averages.items())
    # The same in AudioCraft's form.
    assert main(["join", *map(str, runs), "--out", str(tmp_path / "theirs"), "--format", "audiocraft"]) == 0
    theirs = lightning_audio.load(tmp_path / "theirs", device="cpu")
    torch.testing.assert_close(theirs.decode(codes, seed=0, steps=[999, 300, 0]), wav, rtol=1e-4, atol=1e-5)


def test_one_run_is_a_band(runs: list[Path]) -> None:
    band = lightning_audio.load(runs[1], device="cpu")
    assert (band.band, band.num_bands) == (1, 2)
    assert list(band.config) == ["band"]


def test_a_run_is_resumed(runs: list[Path], shards: Path, codec_folder: Path, tmp_path: Path) -> None:
    run = train_band(0, tmp_path / "run", shards, codec_folder, "trainer.max_steps=1")
    train_band(0, run, shards, codec_folder)
    resumed, whole = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (run, runs[0])
    )
    torch.testing.assert_close(resumed["state_dict"], whole["state_dict"], rtol=0, atol=0)


def test_codes_that_lie_beside_the_audio_are_used(
    shards: Path, codec_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = tmp_path / "codes"
    assert main(["encode", str(shards), str(both), "--codec", str(codec_folder), "--keep-audio"]) == 0

    def encode(*_: object, **__: object) -> None:
        raise AssertionError("the codes are there")

    monkeypatch.setattr(EnCodec, "encode", encode)
    run = train_band(0, tmp_path / "run", both, codec_folder, "data=audio_codes")
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3


def test_codes_of_another_codec_are_refused(
    shards: Path, codec_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = tmp_path / "codes"
    main(["encode", str(shards), str(both), "--codec", str(codec_folder), "--keep-audio"])
    other = random_codec(1, tmp_path / "other")
    given = [f"run_dir={tmp_path / 'run'}", f"data.path={both}", f"codec_source={other}", *SMALL]
    assert main(["train", "experiment=mbd_32khz", "data=audio_codes", *given]) == 2
    assert "the codes were made by codec" in capsys.readouterr().err


def test_runs_that_make_no_decoder_are_refused(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"want each of bands 0 to 1 once, got 0 of 2 .*band0"):
        join_bands(runs[:1])
    with pytest.raises(ValueError, match="want each of bands"):
        join_bands([runs[0], runs[0], runs[1]])
    with pytest.raises(ValueError, match="no runs"):
        join_bands([])
    with pytest.raises(ValueError, match="the bands were trained with codec"):
        join_bands(runs, codec=random_codec(1, tmp_path / "wrong"))
    checkpoint = torch.load(runs[0] / "checkpoints" / "last.ckpt", weights_only=True)
    checkpoint["config"] |= {"part": "codec", "task": {"model": checkpoint["config"]["codec"]}}
    torch.save(checkpoint, tmp_path / "codec.ckpt")
    with pytest.raises(ValueError, match=r"codec.ckpt trained no band of a diffusion"):
        read_band(tmp_path / "codec.ckpt")
