"""Every experiment, at a reduced size: from shards on disk through the program, stopped after a step, resumed, loaded.

What makes an experiment small is asked of the nodes that it is made of (`REDUCED`), so a new YAML of known parts is
tested with no line here. A new task or kind of data has to say what it needs (`USES`, `READS`).
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_object
from lightning.pytorch import Trainer
from omegaconf import OmegaConf
from torch import Tensor

import lightning_audio
from datamodules.audio import AudioDataModule
from datamodules.tokens import TokenDataModule
from experiments.cli import main
from experiments.compose import compose_config, experiment_names
from lightning_audio import audio
from lightning_audio.checkpoints.native import write_native
from lightning_audio.checkpoints.stored import StoredModel, build
from lightning_audio.codec.codebooks import CodebookLearning
from lightning_audio.codec.discriminators.msstft import MultiScaleSTFTDiscriminator
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.codec.quantizer import ResidualVectorQuantizer
from lightning_audio.codec.seanet import SEANetEncoder
from lightning_audio.codec.task import CodecTask
from lightning_audio.conditioning.chroma import ChromaConditioner
from lightning_audio.conditioning.clap import ClapConditioner
from lightning_audio.conditioning.features import MertFeatures
from lightning_audio.conditioning.style import StyleConditioner
from lightning_audio.conditioning.text import T5Conditioner
from lightning_audio.diffusion.band import BandDiffusion
from lightning_audio.diffusion.task import DiffusionTask
from lightning_audio.generation.base import AudioGenerator
from lightning_audio.layers.unet import UNet
from lightning_audio.lm.masked import MaskedLM
from lightning_audio.lm.masked.task import MaskedLMTask
from lightning_audio.lm.tasks import TokenLMTask
from lightning_audio.lm.token_lm import TokenLM
from lightning_audio.optim import cosine_warmup, inverse_sqrt

DURATION = 0.5  # s, of clips and segments
DATA = {"segment_duration": DURATION, "batch_size": 2, "num_workers": 0}
LM = {"dim": 16, "num_heads": 2, "num_layers": 1}
# Of each node that is built of a class: the settings that make it small, quick and independent of the hub.
REDUCED: dict[Any, dict[str, Any]] = {
    Trainer: {
        "max_steps": 1,
        "accelerator": "cpu",
        "devices": 1,
        "val_check_interval": 1,
        "limit_val_batches": 1,
        "log_every_n_steps": 1,
    },
    AudioDataModule: DATA,
    TokenDataModule: DATA,
    SEANetEncoder: {"num_filters": 2, "dim": 8},
    ResidualVectorQuantizer: {"cardinality": 16},
    CodebookLearning: {"kmeans_iterations": 2},
    MultiScaleSTFTDiscriminator: {"filters": 2},
    CodecTask: {"adversarial_after": 0, "discriminator_probability": 1.0},
    TokenLM: LM,
    MaskedLM: {**LM, "segment_frames": round(DURATION * 50)},
    cosine_warmup: {"warmup_steps": 0, "total_steps": 10},
    inverse_sqrt: {"warmup_steps": 0},
    T5Conditioner: {"name": "t5-small"},
    ChromaConditioner: {"separator": None, "radix2_exp": 10},
    StyleConditioner: {"num_heads": 2, "num_layers": 1, "excerpt": 0.2, "excerpt_range": [0.1, 0.2]},
    MertFeatures: {"hidden_dim": 16, "dim": 16},
    ClapConditioner: {"dim": 16},
    UNet: {"hidden": 4, "growth": 2},
}


@dataclass(frozen=True)
class Workshop:
    """Makes in `folder` what experiments read.  frozen: conditioner -> where its tiny random frozen encoder lies."""

    folder: Path
    frozen: dict[Any, Path]

    def command(self, name: str) -> list[str]:
        """The overrides of `lightning-audio train` for the experiment at a reduced size, with all that it reads."""
        folder = self.folder / name
        config = compose_config("train", [f"experiment={name}"])
        given = [f"experiment={name}", f"run_dir={folder / 'run'}", "wandb.mode=disabled"]
        for place, made_of in list(nodes(OmegaConf.to_container(config))):
            settings = dict(REDUCED.get(made_of, {}))
            if made_of in self.frozen:
                settings["path"] = str(self.frozen[made_of])
            for key, value in settings.items():
                OmegaConf.update(config, f"{place}.{key}", value, force_add=True)
                given.append(f"++{place}.{key}={json.dumps(value)}")
        codec = OmegaConf.to_container(config.codec, resolve=True)
        given.append(f"data.path={READS[node_class(config.data)](self, codec, folder)}")
        if "codec_source" in list(config):
            given.append(f"codec_source={self.codec(codec, folder)}")
        if "mono_source" in list(config):
            given.append(f"mono_source={self.mono(name)}")
        return given

    def mono(self, name: str) -> Path:
        """The run of the mono model that a stereo one starts from."""
        name = name.replace("stereo_", "")
        run = self.folder / name / "run"
        if not run.exists():
            assert main(["train", *self.command(name)]) == 0
        return run

    def codec(self, node: Any, folder: Path) -> Path:
        """A package of the codec with random weights."""
        out = folder / "codec"
        if not out.exists():
            torch.manual_seed(0)
            write_native(StoredModel({"codec": node}, {"codec": build(node).state_dict()}), out)
        return out

    def audio(self, codec: Any, folder: Path) -> Path:
        """Shards of what the codec hears."""
        sample_rate, channels = heard_by(codec)
        out = self.folder / f"audio_{sample_rate}_{channels}"
        if not out.exists():
            format = ["--sample-rate", str(sample_rate), "--channels", str(channels)]
            assert main(["shard", str(self.clips()), str(out), *format, "--workers", "1"]) == 0
        return out

    def codes(self, codec: Any, folder: Path) -> Path:
        """Shards of its codes."""
        out = folder / "codes"
        if not out.exists():
            given = [str(self.audio(codec, folder)), str(out), "--codec", str(self.codec(codec, folder))]
            assert main(["encode", *given]) == 0
        return out

    def clips(self) -> Path:
        """Six files of noise with a caption each."""
        out = self.folder / "clips"
        generator = torch.Generator().manual_seed(0)
        for i in range(0 if out.exists() else 6):
            path = out / ("train" if i < 4 else "valid") / f"clip{i}.wav"
            audio.write(path, 0.1 * torch.randn(2, round(DURATION * 48000), generator=generator), 48000)
            path.with_suffix(".json").write_text(json.dumps({"description": f"noise {i}", "genre": "noise"}))
        return out


# What a kind of data reads, by its module.
READS: dict[Any, Callable[[Workshop, Any, Path], Path]] = {
    AudioDataModule: Workshop.audio,
    TokenDataModule: Workshop.codes,
}


def node_class(node: Any) -> Any:
    return get_object(node["_target_"])


def nodes(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Where in a config each node is, and what it is built of."""
    if isinstance(value, dict):
        if "_target_" in value:
            yield place, node_class(value)
        for key, child in value.items():
            yield from nodes(child, f"{place}.{key}" if place else key)


