"""Encoding under Lightning's predict loop, on as many devices as there are."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import lightning as L
import torch
from torch.utils.data import DataLoader

from lightning_audio.codec.encodec import EnCodec
from sharding.encoding.clips import ClipBatch, ClipDataset, SourceShard
from sharding.encoding.encoders import Encoders
from sharding.parallel import Progress
from sharding.read import read_part
from sharding.schema import is_numbered
from sharding.writing.prepare import Skipped
from sharding.writing.receipts import Partial
from sharding.writing.shard import ShardWriter, WrittenShard


class EncodeTask(L.LightningModule):
    """Encodes this rank's share of the shards, each whole; a shard that is done leaves its receipt.

    shards: all of the dataset. Every n-th is this rank's, of all ranks of all parts.
    keep_audio: copy the audio itself, too; other parts are copied always, unless they are made anew.
    part: (i, n), of several jobs.  progress: counts clips of the first rank.
    """

    def __init__(
        self,
        shards: Sequence[SourceShard],
        partial: Partial,
        encoders: Encoders,
        *,
        keep_audio: bool,
        batch_size: int,
        num_workers: int,
        part: tuple[int, int],
        progress: Progress | None,
    ) -> None:
        super().__init__()
        self.shards, self.partial, self.encoders = shards, partial, encoders
        self.keep_audio, self.batch_size, self.num_workers = keep_audio, batch_size, num_workers
        self.part = part
        # Registered, so that Lightning brings it to the device.
        self.codec = encoders.codec if isinstance(encoders.codec, torch.nn.Module) else None
        # More ranks than shards: some have nothing to do.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self._report = progress or (lambda done, total: None)
        self._own: list[SourceShard] = []
        self._made: dict[int, dict[str, bytes]] = {}
        self._skipped: list[Skipped] = []
        self._done = self._total = 0

    def predict_dataloader(self) -> DataLoader[ClipBatch]:
        """What is left of this rank's share. Shares do not depend on what is done: ranks may look at other times."""
        (part, parts), trainer = self.part, self.trainer
        share = self.shards[part * trainer.world_size + trainer.global_rank :: parts * trainer.world_size]
        self._own = [shard for shard in share if self.partial.receipt(shard) is None]
        clips = ClipDataset(self._own, self.encoders.wanted, batch_size=self.batch_size)
        self._total = sum(len(shard.index()) for shard in share)
        self._done = self._total - sum(len(samples) for _, samples, _ in clips.batches)
        self._tell(0)
        return DataLoader(
            clips,
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=trainer.strategy.root_device.type == "cuda",
        )

    def on_predict_start(self) -> None:
        """The codec in the form that is fastest where it has come to."""
        for module in self.modules():
            if isinstance(module, EnCodec):
                module.prepare_for_inference()

    def predict_step(self, batch: ClipBatch, batch_idx: int) -> int:
        """The number of clips encoded."""
        self._made |= self.encoders(batch.clips, self.device)
        self._skipped += [Skipped(key, reason) for key, reason in batch.skipped]
        if batch.last:
            self._write(self._own[batch.shard])
        self._tell(len(batch.clips) + len(batch.skipped))
        return len(batch.clips)

    def _write(self, shard: SourceShard) -> None:
        with self.partial.work(shard) as folder:
            written = self._written(shard, folder / shard.name)
            if written.info:
                self.partial.take(folder / shard.name, shard)
            self.partial.sign(shard, written)
        self._made, self._skipped = {}, []

    def _written(self, shard: SourceShard, path: Path) -> WrittenShard:
        """The samples of the source that could be encoded, in its order."""
        index, codec = shard.index(), self.encoders.codec
        remade = [feature.name for feature in self.encoders.features] + ["codes"] * (codec is not None)
        kept = [part for part in index.parts if not any(is_numbered(part, name) for name in remade)]
        with shard.source.open("rb") as file, ShardWriter(path) as writer:
            for sample in sorted(self._made):
                audio = None if self.keep_audio else index.audio_part(sample)
                parts: dict[str, bytes | BinaryIO] = {
                    part: read_part(file, index, sample, part)
                    for part in kept
                    if part != audio and index.parts[part][sample, 1] >= 0
                }
                rate, channels = int(index.sample_rates[sample]), int(index.channels[sample])
                num_samples = int(index.num_samples[sample])
                if codec is not None:  # what the codes stand for
                    rate, channels = codec.sample_rate, codec.channels
                    num_samples = round(index.durations[sample] * rate)
                writer.add(index.keys[sample], parts | self._made[sample], num_samples, rate, channels)
        return writer.finish(self._skipped)

    def _tell(self, count: int) -> None:
        self._done += count
        if self.trainer.is_global_zero:
            self._report(self._done, self._total)


def run(task: EncodeTask, *, accelerator: str, devices: int | str, num_nodes: int) -> None:
    """On each of the devices of each of the nodes a share; done when all are."""
    trainer = L.Trainer(
        accelerator=accelerator,
        devices=devices,
        num_nodes=num_nodes,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    with warnings.catch_warnings():
        # A job of many may have no shard of its own, and one that goes on none that is left.
        warnings.filterwarnings("ignore", message="Total length of `DataLoader` across ranks is zero")
        try:
            trainer.predict(task, return_predictions=False)
        except SystemExit as error:  # what Lightning makes of an interruption
            raise KeyboardInterrupt from error
    trainer.strategy.barrier("encode")
