"""Hearing and scoring a model while it trains: a few fixed prompts, or a few fixed clips, every so often."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import lightning as L
import torch
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from eval.clip_scores import clip_faults, clip_number
from eval.codebook_usage import CodebookUsage, usage_csv, usage_picture
from eval.in_training import Score, ScoredClips
from eval.language_model import perplexity
from lightning_audio.atomic import write_text
from lightning_audio.audio import write
from lightning_audio.batch import Attributes, AudioBatch, length_mask
from lightning_audio.conditioning.conditioning import attributes_of

log = logging.getLogger(__name__)


class Generator(Protocol):
    """The part of `TextToAudio` that sampling in training needs."""

    sample_rate: int

    def generate(self, descriptions: list[str], *, duration: float, seed: int) -> Tensor: ...


class GenerateSamples(L.Callback):
    """Generates each caption with a seed of its own, the same at every time, and keeps the audio.

    build: gives the generator for a task, such as `lambda task: TextToAudio(codec=codec, lm=task.model)`.
    captions: what to generate; the i-th with seed `seed + i`.   duration: of each, in seconds.
    every_n_batches: training batches between two times.
    max_seconds: no further caption is begun once a time has taken this long.
    folder: where the files go; `samples` in the trainer's folder unless given.

    All ranks generate, since a sharded model needs them all; rank 0 writes, and decides for all when to stop.
    The random state of training is left as it was. A task's averaged weights (`task.ema`) are used where it
    has them.
    """

    def __init__(
        self,
        *,
        build: Callable[[Any], Generator],
        captions: Sequence[str],
        seed: int = 0,
        duration: float = 5.0,
        every_n_batches: int = 1000,
        max_seconds: float = 60.0,
        folder: str | Path | None = None,
    ) -> None:
        super().__init__()
        if not captions:
            raise ValueError("GenerateSamples: no captions to generate")
        if every_n_batches < 1 or duration <= 0 or max_seconds <= 0:
            raise ValueError(
                f"GenerateSamples: every_n_batches is {every_n_batches}, duration {duration} s, "
                f"max_seconds {max_seconds} s; all must be positive"
            )
        self.build = build
        self.captions = list(captions)
        self.seed = seed
        self.duration = duration
        self.every_n_batches = every_n_batches
        self.max_seconds = max_seconds
        self.folder = folder
        self._batches = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._batches += 1
        if self._batches % self.every_n_batches == 0:
            self.generate(trainer, pl_module)

    def generate(self, trainer: L.Trainer, task: L.LightningModule) -> list[Path]:
        """Generates now; gives the files that this rank wrote."""
        folder = _folder(self.folder, trainer) / f"{self._batches:08d}"
        started = time.monotonic()
        paths: list[Path] = []
        with _listening(task):
            generator = self.build(task)
            for i, caption in enumerate(self.captions):
                wav = generator.generate([caption], duration=self.duration, seed=self.seed + i)[0]
                if trainer.is_global_zero and (
                    path := _write(folder / f"{i:02d}.wav", wav, generator.sample_rate)
                ):
                    paths.append(path)
                late = time.monotonic() - started > self.max_seconds
                if trainer.strategy.broadcast(late) and i + 1 < len(self.captions):
                    log.warning(
                        "samples: %d of %d captions in %.0f s, the rest is left out this time",
                        i + 1,
                        len(self.captions),
                        self.max_seconds,
                    )
                    break
        captions = [self.captions[int(path.stem)] for path in paths]
        _log_audio(trainer, "samples/generated", paths, captions)
        return paths

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self._batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._batches = state_dict["batches"]


class ReconstructSamples(L.Callback):
    """Reconstructs the first clips of the first validation batch at every n-th validation; keeps the audio.

    reconstruct: gives the codec's output for a task and clips [B, C, L]; by default `task.model(wav).wav`.
    num_clips: how many.   max_duration: seconds of each.   folder: `samples` in the trainer's folder unless
    given.
    """

    def __init__(
        self,
        *,
        reconstruct: Callable[[Any, Tensor], Tensor] = lambda task, wav: task.model(wav).wav,
        num_clips: int = 4,
        max_duration: float = 10.0,
        every_n_validations: int = 1,
        folder: str | Path | None = None,
    ) -> None:
        super().__init__()
        if num_clips < 1 or every_n_validations < 1 or max_duration <= 0:
            raise ValueError(
                f"ReconstructSamples: num_clips is {num_clips}, every_n_validations {every_n_validations}, "
                f"max_duration {max_duration} s; all must be positive"
            )
        self.reconstruct = reconstruct
        self.num_clips = num_clips
        self.max_duration = max_duration
        self.every_n_validations = every_n_validations
        self.folder = folder
        self._validations = 0

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx or dataloader_idx or trainer.sanity_checking:
            return
        self._validations += 1
        due = (self._validations - 1) % self.every_n_validations == 0
        if due and trainer.is_global_zero and isinstance(batch, AudioBatch) and batch.wav is not None:
            self._save(trainer, pl_module, batch)

    def _save(self, trainer: L.Trainer, task: L.LightningModule, batch: AudioBatch) -> None:
        assert batch.wav is not None
        wav = batch.wav[: self.num_clips, :, : round(self.max_duration * batch.sample_rate)]
        with _listening(task):
            output = self.reconstruct(task, wav)
        folder = _folder(self.folder, trainer)
        names = [f"{i:02d}" for i in range(len(wav))]
        # The originals do not change: one copy, beside the reconstructions of every time.
        if not (folder / "original").is_dir():
            for name, clip in zip(names, wav, strict=True):
                _write(folder / "original" / f"{name}.wav", clip, batch.sample_rate)
        now = folder / f"{self._validations:06d}"
        paths = [_write(now / f"{n}.wav", c, batch.sample_rate) for n, c in zip(names, output, strict=True)]
        written = [path for path in paths if path is not None]
        _log_audio(trainer, "samples/reconstructed", written, [batch.keys[int(p.stem)] for p in written])

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._validations = state_dict["validations"]


class ItemGenerator(Protocol):
    """The part of a generator that scoring in training needs."""

    sample_rate: int
    codec: Any

    def generate(self, *, attributes: list[Attributes], duration: float, seed: list[int]) -> Tensor: ...


@dataclass(frozen=True)
class _Item:
    """A clip of the validation set, on the CPU: what is asked for, and what it is itself."""

    key: str
    attributes: Attributes
    wav: Tensor | None = None  # [C, L]
    codes: Tensor | None = None  # [K, T]


class GenerateAndScore(L.Callback):
    """Generates for the first clips of the validation set at every n-th validation, and logs scores of what came.

    build: gives the generator for a task, such as `GeneratorOf`.
    scores: by name, logged as `score/<name>`, and so to be monitored by a `ModelCheckpoint`.
    num_items: clips, over all ranks; a clip's seed follows from `seed` and its key.   batch_size: of one rank.
    duration: of each, in seconds; the validation clip, its reference, is cut to that.
    max_seconds: what the first time takes at most, but for a batch and the scores. If it is too little, the
        clips that were done by then are those of all later times too.

    All ranks generate, each for the clips that it validates on, in as many batches as the others, since a sharded
    model needs them all. The random state of training is left as it was, averaged weights (`task.ema`) are used where
    there are some. Between two times the last values are logged again, so that a monitor finds them.
    """

    def __init__(
        self,
        *,
        build: Callable[[Any], ItemGenerator],
        scores: Mapping[str, Score],
        num_items: int = 64,
        batch_size: int = 8,
        duration: float = 5.0,
        seed: int = 0,
        every_n_validations: int = 1,
        max_seconds: float = 300.0,
    ) -> None:
        super().__init__()
        if not scores:
            raise ValueError("GenerateAndScore: no scores to take")
        if min(num_items, batch_size, every_n_validations) < 1 or duration <= 0 or max_seconds <= 0:
            raise ValueError(
                f"GenerateAndScore: num_items is {num_items}, batch_size {batch_size}, every_n_validations "
                f"{every_n_validations}, duration {duration} s, max_seconds {max_seconds} s; all must be positive"
            )
        self.build, self.scores = build, dict(scores)
        self.num_items, self.batch_size, self.duration, self.seed = num_items, batch_size, duration, seed
        self.every_n_validations, self.max_seconds = every_n_validations, max_seconds
        self._validations = 0
        self._num_batches: int | None = None  # of a rank; known after the first time
        self._values: dict[str, float] = {}
        self._items: list[_Item] = []

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.sanity_checking or dataloader_idx or not isinstance(batch, AudioBatch):
            return
        # The validation set is in the same order each time: once kept, its first clips stay as they are.
        wanted = len(range(trainer.global_rank, self.num_items, trainer.world_size)) - len(self._items)
        if wanted > 0:
            self._items += _items_of(batch)[:wanted]

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        if self._validations % self.every_n_validations == 0:
            with _listening(pl_module):
                self._values = self._score(trainer, pl_module)
        self._validations += 1
        pl_module.log_dict(
            {f"score/{name}": value for name, value in self._values.items()},
            rank_zero_only=False,
            batch_size=1,
        )

    def _score(self, trainer: L.Trainer, task: L.LightningModule) -> dict[str, float]:
        generator = self.build(task)
        generated = self._generate(trainer, generator)
        items = self._items[: len(generated)]
        clips = ScoredClips(
            keys=[item.key for item in items],
            texts=[item.attributes.get("description") for item in items],
            generated=generated,
            references=[self._reference(item, generator, task.device) for item in items],
            sample_rate=generator.sample_rate,
            codec=generator.codec,
            device=task.device,
        )
        broken = sum(
            bool(clip_faults(wav[None], [key])) for wav, key in zip(generated, clips.keys, strict=True)
        )
        values = {
            "num_clips": _sum(trainer, len(generated), task.device),
            "num_faulty": _sum(trainer, broken, task.device),  # not finite, or silent
        }
        for name, score in self.scores.items():
            try:
                values[name] = score(clips)
            except (
                ValueError
            ) as error:  # such as no usable clip at all: the training goes on, and the score says it
                log.warning("score/%s could not be taken: %s", name, error)
                values[name] = math.nan
        return values

    def _generate(self, trainer: L.Trainer, generator: ItemGenerator) -> list[Tensor]:
        """A clip [C, L] for each of this rank's items that there is time for."""
        started, generated = time.monotonic(), list[Tensor]()
        needed = -(-len(self._items) // self.batch_size)
        most = int(
            trainer.strategy.reduce(
                torch.tensor(needed, device=trainer.strategy.root_device), reduce_op="max"
            )
        )
        limit = most if self._num_batches is None else min(most, self._num_batches)
        for number in range(limit):
            part = self._items[number * self.batch_size : (number + 1) * self.batch_size]
            # A rank that has no more items takes part with one that is thrown away.
            asked = part or [_Item(key="", attributes={})]
            wavs = generator.generate(
                attributes=[item.attributes for item in asked],
                duration=self.duration,
                seed=[(self.seed + clip_number(item.key)) % (1 << 31) for item in asked],
            )
            generated += [wav.float().cpu() for wav in wavs[: len(part)]]
            late = time.monotonic() - started > self.max_seconds
            if self._num_batches is None and trainer.strategy.broadcast(late) and number + 1 < limit:
                log.warning(
                    "score: %.0f s are enough for %d of %d batches of %d clips; it stays at those",
                    self.max_seconds,
                    number + 1,
                    limit,
                    self.batch_size,
                )
                limit = number + 1
                break
        self._num_batches = limit
        return generated

    def _reference(self, item: _Item, generator: ItemGenerator, device: torch.device) -> Tensor:
        wav = item.wav
        if wav is None:
            assert item.codes is not None
            wav = generator.codec.decode(item.codes[None].to(device))[0].float().cpu()
        return wav[:, : round(self.duration * generator.sample_rate)]

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self._validations, "num_batches": self._num_batches, "values": self._values}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._validations, self._num_batches = state_dict["validations"], state_dict["num_batches"]
        self._values = state_dict["values"]