def heard_by(codec: Any) -> tuple[int, int]:
    """(sample rate in Hz, channels)"""
    with torch.device("meta"):
        model = build(codec)
    return model.sample_rate, model.channels


def use_codec(codec: EnCodec) -> Tensor:
    wav = torch.randn(1, codec.channels, round(DURATION * codec.sample_rate))
    return codec.decode(codec.encode(wav))


def use_language_model(model: AudioGenerator) -> Tensor:
    wav: Tensor = model.generate(["noise 1"], duration=DURATION)
    return wav


def use_band(band: BandDiffusion) -> Tensor:
    condition = torch.randn(1, band.network.condition_dim, 4)
    return band.network(torch.randn(1, band.network.channels, 4 * 320), 500, condition)


# How to see that what a kind of task has trained can be used, by the task.
USES: dict[Any, Callable[[Any], Tensor]] = {
    CodecTask: use_codec,
    TokenLMTask: use_language_model,
    MaskedLMTask: use_language_model,
    DiffusionTask: use_band,
}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory, reference_path: Callable[..., Path]) -> Workshop:
    folder = tmp_path_factory.mktemp("workshop")
    t5 = reference_path("t5")
    torch.manual_seed(0)
    frozen = {
        T5Conditioner: t5,
        MertFeatures: random_mert(folder / "mert"),
        ClapConditioner: random_clap(folder / "clap", t5 / "t5-small"),
    }
    return Workshop(folder, frozen)


