"""MAGNeT from shards to sound: an experiment at a tiny size trains, its run loads, and it generates."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

import lightning_audio
from experiments.compose import CONFIGS, compose_config
from experiments.train import train
from lightning_audio import audio
from lightning_audio.checkpoints.native import write_native
from lightning_audio.checkpoints.stored import StoredModel
from lightning_audio.hashing import weights_hash
from sharding.encoding.encode import encode
from sharding.sources import find_clips
from sharding.writing.write import write_shards


@pytest.fixture
def codec_folder(tmp_path: Path) -> Path:
    node = OmegaConf.to_container(OmegaConf.load(CONFIGS / "codec" / "tiny.yaml"), resolve=True)
    assert isinstance(node, dict)
    torch.manual_seed(0)
    weights = instantiate(node, _convert_="all").state_dict()
    return write_native(StoredModel({"codec": node}, {"codec": weights}), tmp_path / "codec")


def test_an_experiment_trains_loads_and_generates(
    codec_folder: Path, reference_path: Callable[..., Path], tmp_path: Path
) -> None:
    codec = lightning_audio.load(codec_folder)
    generator = torch.Generator().manual_seed(0)
    for i in range(6):
        name = tmp_path / f"in/{'train' if i < 4 else 'valid'}/clip{i}"
        wav = 0.1 * torch.randn(1, codec.sample_rate, generator=generator)
        audio.write(name.with_suffix(".wav"), wav, codec.sample_rate)
        name.with_suffix(".json").write_text(json.dumps({"description": f"noise {i}"}))
    write_shards(find_clips(tmp_path / "in"), tmp_path / "shards")
    encode(tmp_path / "shards", tmp_path / "codes", codec, weights_hash(codec), batch_size=2)
    frames = round(0.5 * codec.frame_rate)
    overrides = {
        "experiment": "magnet_small_10secs",
        "codec": "tiny",
        "codec_source": codec_folder,
        "run_dir": tmp_path / "run",
        "data.path": tmp_path / "codes",
        "data.segment_duration": 0.5,
        "data.batch_size": 4,
        "data.num_workers": 0,
        "lm.segment_frames": frames,
        "lm.dim": 32,
        "lm.num_heads": 2,
        "lm.num_layers": 1,
        "lm.conditioning.conditioners.description.name": "t5-small",
        "+lm.conditioning.conditioners.description.path": reference_path("t5"),
        "trainer.max_steps": 2,
        "task.schedule.warmup_steps": 1,
        "trainer.val_check_interval": 2,
        "wandb.mode": "disabled",
    }
    run = train(compose_config("train", [f"{name}={value}" for name, value in overrides.items()]))
    model = lightning_audio.load(run)
    assert type(model.lm).__name__ == "MaskedLM"
    assert list(model.defaults.decoding_steps) == [20, 10, 10, 10]
    wav = model.generate(["noise 1", None], duration=0.5, seed=3)
    assert wav.shape == (2, 1, frames // 3 * 3 * codec.hop_length)
    assert wav.isfinite().all()
