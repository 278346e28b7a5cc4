"""Every kind of MusicGen and every pattern takes a step from its config, at a size for a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import lightning as L
import pytest
import torch
from hydra.utils import instantiate
from torch.utils.data import DataLoader

from experiments.compose import CONFIGS, compose_config, resolve
from lightning_audio.batch import AudioBatch
from lightning_audio.conditioning.base import Precomputed, WavCondition
from lightning_audio.conditioning.conditioning import with_own_audio
from lightning_audio.lm.tasks import TokenLMTask

RATE = 8000
SMALL = [
    *("lm.dim=16", "lm.num_heads=2", "lm.num_layers=1", "lm.cardinality=16", "data.segment_duration=1.0"),
    *(
        "trainer.max_steps=10",
        "task.schedule.warmup_steps=1",
        "data.path=/data",
        "codec_source=/codec",
        "codec.sample_rate=8000",
    ),
]
PATTERNS = sorted(path.stem for path in (CONFIGS / "lm" / "pattern").glob("*.yaml"))


class TinyCodec(torch.nn.Module):
    """Four codes for every 100 samples."""

    sample_rate, channels, num_codebooks, cardinality, hop_length = RATE, 1, 4, 16, 100

    def encode(self, wav: torch.Tensor) -> Any:
        wav = torch.nn.functional.pad(wav, (0, -wav.shape[-1] % 100))
        level = (wav[:, 0].unflatten(-1, (-1, 100)).abs().mean(-1) * 50).long().clamp(max=15)
        return type("Encoded", (), {"codes": level[:, None].expand(-1, 4, -1)})


def task_of(overrides: list[str]) -> TokenLMTask:
    """The experiment's task at a small size, with a text encoder that needs no download and the tiny codec."""
    config = resolve(compose_config("train", [*overrides, *SMALL]))
    task = config["task"]
    torch.manual_seed(0)
    description = config["lm"]["conditioning"]["conditioners"]["description"]
    if description["_target_"].endswith("T5Conditioner"):
        own = {
            "_target_": "lightning_audio.conditioning.text.SubwordTextConditioner",
            "dim": 8,
            "num_buckets": 64,
        }
        task["model"]["conditioning"]["conditioners"]["description"] = {**own, "num_layers": 1}
    codec = TinyCodec() if task.pop("codec", None) else None
    return instantiate({**task, "ema_decay": None}, _convert_="all", codec=codec)


def step(task: TokenLMTask, batch: AudioBatch, folder: Path) -> dict[str, torch.Tensor]:
    """The weights that two steps have changed."""
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        max_steps=2,
        max_epochs=-1,
    )
    trainer.fit(task, DataLoader(cast(Any, [batch]), batch_size=None))
    after = task.model.state_dict()
    assert all(value.isfinite().all() for value in after.values())
    return {name: value for name, value in after.items() if not torch.equal(value, before[name])}


def of_codes() -> AudioBatch:
    return AudioBatch(
        keys=["a", "b"],
        sample_rate=RATE,
        attributes=[{"description": "a bell"}, {"description": "rain", "genre": ["rock", "folk"]}],
        codes=torch.randint(16, (2, 4, 20), generator=torch.Generator().manual_seed(0)),
    )


def of_audio() -> AudioBatch:
    wav = torch.randn(2, 1, RATE, generator=torch.Generator().manual_seed(0))
    return AudioBatch(
        keys=["a", "b"],
        sample_rate=RATE,
        attributes=[{"description": "a bell"}, {"description": "rain"}],
        wav=wav,
        num_samples=torch.tensor([RATE, RATE - 1500]),
    )


def test_the_paper_s_patterns_are_there() -> None:
    table_4 = {"delay", "partial_delay", "parallel", "partial_flattening", "coarse_first", "flattening"}
    assert set(PATTERNS) == table_4


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_takes_a_step(pattern: str, tmp_path: Path) -> None:
    task = task_of(["experiment=musicgen_small", f"lm/pattern={pattern}"])
    steps = {"delay": 24, "partial_delay": 22, "parallel": 21, "flattening": 81}
    steps |= {"coarse_first": 41, "partial_flattening": 41}
    assert int(task.model.pattern.steps(20).max()) + 1 == steps[pattern]
    assert "heads.weight" in step(task, of_codes(), tmp_path)


@pytest.mark.parametrize("dropped", [False, True])
def test_melody_learns_of_the_clip_itself(dropped: bool, tmp_path: Path) -> None:
    task = task_of(
        [
            "experiment=musicgen_melody",
            "lm.conditioning.conditioners.melody.separator=null",
            "lm.conditioning.conditioners.melody.radix2_exp=10",
            f"task.cfg_dropout={float(dropped)}",
            "task.attribute_dropout.melody=0",
        ]
    )
    gradients: list[torch.Tensor] = []
    projection = task.model.conditioning.output_proj["melody"].get_parameter("weight")
    projection.register_hook(gradients.append)
    assert "heads.weight" in step(task, of_audio(), tmp_path)
    assert len(gradients) == 2  # it takes part in every step, and what is dropped teaches nothing
    assert all(bool(gradient.any()) is not dropped for gradient in gradients)
    with pytest.raises(ValueError, match="melody of a clip is to be its own audio"):
        task._prepared(of_codes(), training=True)


def test_style_learns_of_the_clip_itself_but_for_the_excerpt(tmp_path: Path) -> None:
    style = "lm.conditioning.conditioners.style"
    task = task_of(
        [
            "experiment=musicgen_style",
            f"{style}.num_layers=1",
            f"{style}.num_heads=2",
            f"{style}.downsampling=2",
            f"{style}.code_frame=100",
            f"{style}.excerpt_range=[0.2,0.4]",
            f"lm/features@{style}.features=encodec",
            f"{style}.features.dim=16",
            f"{style}.quantizer.cardinality=8",
            "task.cfg_dropout=0",
            "task.attribute_dropout.style=0",
        ]
    )
    changed = step(task, of_audio(), tmp_path)
    inside = "conditioning.conditioners.style."
    for name in ("features.embed.0.weight", "batch_norm.running_mean", "quantizer.codebooks.embed"):
        assert inside + name in changed
    batch = of_audio()
    prepared = task._prepared(batch, training=True)
    counted = task.model.conditioning.counted(prepared, 80)
    assert counted is not None
    lost = (~counted).sum(dim=1)
    assert ((lost >= 16) & (lost <= 32)).all()  # 0.2 to 0.4 s of frames of 100 samples


def test_clap_learns_without_captions(tmp_path: Path) -> None:
    """With vectors computed ahead: CLAP's weights are not here."""
    task = task_of(["experiment=musicgen_clap", "lm.conditioning.conditioners.description.dim=8"])
    batch = of_audio()
    items = with_own_audio(batch.attributes, batch, task.self_conditions)
    pairs = [item["description"] for item in items]
    assert [pair[0] for pair in pairs] == ["a bell", "rain"]
    assert all(isinstance(pair[1], WavCondition) for pair in pairs)
    assert [pair[1].wav.shape[-1] for pair in pairs] == [RATE, RATE - 1500]
    task = task_of(
        ["experiment=musicgen_clap", "lm.conditioning.conditioners.description.dim=8", "task.cfg_dropout=0"]
    )
    ahead = [{"description": Precomputed(torch.randn(1, 8))} for _ in range(2)]
    changed = step(task, AudioBatch(**{**vars(batch), "attributes": ahead}), tmp_path)
    assert "conditioning.output_proj.description.weight" in changed
    assert "conditioning.conditioners.description.quantizer.codebooks.embed" in changed
