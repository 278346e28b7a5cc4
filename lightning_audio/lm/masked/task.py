"""Teaching MAGNeT: each step a codebook, each clip a mask rate, and the codes behind the masks to be told."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from lightning_audio.batch import AudioBatch
from lightning_audio.lm.loss import CodebookLoss
from lightning_audio.lm.masked.masking import mask_rates, span_mask
from lightning_audio.lm.masked.model import MaskedLM
from lightning_audio.lm.tasks import TokenLMTask


class MaskedLMTask(TokenLMTask):
    """Cross-entropy of masked codes of one codebook, those of the codebooks before it being known.

    The codebook is drawn for the whole step, the same on all ranks; rates and spans are drawn for each clip.
    In validation they are the same every time, and the codebooks take turns, so that curves compare.
    model, optimizer and `options`: see `TokenLMTask`.
    """

    model: MaskedLM

    def __init__(
        self, *, model: MaskedLM, optimizer: Callable[..., Optimizer], seed: int = 1234, **options: Any
    ) -> None:
        super().__init__(model=model, optimizer=optimizer, seed=seed, **options)
        self.stages = random.Random(f"stages {seed}")
        self.masks = torch.Generator()
        self._seed_masks(self.masks, "training")

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.global_step == 0:
            self._seed_masks(self.masks, "training")

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.validation_masks = torch.Generator()
        self._seed_masks(self.validation_masks, "validation")

    def random_state(self) -> tuple[Any, ...]:
        return *super().random_state(), self.stages.getstate(), self.masks.get_state()

    def set_random_state(self, state: tuple[Any, ...]) -> None:
        super().set_random_state(state)
        self.stages.setstate(state[2])
        self.masks.set_state(state[3].cpu())

    def start_random_state(self, state: tuple[Any, ...], global_step: int) -> None:
        super().start_random_state(state, global_step)
        self.stages.setstate(state[2])
        self._seed_masks(self.masks, f"training from {global_step}")

    def _loss(self, batch: AudioBatch, batch_idx: int, *, training: bool) -> CodebookLoss:
        codes, num_frames = self._codes(batch)
        conditions = self._conditions(batch, codes, training=training)
        num_stages = self.model.num_codebooks
        # All drawn on the CPU, so that a run goes on the same on every device.
        stage = self.stages.randrange(num_stages) if training else batch_idx % num_stages
        generator = self.masks if training else self.validation_masks
        masked = span_mask(
            mask_rates(len(codes), generator),
            num_frames=codes.shape[-1],
            span_length=self.model.span_length,
            generator=generator,
        )
        return self.model.stage_loss(
            codes,
            conditions,
            stage=stage,
            masked=masked.to(codes.device, non_blocking=True),
            num_frames=num_frames,
        )

    def _seed_masks(self, generator: torch.Generator, purpose: str) -> None:
        """Masks of this rank's own, unrelated to the task's other random numbers."""
        generator.manual_seed(random.Random(f"{purpose} {self.seed} {self.global_rank}").getrandbits(63))
