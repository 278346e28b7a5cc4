"""Teaching one band of a multi-band diffusion: to find the noise in its audio, given the latents of its codes."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_audio.batch import AudioBatch
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.diffusion.band import BandDiffusion, TrainingItem
from lightning_audio.hashing import weights_hash
from lightning_audio.optim import EMA


@dataclass(frozen=True)
class Outcome:
    """What a step found out: estimate [B, C, L] of the noise in `item`, and mean squared errors [B].

    error: of the estimate.   naive: of taking the noisy audio itself for the noise.
    """

    item: TrainingItem
    estimate: Tensor
    error: Tensor
    naive: Tensor


class DiffusionTask(L.LightningModule):
    """Mean squared error of the noise that the network finds in its band of the audio.

    model: what learns, and all that the checkpoint holds of weights.
    codec: makes the condition, from the batch's codes where it has them beside its audio, else from the audio. It
        is frozen and no part of this module: not in the checkpoint, which knows it by its hash.
    optimizer: from parameters.   schedule: of the learning rate, stepped along with the optimiser.
    num_codebooks: of the codes that the condition is made of; None: all that the codec has in use.
    ema_decay: of the averaged weights, which validate and are what `load` gives; None: no average.
    num_stages: parts of the chain whose losses are logged by themselves; stage 0 has the least noise.
    seed: of noise levels and noise. The generator's state is in the checkpoint, one for each rank.
    """

    def __init__(
        self,
        *,
        model: BandDiffusion,
        codec: EnCodec,
        optimizer: Callable[..., Optimizer],
        schedule: Callable[[Optimizer], LRScheduler] | None = None,
        num_codebooks: int | None = None,
        ema_decay: float | None = 0.99,
        num_stages: int = 4,
        seed: int = 1234,
    ) -> None:
        super().__init__()
        for what, ours, codecs in (
            ("sample_rate", model.sample_rate, codec.sample_rate),
            ("channels", model.network.channels, codec.channels),
            ("width of the condition", model.network.condition_dim, codec.quantizer.dim),
        ):
            if ours != codecs:
                raise ValueError(f"the band has {what} {ours}, the codec {codecs}")
        if codec.normalize:
            raise ValueError("the codec normalises volume: its codes alone do not say the audio")
        self.model = model.train()
        # Of the network alone: the processor's running sums are no weights, and their average would be wrong.
        self.ema = (
            None if ema_decay is None else EMA(nn.ModuleDict({"network": model.network}), decay=ema_decay)
        )
        self.make_optimizer, self.make_schedule = optimizer, schedule
        self.num_codebooks = num_codebooks or codec.num_codebooks
        self.num_stages, self.seed = num_stages, seed
        self.generator = torch.Generator().manual_seed(seed)
        self._validation_generator = torch.Generator()
        self._codec = [codec.eval().requires_grad_(False)]  # in a list: no submodule
        self._codec_hash = weights_hash(codec)
        self._averaged: AbstractContextManager[None] | None = None

    @property
    def codec_hash(self) -> str:
        """Which codec the condition is made with."""
        return self._codec_hash

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.model.parameters())
        if self.make_schedule is None:
            return optimizer
        schedule = {"scheduler": self.make_schedule(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:
            self.ema.update()

    def on_fit_start(self) -> None:
        codes_info = getattr(getattr(self.trainer, "datamodule", None), "codes_info", None)
        if codes_info is not None and codes_info().codec_hash != self.codec_hash:
            raise ValueError(
                f"the codes were made by codec {codes_info().codec_hash[:12]}, this task has {self.codec_hash[:12]}"
            )

    def on_train_start(self) -> None:
        if self.global_step == 0:
            self.generator.manual_seed(self.seed + self.global_rank)  # each rank has noise of its own

    def training_step(self, batch: AudioBatch, batch_idx: int) -> Tensor:
        outcome = self._outcome(batch, self.generator, learn=True)
        loss = outcome.error.mean()
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"the loss is {loss.item()} at step {self.global_step}")
        self._log_outcome("train", outcome)
        return loss

    def on_validation_epoch_start(self) -> None:
        self._validation_generator.manual_seed(self.seed + self.global_rank)  # the same noise every time
        if self.ema is not None:
            self._averaged = self.ema.average_weights()
            self._averaged.__enter__()

    def validation_step(self, batch: AudioBatch, batch_idx: int) -> None:
        self._log_outcome("valid", self._outcome(batch, self._validation_generator, learn=False))

    def on_validation_epoch_end(self) -> None:
        if self._averaged is not None:
            self._averaged.__exit__(None, None, None)
            self._averaged = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the averages, the codec's hash, and all ranks' random states (Lightning keeps rank 0's)."""
        states: list[Any] = [self.generator.get_state()]
        if dist.is_initialized():
            own = states[0]
            states = [None] * dist.get_world_size()
            dist.all_gather_object(states, own)
        checkpoint["noise_states"] = states
        checkpoint["codec_hash"] = self.codec_hash
        if self.ema is not None:
            checkpoint["ema"] = self.ema.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if checkpoint["codec_hash"] != self.codec_hash:
            raise ValueError(
                f"the checkpoint was trained with codec {checkpoint['codec_hash'][:12]}, "
                f"this run has codec {self.codec_hash[:12]}"
            )
        states = checkpoint["noise_states"]
        if self.global_rank < len(states):
            self.generator.set_state(states[self.global_rank].cpu())
        else:  # more ranks than before: the new ones begin a sequence that none has had
            self.generator.manual_seed(self.seed + self.global_rank + (checkpoint["global_step"] << 20))
        if self.ema is not None and "ema" in checkpoint:
            self.ema.load_state_dict(checkpoint["ema"])

    def _outcome(self, batch: AudioBatch, generator: torch.Generator, *, learn: bool) -> Outcome:
        wav = self._wav(batch)
        condition = self._condition(batch, wav)
        item = self.model.training_item(self.model.band_of(wav), learn=learn, generator=generator)
        estimate = self.model.network(item.noisy, item.step, condition)
        error, naive = (
            (guess.float() - item.noise).square().mean(dim=(1, 2)) for guess in (estimate, item.noisy)
        )
        return Outcome(item, estimate.detach(), error, naive)

    def _wav(self, batch: AudioBatch) -> Tensor:
        if batch.wav is None:
            raise ValueError("a band learns from audio; the batch holds none")
        if batch.sample_rate != self.model.sample_rate:
            raise ValueError(
                f"the batch is {batch.sample_rate} Hz, the band wants {self.model.sample_rate} Hz"
            )
        return batch.wav

    @torch.no_grad()
    def _condition(self, batch: AudioBatch, wav: Tensor) -> Tensor:
        """The latents [B, D, T] of the first `num_codebooks` codebooks."""
        codec = self._codec[0].to(self.device)
        with torch.autocast(self.device.type, enabled=False):
            codes = batch.codes
            if codes is None:
                codes = codec.encode(wav, num_codebooks=self.num_codebooks).codes
            if codes.shape[1] < self.num_codebooks:
                raise ValueError(
                    f"the codes have {codes.shape[1]} codebooks, the band learns from {self.num_codebooks}"
                )
            return codec.decode_latent(codes[:, : self.num_codebooks])

    def _log_outcome(self, stage: str, outcome: Outcome) -> None:
        """The loss, over all and by stages of the chain; in validation means over the whole split."""
        error, naive = outcome.error.detach(), outcome.naive
        values = {
            "loss": error.mean(),
            "normed_loss": (error / naive).mean(),
            "std_in": outcome.item.noisy.std(),
            "std_out": outcome.estimate.std(),
        }
        each = stage == "valid"
        options: dict[str, Any] = {"on_step": not each, "on_epoch": each, "sync_dist": each}
        self.log_dict(
            {f"{stage}/{name}": value for name, value in values.items()}, batch_size=len(error), **options
        )
        if each:  # the stages of a rank's batch may be empty, so ranks would wait for each other
            return
        part = outcome.item.step * self.num_stages // self.model.schedule.num_steps
        for index in part.unique().tolist():
            mine = part == index
            losses = {
                f"{stage}/loss_{index}": error[mine].mean(),
                f"{stage}/normed_loss_{index}": (error / naive)[mine].mean(),
            }
            self.log_dict(losses, batch_size=len(error), **options)
