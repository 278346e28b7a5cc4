"""Teaches a codec: the generator and its discriminators, one step of each in turn (see `gan`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_audio.batch import AudioBatch
from lightning_audio.codec.adversarial import AdversarialLoss, FeatureMatchingLoss, HingeLoss
from lightning_audio.codec.balancer import Balancer
from lightning_audio.codec.discriminators import at_bandwidth
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.codec.gan import Losses, discriminator_objectives, generator_gradients
from lightning_audio.codec.losses import MelLoss, si_sdr
from lightning_audio.optim import EMA

OptimizerFactory = Callable[..., Optimizer]


class CodecTask(L.LightningModule):
    """Trains an `EnCodec` against discriminators.

    discriminators, reconstruction: by name; a `DiscriminatorPerBandwidth` judges with the one that a batch is for.
    balancer: has a weight for each reconstruction loss, "adv" and "feat";
        a reconstruction loss without a weight is not computed in training.
    optimizer, discriminator_optimizer: from parameters; the second is like the first unless given.
    schedule: from the generator's optimiser, stepped after each of its steps.
    penalty_weight: of the commitment, which is outside the balancer.
    discriminator_probability: how often the discriminators are updated (the paper: 2/3 at 24 kHz, 1/2 at 48 kHz).
    adversarial_after: steps of reconstruction alone, before the discriminators join.
    accumulate: pieces in which a batch goes through, for less memory; the codebooks, the balancer and the clipping
        see the whole batch, so the step is that of the large batch. The generator is run once more for it.
    gradient_clip: largest norm of the generator's and of the discriminators' gradient, None for any.
    ema_decay: of the weights' average, which validation and the finished model use; None for no average.
    seed: of what is drawn within a step (discriminator updates, quantiser dropout, k-means, revived codes). The
        generator's state is in the checkpoint, and is the same on all ranks.

    Manual optimisation: the trainer's own accumulation and clipping do not apply. `trainer.global_step` counts
    generator steps, since the discriminators' optimiser is stepped past Lightning's counter. Under DDP use
    `find_unused_parameters=True`: each backward pass reaches one side only.
    """

    def __init__(
        self,
        *,
        model: EnCodec,
        discriminators: Mapping[str, nn.Module],
        reconstruction: Mapping[str, nn.Module],
        balancer: Balancer,
        optimizer: OptimizerFactory,
        discriminator_optimizer: OptimizerFactory | None = None,
        schedule: Callable[[Optimizer], LRScheduler] | None = None,
        adversarial: AdversarialLoss | None = None,
        matching: FeatureMatchingLoss | None = None,
        penalty_weight: float = 1.0,
        discriminator_probability: float = 1.0,
        adversarial_after: int = 0,
        accumulate: int = 1,
        gradient_clip: float | None = None,
        ema_decay: float | None = 0.99,
        seed: int = 1234,
    ) -> None:
        super().__init__()
        expected = {*reconstruction, *(("adv", "feat") if discriminators else ())}
        if unknown := sorted(set(balancer.weights) - expected):
            raise ValueError(f"the balancer has weights for {unknown}; the losses are {sorted(expected)}")
        if discriminators and (missing := sorted({"adv", "feat"} - set(balancer.weights))):
            raise ValueError(f"with discriminators the balancer needs weights for {missing}")
        if not 0 <= discriminator_probability <= 1 or accumulate < 1:
            raise ValueError(
                f"want a discriminator_probability in [0, 1] and accumulate of at least 1, got "
                f"{discriminator_probability} and {accumulate}"
            )
        self.automatic_optimization = False
        self.model = model
        self.discriminators = nn.ModuleDict(discriminators)
        self.reconstruction = nn.ModuleDict(reconstruction)
        self.balancer = balancer
        self.mel = MelLoss(sample_rate=model.sample_rate)
        self.optimizer, self.schedule = optimizer, schedule
        self.discriminator_optimizer = discriminator_optimizer or optimizer
        self.adversarial = adversarial or HingeLoss()
        self.matching = matching or FeatureMatchingLoss()
        self.penalty_weight = penalty_weight
        self.discriminator_probability = discriminator_probability
        self.adversarial_after = adversarial_after
        self.accumulate = accumulate
        self.gradient_clip = gradient_clip
        self.ema = EMA(model, decay=ema_decay) if ema_decay is not None else None
        self.generator = torch.Generator().manual_seed(seed)
        self._validation = ExitStack()

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LRScheduler]]:
        optimizers = [self.optimizer(self.model.parameters())]
        if self.discriminators:
            optimizers.append(self.discriminator_optimizer(self.discriminators.parameters()))
        return optimizers, [self.schedule(optimizers[0])] if self.schedule is not None else []

    def training_step(self, batch: AudioBatch, batch_idx: int) -> None:
        wav = self._wav(batch)
        optimizers = self.optimizers()
        pair = optimizers if isinstance(optimizers, list) else [optimizers]
        decoded = self.model(wav, generator=self.generator, parts=self.accumulate)
        judges = {}
        if self.global_step >= self.adversarial_after:
            judges = at_bandwidth(dict(self.discriminators.items()), decoded.codes.shape[1])
        logs: Losses = {}
        if judges and self._draw() < self.discriminator_probability:
            logs |= self._step_discriminators(judges, pair[1], decoded.wav, wav)
        losses = generator_gradients(
            {name: loss for name, loss in self.reconstruction.items() if name in self.balancer.weights},
            judges,
            self.adversarial,
            self.matching,
            decoded.wav,
            wav,
            parts=self.accumulate,
        )
        logs |= losses.values | {"penalty": decoded.penalty.detach()}
        self._refuse_not_finite(logs)  # before the balancer, whose averages would keep it
        balanced = self.balancer(losses.gradients)
        pair[0].zero_grad()
        # One backward pass: d(this) / d(decoded) is the balanced gradient.
        self.manual_backward((decoded.wav * balanced.gradient).sum() + self.penalty_weight * decoded.penalty)
        logs["gradient_norm"] = self._clip(self.model)
        self._refuse_not_finite(logs)
        pair[0].step()
        if isinstance(schedule := self.lr_schedulers(), LRScheduler):
            schedule.step()
        if self.ema is not None:
            self.ema.update()
        logs |= {f"scale_{name}": value for name, value in balanced.scales.items()}
        self._log_training(logs, balanced.shares, len(batch))

    def _step_discriminators(
        self, judges: Mapping[str, nn.Module], optimizer: Any, fake: Tensor, real: Tensor
    ) -> Losses:
        objectives = discriminator_objectives(judges, self.adversarial, fake, real, parts=self.accumulate)
        raw = optimizer.optimizer  # Lightning's wrapper would count this as a step of its own
        raw.zero_grad()
        self.manual_backward(torch.stack(list(objectives.values())).sum())
        logs = {f"discriminator_{name}": value.detach() for name, value in objectives.items()}
        logs["discriminator_gradient_norm"] = self._clip(self.discriminators)
        self._refuse_not_finite(logs)
        raw.step()
        return logs

    def _clip(self, module: nn.Module) -> Tensor:
        """The norm of the module's gradient, which is no longer than `gradient_clip` after."""
        return nn.utils.clip_grad_norm_(module.parameters(), self.gradient_clip or float("inf"))

    def _log_training(self, logs: Losses, shares: Losses, batch_size: int) -> None:
        perplexity, used = self.model.quantizer.codebooks.usage()
        weights = self.balancer.weights
        loss = torch.stack([weights[name] * value for name, value in logs.items() if name in weights]).sum()
        values = {
            "train/loss": loss,
            **{f"train/{name}": value for name, value in logs.items()},
            **{f"share/{name}": value for name, value in shares.items()},
            **{f"codebooks/perplexity_{k + 1}": value for k, value in enumerate(perplexity.unbind())},
            "codebooks/used": used.mean(),
        }
        self.log_dict(values, batch_size=batch_size)

    def _refuse_not_finite(self, values: Losses) -> None:
        """FloatingPointError that names the step and the values, before they reach any weight."""
        if not torch.stack(list(values.values())).isfinite().all():
            bad = ", ".join(
                f"{name} is {float(value)}" for name, value in values.items() if not value.isfinite()
            )
            raise FloatingPointError(f"step {self.global_step}: {bad}")

    def _draw(self) -> float:
        return float(torch.rand((), generator=self.generator))

    # The averages are in place within the epoch only: the checkpoints of `on_validation_end` hold the weights.
    def on_validation_epoch_start(self) -> None:
        if self.ema is not None:
            self._validation.enter_context(self.ema.average_weights())

    def validation_step(self, batch: AudioBatch, batch_idx: int) -> None:
        wav = self._wav(batch)
        decoded = self.model(wav).wav
        losses = {name: module(decoded, wav) for name, module in self.reconstruction.items()}
        weights = self.balancer.weights
        loss = torch.stack([weights[name] * value for name, value in losses.items() if name in weights]).sum()
        scores = {"si_sdr": si_sdr(decoded, wav).mean(), "mel_distance": self.mel(decoded, wav)}
        self.log_dict(
            {f"valid/{name}": value for name, value in {"loss": loss, **scores, **losses}.items()},
            batch_size=len(batch),
            sync_dist=True,
        )

    def on_validation_epoch_end(self) -> None:
        self._validation.close()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["generator"] = self.generator.get_state()
        if self.ema is not None:
            checkpoint["ema"] = self.ema.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.generator.set_state(checkpoint["generator"].cpu())
        if self.ema is not None:
            self.ema.load_state_dict(checkpoint["ema"])

    def _wav(self, batch: AudioBatch) -> Tensor:
        if batch.wav is None:
            raise ValueError("the codec learns from audio; the batch holds none")
        if batch.sample_rate != self.model.sample_rate:
            raise ValueError(
                f"the batch is {batch.sample_rate} Hz, the codec wants {self.model.sample_rate} Hz"
            )
        return batch.wav
