"""Teaches a codec: the generator and its discriminators, one step of each in turn (see `gan`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_audio.batch import AudioBatch
from lightning_audio.codec.adversarial import AdversarialLoss, FeatureMatchingLoss, HingeLoss
from lightning_audio.codec.balancer import Balancer
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.codec.gan import Losses, discriminator_objectives, generator_gradients
from lightning_audio.codec.losses import NegativeSISNR
from lightning_audio.optim import EMA

OptimizerFactory = Callable[..., Optimizer]


class CodecTask(L.LightningModule):
    """Trains an `EnCodec` against discriminators.

    discriminators, reconstruction: by name.   balancer: has a weight for each reconstruction loss, "adv" and "feat".
    optimizer, discriminator_optimizer: from parameters; the second is like the first unless given.
    schedule: from the generator's optimiser, stepped after each of its steps.
    penalty_weight: of the commitment, which is outside the balancer.
    discriminator_probability: how often the discriminators are updated.
    accumulate: pieces in which a batch goes through, for less memory; the codebooks see the whole batch, so the step
        is that of the large batch.   gradient_clip: largest norm of the generator's gradient, None for any.
    ema_decay: of the weights' average, which validation and the finished model use; None for no average.
    seed: of what is drawn within a step; the generator's state is in the checkpoint.

    Manual optimisation: the trainer's own accumulation and clipping do not apply. `trainer.global_step` counts
    generator steps, since the discriminators' optimiser is stepped past Lightning's counter.
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
        schedule: Callable[[Optimizer], Any] | None = None,
        adversarial: AdversarialLoss | None = None,
        matching: FeatureMatchingLoss | None = None,
        penalty_weight: float = 1.0,
        discriminator_probability: float = 1.0,
        accumulate: int = 1,
        gradient_clip: float | None = None,
        ema_decay: float | None = 0.99,
        seed: int = 1234,
    ) -> None:
        super().__init__()
        expected = {*reconstruction, *(("adv", "feat") if discriminators else ())}
        if missing := sorted(set(balancer.weights) - expected):
            raise ValueError(f"the balancer has weights for {missing}; the losses are {sorted(expected)}")
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
        self.si_snr = NegativeSISNR(sample_rate=model.sample_rate)
        self.optimizer, self.schedule = optimizer, schedule
        self.discriminator_optimizer = discriminator_optimizer or optimizer
        self.adversarial = adversarial or HingeLoss()
        self.matching = matching or FeatureMatchingLoss()
        self.penalty_weight = penalty_weight
        self.discriminator_probability = discriminator_probability
        self.accumulate = accumulate
        self.gradient_clip = gradient_clip
        self.ema = EMA(model, decay=ema_decay) if ema_decay is not None else None
        self.generator = torch.Generator().manual_seed(seed)
        self._validation = ExitStack()

    def configure_optimizers(self) -> list[Optimizer]:
        optimizers = [self.optimizer(self.model.parameters())]
        if self.discriminators:
            optimizers.append(self.discriminator_optimizer(self.discriminators.parameters()))
        self._scheduler = self.schedule(optimizers[0]) if self.schedule is not None else None
        return optimizers

    def training_step(self, batch: AudioBatch, batch_idx: int) -> None:
        assert batch.wav is not None
        decoded = self.model(batch.wav, generator=self.generator, parts=self.accumulate)
        optimizers = self.optimizers()
        pair = optimizers if isinstance(optimizers, list) else [optimizers]
        if self.discriminators and self._draw() < self.discriminator_probability:
            self._step_discriminators(pair[1], decoded.wav, batch.wav)
        losses = generator_gradients(
            self.reconstruction,
            self.discriminators,
            self.adversarial,
            self.matching,
            decoded.wav,
            batch.wav,
            parts=self.accumulate,
        )
        weighted = {name: g for name, g in losses.gradients.items() if name in self.balancer.weights}
        balanced = self.balancer(weighted)
        pair[0].zero_grad()
        # One backward pass: d(this) / d(decoded) is the balanced gradient.
        self.manual_backward((decoded.wav * balanced.gradient).sum() + self.penalty_weight * decoded.penalty)
        if self.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.gradient_clip)
        self._refuse_not_finite({**losses.values, "penalty": decoded.penalty.detach()})
        pair[0].step()
        if self._scheduler is not None:
            self._scheduler.step()
        if self.ema is not None:
            self.ema.update()
        self._log_training(losses.values, balanced.shares, decoded.penalty.detach())

    def _step_discriminators(self, optimizer: Any, fake: Tensor, real: Tensor) -> None:
        objectives = discriminator_objectives(
            self.discriminators, self.adversarial, fake, real, parts=self.accumulate
        )
        raw = optimizer.optimizer  # Lightning's wrapper would count this as a step of its own
        raw.zero_grad()
        self.manual_backward(torch.stack(list(objectives.values())).sum())
        raw.step()
        self.log_dict({f"train/discriminator_{name}": value.detach() for name, value in objectives.items()})

    def _log_training(self, losses: Losses, shares: Mapping[str, Tensor], penalty: Tensor) -> None:
        if self.global_step % self.trainer.log_every_n_steps:
            return
        perplexity, used = self.model.quantizer.codebooks.usage()
        weights = self.balancer.weights
        loss = torch.stack([weights[name] * losses[name] for name in losses if name in weights]).sum()
        self.log_dict(
            {
                "train/loss": loss,
                "train/penalty": penalty,
                **{f"train/{name}": value for name, value in losses.items()},
                **{f"share/{name}": value for name, value in shares.items()},
                **{f"codebooks/perplexity_{k + 1}": value for k, value in enumerate(perplexity.unbind())},
                "codebooks/used": used.mean(),
            }
        )

    def _refuse_not_finite(self, losses: Losses) -> None:
        # Looking at a number stops a GPU's queue: there, every tenth step is soon enough to stop the run.
        if self.device.type != "cpu" and self.global_step % 10:
            return
        bad = [name for name, value in losses.items() if not value.isfinite()]
        if bad:
            raise FloatingPointError(f"step {self.global_step}: the loss {bad[0]} is not finite")

    def _draw(self) -> float:
        return float(torch.rand((), generator=self.generator))

    def on_validation_epoch_start(self) -> None:
        if self.ema is not None:
            self._validation.enter_context(self.ema.average_weights())

    def validation_step(self, batch: AudioBatch, batch_idx: int) -> None:
        assert batch.wav is not None
        decoded = self.model(batch.wav).wav
        losses = {name: module(decoded, batch.wav) for name, module in self.reconstruction.items()}
        weights = self.balancer.weights
        loss = torch.stack([weights[name] * value for name, value in losses.items() if name in weights]).sum()
        values = {"loss": loss, "si_snr": -self.si_snr(decoded, batch.wav), **losses}
        self.log_dict(
            {f"valid/{name}": value for name, value in values.items()}, batch_size=len(batch), sync_dist=True
        )

    def on_validation_epoch_end(self) -> None:
        self._validation.close()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["generator"] = self.generator.get_state()
        if self.ema is not None:
            checkpoint["ema"] = self.ema.state_dict()
        if self._scheduler is not None:
            checkpoint["schedule"] = self._scheduler.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.generator.set_state(checkpoint["generator"].cpu())
        if self.ema is not None:
            self.ema.load_state_dict(checkpoint["ema"])
        self._resumed_schedule = checkpoint.get("schedule")

    def on_train_start(self) -> None:
        if self._scheduler is not None and (state := getattr(self, "_resumed_schedule", None)):
            self._scheduler.load_state_dict(state)
