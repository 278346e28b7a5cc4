"""What the data modules have in common: loaders of the splits, on the ranks of whatever trainer there is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
import torch

from datamodules.index import DatasetIndex
from datamodules.journal import Journal
from datamodules.order import Order, StreamOrder
from datamodules.resume import EvalLoader, Source, StreamDataset, StreamLoader, rank_batch_size
from datamodules.transforms import BatchTransform
from sharding.schema import DatasetInfo
from sharding.storage.folders import Folder, ShardCache, is_remote, load_info, open_splits


class LoaderDataModule(L.LightningDataModule):
    """Loaders of training, validation and test, whatever the samples. A subclass says what those are, in `source`.

    batch_size: of one optimiser step, over all ranks and accumulated batches: the same clips on 1 or 64 GPUs.
    eval_batch_size: of validation and test, over all ranks (None: as batch_size).
    epoch_batches: optimiser steps that Lightning calls an epoch (None: about one pass over the data).
    accumulation: batches that one optimiser step takes (None: the trainer's accumulate_grad_batches); to be given
        where a task with manual optimisation accumulates by itself.
    seed: of the order and of everything random.  window: shards mixed with one another, see `StreamOrder`.
    log_folder: for the audit and the quarantine (None: the trainer's folder).  audit: write down every key.
    max_bad_ratio: share of samples that may be unusable before the run is stopped.
    batch_transforms: of training batches, each batch as one rank sees it.
    """

    train_split, valid_split, test_split = "train", "valid", "test"

    def __init__(
        self,
        *,
        batch_size: int,
        eval_batch_size: int | None = None,
        epoch_batches: int | None = None,
        accumulation: int | None = None,
        seed: int = 0,
        window: int = 16,
        num_workers: int = 0,
        pin_memory: bool | None = None,
        log_folder: str | Path | None = None,
        audit: bool = False,
        max_bad_ratio: float = 0.01,
        batch_transforms: Sequence[BatchTransform] = (),
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.epoch_batches = epoch_batches
        self.accumulation = accumulation
        self.seed = seed
        self.window = window
        self.num_workers = num_workers
        self.pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        self.log_folder = log_folder
        self.audit = audit
        self.max_bad_ratio = max_bad_ratio
        self.batch_transforms = list(batch_transforms)
        self._train_loader: StreamLoader | None = None
        self._book: Journal | None = None

    def source(self, split: str, *, training: bool) -> Source:
        """Where the samples of a split come from."""
        raise NotImplementedError

    @property
    def splits(self) -> Collection[str]:
        """Names of the splits that there are."""
        raise NotImplementedError

    def order(self, source: Source) -> Order:
        """The order of training on the samples of `source`."""
        return StreamOrder(source.counts, seed=self.seed, window=self.window)

    def setup(self, stage: str | None = None) -> None:
        """Refuses before any work what does not fit."""
        rank_batch_size(self.batch_size, self._ranks()[1], self._accumulation())

    def train_dataloader(self) -> StreamLoader:
        rank, world_size = self._ranks()
        source = self.source(self.train_split, training=True)
        order = self.order(source)
        accumulation = self._accumulation()
        steps = self.epoch_batches or max(1, len(order) // self.batch_size)
        # A trainer that asks again in the middle of a run goes on where it was.
        position = self._train_loader.position if self._train_loader is not None else 0
        self._train_loader = StreamLoader(
            StreamDataset(source, order, self.batch_transforms),
            self._journal(rank),
            batch_size=self.batch_size,
            num_batches=steps * accumulation,
            rank=rank,
            world_size=world_size,
            accumulation=accumulation,
            position=position,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            consumed=self._consumed(),
        )
        return self._train_loader

    def val_dataloader(self) -> EvalLoader | list[EvalLoader]:
        return self._eval_loader(self.valid_split)

    def test_dataloader(self) -> EvalLoader | list[EvalLoader]:
        return self._eval_loader(self.test_split)

    def whole_split(self, split: str) -> EvalLoader:
        """Every sample of a split once, in the order of the shards; for evaluation outside of a trainer."""
        loader = self._eval_loader(split)
        if isinstance(loader, list):
            raise FileNotFoundError(f"there is no split {split!r}, only {', '.join(self.splits)}")
        return loader

    def teardown(self, stage: str | None = None) -> None:
        if self._train_loader is not None:
            self._train_loader.close()

    def _eval_loader(self, split: str) -> EvalLoader | list[EvalLoader]:
        if split not in self.splits:
            return []  # Lightning's word for: nothing to validate on
        rank, world_size = self._ranks()
        source = self.source(split, training=False)
        # Seed 0 whatever the training's: every run is validated on the same excerpts.
        dataset = StreamDataset(source, StreamOrder(source.counts, seed=0, shuffle=False, window=self.window))
        return EvalLoader(
            dataset,
            self._journal(rank),
            batch_size=self.eval_batch_size,
            rank=rank,
            world_size=world_size,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
        )

    def _ranks(self) -> tuple[int, int]:
        """(rank, world size) among those that see different data: fewer than all under tensor parallelism."""
        sharing = self.trainer.distributed_sampler_kwargs if self.trainer is not None else None
        return (sharing["rank"], sharing["num_replicas"]) if sharing else (0, 1)

    def _accumulation(self) -> int:
        if self.accumulation is not None:
            return self.accumulation
        return self.trainer.accumulate_grad_batches if self.trainer is not None else 1

    def _consumed(self) -> Any:
        """Lightning's count of batches whose training step is over.

        Right also where a signal or an error saves amid a step: "given out" would be one too many.
        """
        trainer = self.trainer
        if trainer is None:
            return None
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress
        return lambda: progress.total.processed

    def _journal(self, rank: int) -> Journal:
        folder = self.log_folder
        if folder is None:
            folder = self.trainer.default_root_dir if self.trainer is not None else "."
        if self._book is None or self._book.folder != Path(folder):
            self._book = Journal(Path(folder), audit=self.audit, max_bad_ratio=self.max_bad_ratio, rank=rank)
        return self._book


class StreamDataModule(LoaderDataModule):
    """A dataset as loaders.

    path: of the dataset, with a folder per split; a URL or `pipe:` command where it is not on this machine, see
        `sharding.storage.folders.open_splits`.
    cache: for the files of such a remote one (None: `ShardCache()`).
    Other arguments: `LoaderDataModule`.
    """

    def __init__(self, path: str | Path, *, cache: ShardCache | None = None, **loaders: Any) -> None:
        super().__init__(**loaders)
        self.path = path if is_remote(path) else Path(path)
        self.cache = cache
        self._infos: dict[str, DatasetInfo] = {}

    @cached_property
    def splits(self) -> dict[str, Folder]:
        return open_splits(self.path, self.cache)

    def info(self, split: str = "train") -> DatasetInfo:
        """What a split's dataset.json says."""
        if split not in self._infos:
            self._infos[split] = load_info(self._folder(split))
        return self._infos[split]

    def _open(self, split: str, min_duration: float = 0.0) -> DatasetIndex:
        return DatasetIndex(self._folder(split), min_duration=min_duration, info=self.info(split))

    def _folder(self, split: str) -> Folder:
        if split not in self.splits:
            raise FileNotFoundError(f"{self.path} has no split {split!r}, only {', '.join(self.splits)}")
        return self.splits[split]
