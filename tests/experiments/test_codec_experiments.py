"""The codecs' recipes, stereo from mono, and AudioGen with mixing: each trains at a reduced size, from shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate

from experiments.cli import main
from experiments.compose import compose_config, resolve
from experiments.train import train
from lightning_audio import audio, load
from lightning_audio.codec.discriminators import DiscriminatorPerBandwidth
from lightning_audio.codec.stereo import StereoFromMono
from lightning_audio.lm.stereo import stereo_weights
from sharding.sources import find_clips
from sharding.writing.write import write_shards

SHORT = [
    "trainer.max_steps=2",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "trainer.val_check_interval=2",
    "trainer.limit_val_batches=1",
    "trainer.log_every_n_steps=1",
    "callbacks.last.every_n_train_steps=2",
    "data.num_workers=0",
    "wandb.mode=disabled",
]


def shards(folder: Path, *, rate: int, channels: int = 1) -> Path:
    """12 clips of half a second, every second one of them music."""
    generator = torch.Generator().manual_seed(0)
    for i in range(12):
        wav = 0.1 * torch.randn(channels, rate // 2, generator=generator).cumsum(-1).sin()
        path = folder / "in" / ("train" if i < 8 else "valid") / f"clip{i:02d}.flac"
        audio.write(path, wav, rate)
        about = {"description": f"sound {i}", "kind": "music" if i % 2 else "speech"}
        path.with_suffix(".json").write_text(json.dumps(about))
    write_shards(find_clips(folder / "in"), folder / "shards")
    return folder / "shards"


def run(experiment: str, data: Path, run_dir: Path, *overrides: str) -> Path:
    given = [f"experiment={experiment}", f"data.path={data}", f"run_dir={run_dir}", *SHORT, *overrides]
    return train(compose_config("train", given))


def small_codec(at: str = "codec", *, filters: int = 2) -> list[str]:
    learning = f"{at}.quantizer.learning.kmeans_iterations=2"
    return [
        f"{at}.encoder.num_filters={filters}",
        f"{at}.encoder.dim=8",
        f"{at}.quantizer.cardinality=16",
        learning,
    ]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rooms")
    audio.write(folder / "room.wav", torch.tensor([[0.5, 0.0, 0.25, 0.1]]), 16000, subtype="FLOAT")
    return folder


# As they stand the recipes are trained by test_every_experiment; here with all that they can be given beside.
CODECS: dict[str, tuple[int, list[str]]] = {
    "encodec_32khz": (
        32000,
        [
            "discriminators@gan.discriminators=[msstft,mpd,msd]",
            "gan.discriminators.msstft.filters=2",
            "gan.discriminators.mpd.filters=1",
            "gan.discriminators.msd.filters=4",
            "augmentation=mixtures",
        ],
    ),
    "encodec_24khz_paper": (24000, ["gan.discriminators.msstft.make.filters=2", "augmentation=paper"]),
}


@pytest.mark.parametrize("name", CODECS)
def test_a_codec_trains_and_loads(name: str, room: Path, tmp_path: Path) -> None:
    rate, overrides = CODECS[name]
    if "augmentation=paper" in overrides:
        overrides = [*overrides, f"augmentation.impulse_responses={room}"]
    data = shards(tmp_path, rate=rate)
    folder = run(
        name, data, tmp_path / "run", *small_codec(), *overrides,
        "data.segment_duration=0.2", "data.batch_size=4",
    )  # fmt: skip
    codec = load(folder, device="cpu")
    assert codec.sample_rate == rate
    wav = 0.1 * torch.randn(1, 1, rate // 5)
    assert codec.decode(codec.encode(wav)).isfinite().all()


def gan(*overrides: str) -> dict[str, Any]:
    given = ["experiment=encodec_24khz_paper", "data.path=/data", *overrides]
    return resolve(compose_config("train", given))["task"]


def test_the_two_recipes_differ_where_paper_and_audiocraft_do() -> None:
    paper = gan()
    assert paper["balancer"]["weights"] == {"adv": 3.0, "feat": 3.0, "l1": 0.1, "mel": 1.0}
    assert paper["adversarial"]["clamped"]
    assert paper["matching"]["relative"]
    assert paper["discriminator_probability"] == pytest.approx(2 / 3)
    assert paper["reconstruction"]["mel"]["window_exponents"] == [5, 6, 7, 8, 9, 10, 11]
    judge = instantiate(paper["discriminators"]["msstft"], _convert_="all")
    assert isinstance(judge, DiscriminatorPerBandwidth)
    assert list(judge.of_number) == ["2", "4", "8", "16", "32"]
    first, second = judge.of(2), judge.of(4)
    assert first.discriminators[0].negative_slope == 0.2
    assert not torch.equal(first.discriminators[0].convs[0].weight, second.discriminators[0].convs[0].weight)

    theirs = gan("gan=audiocraft")
    assert theirs["balancer"]["weights"] == {"adv": 4.0, "feat": 4.0, "l1": 0.1, "mel": 2.0}
    assert not theirs["adversarial"]["clamped"]
    assert not theirs["matching"]["relative"]
    assert theirs["discriminator_probability"] == 1.0
    assert theirs["reconstruction"]["mel"]["window_exponents"] == [6, 7, 8, 9, 10]

    given = ["experiment=encodec_48khz_paper", "data.path=/data"]
    stereo = resolve(compose_config("train", given))["task"]
    assert stereo["balancer"]["weights"] == {"adv": 4.0, "feat": 4.0, "l1": 0.1, "mel": 1.0}
    assert stereo["discriminator_probability"] == 0.5
    make, narrow = stereo["discriminators"]["msstft"]["make"], paper["discriminators"]["msstft"]["make"]
    assert make["separate_channels"]
    for key in ("n_ffts", "hop_lengths", "win_lengths"):
        assert make[key] == [2 * size for size in narrow[key]]


def test_the_papers_discriminator_wants_bandwidths() -> None:
    given = ["experiment=encodec_32khz", "data.path=/data", "gan=paper"]
    with pytest.raises(Exception, match="give the quantizer dropout_numbers"):
        instantiate(resolve(compose_config("train", given))["task"]["discriminators"], _convert_="all")
    plain = resolve(compose_config("train", [*given, "discriminators@gan.discriminators=[msstft]"]))["task"]
    assert plain["adversarial"]["clamped"]
    instantiate(plain["discriminators"], _convert_="all")


LM = [
    "lm=tiny",
    "lm.dim=16",
    "lm.num_heads=2",
    "lm.num_layers=1",
    "data.batch_size=2",
    "data.segment_duration=0.4",
    "task.schedule.warmup_steps=1",
]


def mono_codec(tmp_path: Path, rate: int, experiment: str) -> tuple[Path, Path]:
    """Shards of audio, and the run of a codec on them."""
    data = shards(tmp_path / "codec", rate=rate, channels=2 if rate == 32000 else 1)
    overrides = ["gan.discriminators.msstft.filters=2", "data.segment_duration=0.2", "data.batch_size=4"]
    return data, run(experiment, data, tmp_path / "codec/run", *small_codec(), *overrides)


def test_stereo_from_mono_from_shards_to_sound(tmp_path: Path) -> None:
    """A mono codec and model, the codec made stereo, and a stereo model that starts from the mono one."""
    data, codec_run = mono_codec(tmp_path, 32000, "encodec_32khz")
    stereo_codec = tmp_path / "stereo_codec"
    assert main(["export", str(codec_run), str(stereo_codec), "--stereo"]) == 0
    for codec, out in ((codec_run, "mono_codes"), (stereo_codec, "stereo_codes")):
        assert main(["encode", str(data), str(tmp_path / out), "--codec", str(codec)]) == 0
    mono = run(
        "musicgen_small", tmp_path / "mono_codes", tmp_path / "mono", *LM, *small_codec(), f"codec_source={codec_run}",
        "task.optimizer.lr=0.1",
    )  # fmt: skip
    given = [
        *LM, *small_codec("codec.codec"), f"codec_source={stereo_codec}", f"mono_source={mono}",
        "task.optimizer.lr=0.0", "task.weight_decay=0.0",
    ]  # fmt: skip
    folder = run("musicgen_stereo_small", tmp_path / "stereo_codes", tmp_path / "stereo", *given)
    model = load(folder, device="cpu")
    assert isinstance(model.codec, StereoFromMono)
    assert model.lm.pattern.delays == [0, 0, 1, 1, 2, 2, 3, 3]
    # At a learning rate of 0 the model is what it started as.
    wanted = stereo_weights(load(mono, device="cpu").lm.state_dict())
    for name, weight in model.lm.state_dict().items():
        torch.testing.assert_close(weight, wanted[name], msg=name)
    wav = model.generate(["a sound"], duration=0.1)
    assert wav.shape == (1, 2, 3200)
    # The run goes on from its own checkpoint, even when the mono model is gone.
    mono.rename(tmp_path / "gone")
    run(
        "musicgen_stereo_small", tmp_path / "stereo_codes", tmp_path / "stereo", *given, "trainer.max_steps=3"
    )
    with pytest.raises(ValueError, match="num_codebooks 8, the language model has num_codebooks 4"):
        run(
            "musicgen_small", tmp_path / "stereo_codes", tmp_path / "other", *LM, *small_codec("codec.codec"),
            "codec=encodec_32khz_stereo", "lm.num_codebooks=4", "lm.cardinality=16", f"codec_source={stereo_codec}",
        )  # fmt: skip


def test_audiogen_trains_on_audiocraft_s_mixtures_and_hears_by_another_model_s_codec(tmp_path: Path) -> None:
    data, codec_run = mono_codec(tmp_path, 16000, "encodec_16khz")
    source = codec_run
    for mixing in ("audiocraft", "none"):
        source = run(
            "audiogen_medium", data, tmp_path / mixing, *LM, *small_codec(), f"codec_source={source}",
            f"mixing={mixing}", "data.batch_size=4",
        )  # fmt: skip
        assert load(source, device="cpu").generate(["rain"], duration=0.1).shape == (1, 1, 1600)