class CodebookPanel(L.Callback):
    """Logs at every validation how evenly the codes of each codebook are used, and now and then all of it.

    `codebooks/perplexity_q1`: how many codes are in use, effectively.   `codebooks/used_q1`: % that occur at all.
    Every n-th validation the counts go to `<folder>/<validation>.csv`, and a picture of them beside it and to W&B.

    codes: gives the codes [B, K, T] of a task and a batch; by default the batch's own, else what the task's codec makes
        of the audio.   max_batches: of a validation, on each rank.
    folder: `codebooks` in the trainer's folder unless given.
    """

    def __init__(
        self,
        *,
        codes: Callable[[Any, AudioBatch], Tensor] | None = None,
        every_n_validations: int = 1,
        max_batches: int = 50,
        folder: str | Path | None = None,
    ) -> None:
        super().__init__()
        if every_n_validations < 1 or max_batches < 1:
            raise ValueError(
                f"CodebookPanel: every_n_validations is {every_n_validations}, max_batches {max_batches}; "
                "both must be positive"
            )
        self.codes = codes or codes_of
        self.every_n_validations, self.max_batches, self.folder = every_n_validations, max_batches, folder
        self._validations = 0
        self._usage: CodebookUsage | None = None

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        model: Any = pl_module.model
        self._usage = CodebookUsage(model.num_codebooks, model.cardinality).to(pl_module.device)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx >= self.max_batches or dataloader_idx or not isinstance(batch, AudioBatch):
            return
        assert self._usage is not None
        with torch.no_grad():
            codes = self.codes(pl_module, batch)
        mask = None
        if batch.codes is not None and batch.num_frames is not None:
            mask = length_mask(batch.num_frames, codes.shape[-1])[:, None].expand_as(codes)
        self._usage.update(codes, mask)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or self._usage is None:
            return
        counts = self._usage.compute().cpu()
        used = 100.0 * (counts > 0).double().mean(1)
        values: dict[str, float] = {}
        for k, (effective, share) in enumerate(
            zip(perplexity(counts).tolist(), used.tolist(), strict=True), 1
        ):
            values |= {f"codebooks/perplexity_q{k}": effective, f"codebooks/used_q{k}": share}
        pl_module.log_dict(values, rank_zero_only=False, batch_size=1)
        if trainer.is_global_zero and self._validations % self.every_n_validations == 0:
            self._write(trainer, counts)
        self._validations += 1

    def _write(self, trainer: L.Trainer, counts: Tensor) -> None:
        folder = _folder(self.folder, trainer, "codebooks")
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{self._validations:06d}"
        write_text(folder / f"{name}.csv", usage_csv(counts))
        picture = folder / f"{name}.png"
        picture.write_bytes(usage_picture(counts))
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("codebooks/usage", [str(picture)], step=trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._validations = state_dict["validations"]


def codes_of(task: Any, batch: AudioBatch) -> Tensor:
    """The batch's codes [B, K, T], or those that the task's model, a codec, makes of its audio."""
    if batch.codes is not None:
        return batch.codes
    if batch.wav is None or not hasattr(task.model, "encode"):
        raise ValueError(
            f"CodebookPanel: the batch has no codes, and {type(task.model).__name__} makes none of audio"
        )
    codes: Tensor = task.model.encode(batch.wav).codes
    return codes


def _items_of(batch: AudioBatch) -> list[_Item]:
    """The clips of a batch, one by one and without padding, on the CPU."""
    items = []
    for row, attributes in enumerate(attributes_of(batch.to("cpu"))):
        wav = None if batch.wav is None else batch.wav[row].cpu()
        codes = None if batch.codes is None else batch.codes[row].cpu()
        if wav is not None and batch.num_samples is not None:
            wav = wav[:, : int(batch.num_samples[row])]
        if codes is not None and batch.num_frames is not None:
            codes = codes[:, : int(batch.num_frames[row])]
        items.append(_Item(batch.keys[row], attributes, wav, codes))
    return items


def _sum(trainer: L.Trainer, number: int, device: torch.device) -> float:
    return float(trainer.strategy.reduce(torch.tensor(float(number), device=device), reduce_op="sum"))


@contextmanager
def _listening(task: L.LightningModule) -> Iterator[None]:
    """Evaluation mode, averaged weights, no gradients; afterwards each part is in the mode it was in.

    `no_grad` and not `inference_mode`: a tensor that a module caches here must still be good in training.
    """
    modes = [(module, module.training) for module in task.modules()]
    ema = getattr(task, "ema", None)
    devices = [task.device] if task.device.type == "cuda" else []
    try:
        task.eval()
        averaged = ema.average_weights() if ema is not None else nullcontext()
        with averaged, torch.no_grad(), torch.random.fork_rng(devices=devices):
            yield
    finally:
        for module, training in modes:
            module.training = training


def _folder(folder: str | Path | None, trainer: L.Trainer, name: str = "samples") -> Path:
    if folder is not None:
        return Path(folder)
    return Path(trainer.log_dir or trainer.default_root_dir) / name


def _write(path: Path, wav: Tensor, sample_rate: int) -> Path | None:
    """Writes one clip [C, L]; one that is not finite is said, and not written."""
    if not wav.isfinite().all():
        log.warning("samples: %s holds samples that are not finite and is not written", path)
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, wav.detach().float().cpu(), sample_rate)
    return path


def _log_audio(trainer: L.Trainer, key: str, paths: list[Path], captions: list[str]) -> None:
    """Sends the files to W&B where a run logs there."""
    for logger in trainer.loggers:
        if paths and isinstance(logger, WandbLogger):
            logger.log_audio(key, [str(path) for path in paths], step=trainer.global_step, caption=captions)
