"""Teaching a language model over codes: what goes into a step, and what a resumed run must not forget."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_audio.batch import AudioBatch
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.codec.stereo import StereoFromMono
from lightning_audio.conditioning.augmentation import merge_text
from lightning_audio.conditioning.base import FusedConditions
from lightning_audio.conditioning.conditioning import attributes_of, with_own_audio
from lightning_audio.conditioning.dropout import drop_conditions
from lightning_audio.hashing import weights_hash
from lightning_audio.lm.loss import CodebookLoss
from lightning_audio.lm.token_lm import TokenLM
from lightning_audio.optim import EMA, parameter_groups


class OnItsWay:
    """A number that is copied to the host while the device goes on with what is queued behind it."""

    def __init__(self, number: Tensor) -> None:
        self._copy = number.detach().to("cpu", non_blocking=number.is_cuda)  # into pinned memory
        self._arrived: torch.cuda.Event | None = None
        if number.is_cuda:
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(number.device))

    def value(self) -> float:
        """Waits for the copy, and for nothing that was queued after it."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._copy.item()


class TokenLMTask(L.LightningModule):
    """Cross-entropy of the next step's codes, given the conditions or, now and then, none.

    model: what learns, and all that the checkpoint holds of weights.
    codec: makes codes of batches that have only audio. It is frozen and no part of this module: not in the
        checkpoint, whose codec is named by `codec_hash`.
    optimizer: parameter groups -> optimiser.   schedule: optimiser -> schedule, stepped along with it.
    weight_decay: of the parameter groups.   decay_vectors: of biases and norms too, as AudioCraft does.
    cfg_dropout: share of steps without any condition.   attribute_dropout: attribute -> share without it.
    per_item_dropout: whether that is drawn for each item, or once for the batch as in AudioCraft.
    self_conditions: attributes that are the clip's own audio where it has none there: its melody, its style.
    merge_fields: attributes that are, now and then, written into the description (MusicGen's text merging).
    ema_decay, ema_every: of the averaged weights, which validate and are what `load` gives; None: no average.
    seed: of the dropouts.
    """

    def __init__(
        self,
        *,
        model: TokenLM,
        optimizer: Callable[..., Optimizer],
        schedule: Callable[[Optimizer], LRScheduler] | None = None,
        codec: EnCodec | StereoFromMono | None = None,
        weight_decay: float = 0.1,
        decay_vectors: bool = True,
        cfg_dropout: float = 0.3,
        attribute_dropout: Mapping[str, float] | None = None,
        per_item_dropout: bool = False,
        self_conditions: Sequence[str] = (),
        merge_fields: Sequence[str] = (),
        ema_decay: float | None = 0.99,
        ema_every: int = 10,
        seed: int = 1234,
    ) -> None:
        super().__init__()
        if codec is not None and (codec.num_codebooks, codec.cardinality) != (
            model.num_codebooks,
            model.cardinality,
        ):
            raise ValueError(
                f"the codec has {codec.num_codebooks} codebooks of {codec.cardinality} codes, "
                f"the language model {model.num_codebooks} of {model.cardinality}"
            )
        self.model = model.train()
        self.ema = None if ema_decay is None else EMA(model, decay=ema_decay, every=ema_every)
        self.make_optimizer, self.make_schedule = optimizer, schedule
        self.weight_decay, self.decay_vectors = weight_decay, decay_vectors
        self.cfg_dropout, self.attribute_dropout = cfg_dropout, attribute_dropout
        self.per_item_dropout, self.merge_fields = per_item_dropout, list(merge_fields)
        if unknown := sorted(set(self_conditions) - set(model.conditioning.conditioners)):
            raise ValueError(
                f"self_conditions {unknown} are none of the model's, {sorted(model.conditioning.conditioners)}"
            )
        self.self_conditions = list(self_conditions)
        self.generator = torch.Generator().manual_seed(seed)  # of conditions, the same on all ranks
        self.rng = random.Random(seed)  # of texts: merged, words left out
        self.seed = seed
        self._codec = [] if codec is None else [codec.eval().requires_grad_(False)]  # in a list: no submodule
        if codec is not None:
            # A style may be heard by its codes, in mono.
            model.conditioning.use_codec(codec.codec if isinstance(codec, StereoFromMono) else codec)
        self._codec_hash = None if codec is None else weights_hash(codec)
        self._averaged: AbstractContextManager[None] | None = None

    @property
    def codec_hash(self) -> str | None:
        """Which codec makes the codes of this task; None where they come ready made."""
        return self._codec_hash

    def training_step(self, batch: AudioBatch, batch_idx: int) -> Tensor:
        result = self._loss(batch, batch_idx, training=True)
        self._read_loss = OnItsWay(result.loss)
        self._log("train", result, len(batch))
        return result.loss

    def on_after_backward(self) -> None:
        """Stops at a loss that is no number, before it reaches a weight.

        Here and not in `training_step`: the backward pass is queued, so that a GPU has work while the host waits
        for the loss.
        """
        loss = self._read_loss.value()
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {self.global_step}")

    def validation_step(self, batch: AudioBatch, batch_idx: int) -> None:
        self._log("valid", self._loss(batch, batch_idx, training=False), len(batch))

    def configure_optimizers(self) -> Any:
        groups = parameter_groups(
            self.model, weight_decay=self.weight_decay, decay_vectors=self.decay_vectors
        )
        optimizer = self.make_optimizer(groups)
        if self.make_schedule is None:
            return optimizer
        schedule = {"scheduler": self.make_schedule(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:
            self.ema.update()

    def on_train_start(self) -> None:
        if self.global_step == 0 and self.global_rank > 0:
            # Each rank leaves out other words. All drop the same conditions, unless each item is for itself.
            self.rng.seed(self.seed + self.global_rank)
            if self.per_item_dropout:
                self.generator.manual_seed(self.seed + self.global_rank)

    def on_validation_epoch_start(self) -> None:
        if self.ema is not None:
            self._averaged = self.ema.average_weights()
            self._averaged.__enter__()

    def on_validation_epoch_end(self) -> None:
        if self._averaged is not None:
            self._averaged.__exit__(None, None, None)
            self._averaged = None

    def random_state(self) -> tuple[Any, ...]:
        """All that this rank's next random numbers follow from."""
        return self.generator.get_state(), self.rng.getstate()

    def set_random_state(self, state: tuple[Any, ...]) -> None:
        self.generator.set_state(state[0].cpu())
        self.rng.setstate(state[1])

    def start_random_state(self, state: tuple[Any, ...], global_step: int) -> None:
        """For a rank that was not there before: what all ranks share, and a sequence that none has had."""
        self.generator.set_state(state[0].cpu())
        self.rng.seed(f"{self.seed} {self.global_rank} {global_step}")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the averages, the codec's hash, and all ranks' random states (Lightning keeps rank 0's).

        FloatingPointError on all ranks where a weight is no number: a gradient can be none though the loss was.
        """
        ranks: list[Any] = [(self.random_state(), is_finite(self.model))]
        if dist.is_initialized():
            own = ranks[0]
            ranks = [None] * dist.get_world_size()
            dist.all_gather_object(ranks, own)
        states, finite = zip(*ranks, strict=True)
        if not all(finite):
            raise FloatingPointError(f"not saved: weights are not finite at step {self.global_step}")
        checkpoint["dropout_states"] = list(states)
        checkpoint["codec_hash"] = self.codec_hash
        if self.ema is not None:
            checkpoint["ema"] = self.ema.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        made, here = checkpoint["codec_hash"], self.codec_hash
        if made is not None and here is not None and made != here:
            raise ValueError(
                f"the checkpoint was trained with codec {made[:12]}, this run has codec {here[:12]}"
            )
        states = checkpoint["dropout_states"]
        if self.global_rank < len(states):
            self.set_random_state(states[self.global_rank])
        else:  # more ranks than before
            self.start_random_state(states[0], checkpoint["global_step"])
        if self.ema is not None and "ema" in checkpoint:
            self.ema.load_state_dict(checkpoint["ema"])

    def _loss(self, batch: AudioBatch, batch_idx: int, *, training: bool) -> CodebookLoss:
        codes, num_frames = self._codes(batch)
        prepared = self._prepared(batch, training=training)
        counted = self.model.conditioning.counted(prepared, codes.shape[-1])
        if counted is not None:
            counted = counted.to(codes.device)
        return self.model.loss(codes, self._fused(prepared, codes), num_frames=num_frames, counted=counted)

    def _conditions(self, batch: AudioBatch, codes: Tensor, *, training: bool) -> FusedConditions:
        return self._fused(self._prepared(batch, training=training), codes)

    def _prepared(self, batch: AudioBatch, *, training: bool) -> dict[str, dict[str, Tensor]]:
        """The batch's attributes for the conditioners; in training some of them are merged or dropped."""
        attributes = attributes_of(batch)
        if training and self.merge_fields:
            attributes = [merge_text(item, fields=self.merge_fields, rng=self.rng) for item in attributes]
        attributes = with_own_audio(attributes, batch, self.self_conditions)
        if training:
            attributes = drop_conditions(
                attributes,
                cfg_dropout=self.cfg_dropout,
                attribute_dropout=self.attribute_dropout,
                generator=self.generator,
                per_item=self.per_item_dropout,
                keep=self.model.conditioning.kept,
            )
        return self.model.conditioning.prepare(attributes, rng=self.rng)

    def _fused(self, prepared: Mapping[str, Mapping[str, Tensor]], codes: Tensor) -> FusedConditions:
        conditioning = self.model.conditioning
        length = self.model.pattern.num_training_steps(codes.shape[-1])
        return conditioning.fuse(conditioning.encode(prepared), length=length)

    @torch.no_grad()
    def _codes(self, batch: AudioBatch) -> tuple[Tensor, Tensor | None]:
        """Codes [B, K, T] and how many frames of each are audio and not padding [B]."""
        if batch.codes is not None:
            return batch.codes, batch.num_frames
        if batch.wav is None or not self._codec:
            raise ValueError("this batch has no codes, and the task no codec to make them of its audio")
        codec = self._codec[0].to(self.device)
        if batch.sample_rate != codec.sample_rate:
            raise ValueError(
                f"the batch is {batch.sample_rate} Hz audio, the codec wants {codec.sample_rate} Hz"
            )
        with torch.autocast(self.device.type, enabled=False):
            codes = codec.encode(batch.wav).codes
        # The frame that a clip ends in is half padding, and not counted.
        num_frames = None if batch.num_samples is None else batch.num_samples // codec.hop_length
        return codes, num_frames

    def _log(self, stage: str, result: CodebookLoss, batch_size: int) -> None:
        """Loss and perplexity, over all and of each codebook; in validation means over the whole split."""
        each = stage == "valid"
        values = {"loss": result.loss.detach(), "perplexity": result.loss.detach().exp()}
        for k, loss in enumerate(result.per_codebook, start=result.first_codebook + 1):
            values[f"cross_entropy_q{k}"] = loss
            values[f"perplexity_q{k}"] = loss.exp()
        self.log_dict(
            {f"{stage}/{name}": value for name, value in values.items()},
            prog_bar=False,
            on_step=not each,
            on_epoch=each,
            batch_size=int(result.num_tokens.sum()) if each else batch_size,
            sync_dist=each,
        )


def is_finite(model: nn.Module) -> bool:
    """Whether all weights that this rank holds are numbers; waits for the device."""
    weights = [p.to_local() if isinstance(p, DTensor) else p for p in model.parameters()]
    return bool(torch.stack([weight.isfinite().all() for weight in weights]).all())