def random_mert(folder: Path) -> Path:
    """75 vectors of 16 numbers a second."""
    from transformers import HubertConfig, HubertModel

    width = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    hearing = {"conv_dim": (4, 4), "conv_stride": (20, 16), "conv_kernel": (20, 16)}
    place = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    HubertModel(HubertConfig(**width, **hearing, **place)).save_pretrained(folder)
    return folder


def random_clap(folder: Path, tokenizer: Path) -> Path:
    """A vector of 16 numbers."""
    from transformers import AutoTokenizer, ClapConfig, ClapFeatureExtractor, ClapModel, ClapProcessor

    words = AutoTokenizer.from_pretrained(tokenizer)
    width = {"hidden_size": 16, "num_attention_heads": 2}
    text = {**width, "num_hidden_layers": 1, "intermediate_size": 16, "vocab_size": len(words)}
    swin = {"depths": [1, 1], "num_attention_heads": [2, 2], "patch_embeds_hidden_size": 8, "hidden_size": 16}
    sound = {**swin, "spec_size": 64, "num_mel_bins": 16, "window_size": 4}
    ClapModel(ClapConfig(text_config=text, audio_config=sound, projection_dim=16)).save_pretrained(folder)
    hears = ClapFeatureExtractor(
        feature_size=16, max_length_s=1, truncation="rand_trunc", padding="repeatpad"
    )
    ClapProcessor(hears, words).save_pretrained(folder)
    return folder


def last_state(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return content


def part(name: str) -> str:
    """Of the name of a weight: "model.encoder", "model.heads", "discriminators.msstft", ..."""
    return ".".join(name.split(".")[:2])


def logged(run: Path) -> dict[str, list[float]]:
    """Every number in the logs of all lives of a run, by its name."""
    numbers: dict[str, list[float]] = {}
    for file in run.glob("logs/*/metrics.csv"):
        for row in csv.DictReader(file.open()):
            for name, value in row.items():
                numbers.setdefault(name, []).extend([float(value)] if value else [])
    return numbers


@pytest.mark.parametrize("name", experiment_names())
def test_an_experiment_trains_goes_on_and_loads(name: str, workshop: Workshop) -> None:
    run, command = workshop.folder / name / "run", workshop.command(name)
    assert main(["train", *command]) == 0
    first = last_state(run)
    assert main(["train", *command, "trainer.max_steps=2"]) == 0
    second = last_state(run)
    assert (first["global_step"], second["global_step"]) == (1, 2)
    before, after = first["state_dict"], second["state_dict"]
    moved = {part(weight) for weight in before if not torch.equal(before[weight], after[weight])}
    assert moved == {part(weight) for weight in before}
    numbers = logged(run)
    assert len(numbers["train/loss"]) == len(numbers["valid/loss"]) == 2
    assert all(math.isfinite(value) for values in numbers.values() for value in values)
    wav = USES[node_class(second["config"]["task"])](lightning_audio.load(run, device="cpu"))
    assert wav.abs().max() > 0
    assert wav.isfinite().all()


@pytest.mark.parametrize(
    ("name", "override"),
    [
        ("quickstart_musicgen", ["++lm.conditioning.conditioners.description.dropout=0.2"]),
        ("musicgen_melody", []),
        ("musicgen_style", []),
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one(
    name: str, override: list[str], workshop: Workshop, tmp_path: Path
) -> None:
    command = [*workshop.command(name), *override]
    for run, lives in (("whole", [2]), ("resumed", [1, 2])):
        for steps in lives:
            given = [f"run_dir={tmp_path / run}", f"trainer.max_steps={steps}"]
            assert main(["train", *command, *given]) == 0
    whole, resumed = (last_state(tmp_path / run)["state_dict"] for run in ("whole", "resumed"))
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["audiogen_medium", "musicgen_stereo_small", "musicgen_small"])
def test_what_an_experiment_has_to_be_told_is_named(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", f"experiment={name}"]) == 2
    wanted = ["codec_source", "data.path", *(["mono_source"] if "stereo" in name else [])]
    assert f"no value yet: {', '.join(wanted)}; give them as codec_source=..." in capsys.readouterr().err
