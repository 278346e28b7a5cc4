"""Several datasets as one stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from hydra.utils import instantiate

from datamodules.mixture import MixtureDataModule
from datamodules.tokens import TokenDataModule
from experiments.compose import compose_config
from lightning_audio.batch import AudioBatch
from sharding.schema import ShardIndex

BATCH = 8


@pytest.fixture(scope="module")
def datasets(make_codes: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("datasets")
    make_codes(folder / "music", [5, 2, 6])
    make_codes(folder / "music", [3], split="valid")
    make_codes(folder / "sounds", [4, 5])
    make_codes(folder / "speech", [2])
    make_codes(folder / "speech", [2], split="valid")
    return {name: folder / name for name in ("music", "sounds", "speech")}


def mixture(datasets: dict[str, Path], **settings: Any) -> MixtureDataModule:
    defaults = {"each": TokenDataModule, "num_frames": 8, "batch_size": BATCH, "seed": 5, "block": 16}
    weights = {"music": 3, "sounds": 4, "speech": 1}
    own = {name: {"path": path} for name, path in datasets.items()}
    return MixtureDataModule(own, **{"weights": weights, **defaults, **settings})


def take(module: MixtureDataModule, count: int) -> list[AudioBatch]:
    module.setup("fit")
    loader = module.train_dataloader()
    batches = list(islice((batch for _ in iter(int, 1) for batch in loader), count))
    loader.close()
    return batches


def names(batches: list[AudioBatch]) -> list[str]:
    return [key for batch in batches for key in batch.keys]


def test_each_dataset_has_its_share_and_its_own_epochs(datasets: dict[str, Path]) -> None:
    keys = names(take(mixture(datasets), 40))
    for start in range(0, 320, 16):
        shares = Counter(key.split("/")[0] for key in keys[start : start + 16])
        assert shares == {"music": 6, "sounds": 8, "speech": 2}
    for name, size in (("music", 13), ("sounds", 9), ("speech", 2)):
        own = [key for key in keys if key.startswith(f"{name}/")]
        epochs = [own[first : first + size] for first in range(0, len(own) - size + 1, size)]
        assert all(set(Counter(epoch).values()) == {1} for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > 1


def test_batches_do_not_depend_on_workers(datasets: dict[str, Path]) -> None:
    alone, helped = take(mixture(datasets), 12), take(mixture(datasets, num_workers=2), 12)
    for one, other in zip(alone, helped, strict=True):
        assert one.keys == other.keys
        assert torch.equal(one.codes, other.codes)  # type: ignore[arg-type]


def test_a_dataset_that_joins_leaves_the_order_of_the_others(datasets: dict[str, Path]) -> None:
    """Its samples come between theirs, no more."""
    two = {name: datasets[name] for name in ("music", "sounds")}
    before = names(take(mixture(two, weights={"music": 3, "sounds": 4}), 20))
    after = names(take(mixture(datasets), 20))
    for name in two:
        one, other = ([key for key in keys if key.startswith(name)] for keys in (before, after))
        length = min(len(one), len(other))
        assert one[:length] == other[:length]


def test_hours_are_the_weights_unless_others_are_given(datasets: dict[str, Path]) -> None:
    """A clip of i has 10 + i % 7 frames of 10 ms."""
    seconds = {
        name: sum(0.1 + 0.01 * (i % 7) for i in range(size))
        for name, size in (("music", 13), ("sounds", 9), ("speech", 2))
    }
    module = mixture(datasets, weights=None)
    assert module.weights == pytest.approx({name: value / 3600 for name, value in seconds.items()})
    keys = names(take(module, 100))
    shares = Counter(key.split("/")[0] for key in keys)
    for name, value in seconds.items():
        assert abs(shares[name] - len(keys) * value / sum(seconds.values())) < 2
    assert len(module.train_dataloader()) == 24 // BATCH  # as many samples as there are, about


def test_validation_takes_every_dataset_whole(datasets: dict[str, Path]) -> None:
    module = mixture(datasets, eval_batch_size=4)
    keys = names(list(module.val_dataloader()))
    assert keys == [f"music/c{i:03d}" for i in range(3)] + [f"speech/c{i:03d}" for i in range(2)]
    assert module.test_dataloader() == []


def test_a_bad_sample_is_replaced_by_one_of_its_dataset(datasets: dict[str, Path], tmp_path: Path) -> None:
    tar = datasets["sounds"] / "train/000001.tar"
    index, whole = ShardIndex.load(tar.with_suffix(".index.json")), tar.read_bytes()
    offset = int(index.parts["codes.npy"][2, 0])
    clean = take(mixture(datasets), 30)
    try:
        tar.write_bytes(whole[:offset] + b"x" * 20 + whole[offset + 20 :])
        with pytest.warns(UserWarning, match="left out sounds/c006 of sounds/000001.tar"):
            batches = take(mixture(datasets, log_folder=tmp_path, max_bad_ratio=0.1), 30)
    finally:
        tar.write_bytes(whole)
    changed = [(a, b) for a, b in zip(names(clean), names(batches), strict=True) if a != b]
    assert changed
    assert {a for a, _ in changed} == {"sounds/c006"}
    assert all(b.startswith("sounds/") for _, b in changed)


class Recorder(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[tuple[tuple[str, ...], list[int]]] = []

    def training_step(self, batch: AudioBatch, batch_idx: int) -> torch.Tensor:
        assert batch.codes is not None
        self.seen.append((tuple(batch.keys), batch.codes.flatten().tolist()))
        return self.layer(batch.codes.float().mean().reshape(1, 1)).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-9)


@pytest.mark.parametrize("workers", [(0, 2), (2, 0)])
@pytest.mark.parametrize("stop", [1, 4, 11])
def test_a_run_resumes_on_the_next_sample(
    datasets: dict[str, Path], workers: tuple[int, int], stop: int, tmp_path: Path
) -> None:
    def run(steps: int, num_workers: int, checkpoint: Path | None = None) -> tuple[L.Trainer, Recorder]:
        task = Recorder()
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        trainer = L.Trainer(accelerator="cpu", max_steps=steps, default_root_dir=tmp_path, **quiet)  # type: ignore[arg-type]
        trainer.fit(task, datamodule=mixture(datasets, num_workers=num_workers), ckpt_path=checkpoint)
        return trainer, task

    _, whole = run(15, 0)
    trainer, first = run(stop, workers[0])
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    _, second = run(15, workers[1], tmp_path / "last.ckpt")
    assert first.seen + second.seen == whole.seen


def test_a_mixture_as_a_config(datasets: dict[str, Path]) -> None:
    given = ", ".join(f"{name}: {{path: '{path}'}}" for name, path in datasets.items())
    config = compose_config(
        "train",
        [
            "experiment=musicgen_small",
            "data=token_mixture",
            f"data.datasets={{{given}}}",
            "data.weights={music: 3, sounds: 4, speech: 1}",
            "data.segment_duration=0.08",
            "data.min_segment_ratio=1.0",
            f"data.batch_size={BATCH}",
            "data.num_workers=0",
            "+data.block=16",
            "seed=5",
            "codec_source=none",
            "run_dir=none",
        ],
    )
    assert names(take(instantiate(config.data, _convert_="all"), 5)) == names(take(mixture(datasets), 5))


def test_datasets_may_have_settings_of_their_own(datasets: dict[str, Path]) -> None:
    own: dict[str, dict[str, Any]] = {name: {"path": path} for name, path in datasets.items()}
    own["sounds"]["min_segment_ratio"] = 1.0
    module = MixtureDataModule(
        own, each=TokenDataModule, num_frames=8, batch_size=BATCH, min_segment_ratio=0.5
    )
    assert {name: one.min_segment_ratio for name, one in module.modules.items()} == {  # type: ignore[attr-defined]
        "music": 0.5,
        "sounds": 1.0,
        "speech": 0.5,
    }


def test_what_does_not_mix_is_refused(datasets: dict[str, Path], audio_shards: Path) -> None:
    with pytest.raises(ValueError, match=r"weights are of \['music'\], the datasets are"):
        mixture(datasets, weights={"music": 1})
    with pytest.raises(ValueError, match="a mixture of no datasets"):
        mixture({}, weights=None)
    own: dict[str, dict[str, Any]] = {
        "a": {"path": datasets["music"]},
        "b": {"path": datasets["sounds"], "num_frames": 9},
    }
    with pytest.raises(ValueError, match="a and b make no batch together: num_frames is 8 and 9"):
        MixtureDataModule(own, each=TokenDataModule, num_frames=8, batch_size=BATCH).train_dataloader()
    own["b"] = {"path": datasets["sounds"], "conditions": ["melody"]}
    with pytest.raises(ValueError, match=r"conditions is \[\] and \['melody'\]"):
        MixtureDataModule(own, each=TokenDataModule, num_frames=8, batch_size=BATCH).train_dataloader()
    own["b"] = {"path": datasets["sounds"], "codec_hash": "another"}
    with pytest.raises(ValueError, match="made by codec the-hash, the model's is another"):
        MixtureDataModule(own, each=TokenDataModule, num_frames=8, batch_size=BATCH).setup("fit")
    own["b"] = {"path": audio_shards}
    with pytest.raises(ValueError, match="holds audio, no codes"):
        MixtureDataModule(own, each=TokenDataModule, num_frames=8, batch_size=BATCH).setup("fit")
