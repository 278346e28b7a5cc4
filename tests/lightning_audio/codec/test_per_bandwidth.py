"""A discriminator per bandwidth, and the codec's draw of a bandwidth for each batch."""

from __future__ import annotations

from functools import partial

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_audio.batch import AudioBatch
from lightning_audio.codec.adversarial import FeatureMatchingLoss, HingeLoss
from lightning_audio.codec.balancer import Balancer
from lightning_audio.codec.discriminators import (
    DiscriminatorPerBandwidth,
    MultiScaleSTFTDiscriminator,
    at_bandwidth,
)
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.codec.losses import L1Loss
from lightning_audio.codec.quantizer import ResidualVectorQuantizer
from lightning_audio.codec.seanet import SEANetDecoder, SEANetEncoder
from lightning_audio.codec.task import CodecTask

make = partial(MultiScaleSTFTDiscriminator, filters=2, n_ffts=(64,), hop_lengths=(16,), win_lengths=(64,))


def codec(numbers: list[int], **options: float) -> EnCodec:
    torch.manual_seed(0)
    return EnCodec(
        encoder=SEANetEncoder(dim=8, num_filters=2, ratios=(5, 4), num_lstm_layers=0),
        decoder=SEANetDecoder(dim=8, num_filters=2, ratios=(5, 4), num_lstm_layers=0),
        quantizer=ResidualVectorQuantizer(
            dim=8, num_codebooks=4, cardinality=16, dropout=True, dropout_numbers=numbers
        ),
        sample_rate=8000,
        **options,
    )


def test_each_number_of_codebooks_has_its_own() -> None:
    judge = DiscriminatorPerBandwidth(num_codebooks=[2, 4], make=make)
    shared = make()
    chosen = at_bandwidth({"msstft": judge, "other": shared}, 4)
    assert chosen == {"msstft": judge.of(4), "other": shared}
    assert judge.of(2) is not judge.of(4)
    with pytest.raises(ValueError, match="audio of 3 codebooks, but there are discriminators for 2, 4"):
        judge.of(3)
    with pytest.raises(ValueError, match="got none: give the quantizer dropout_numbers"):
        DiscriminatorPerBandwidth(num_codebooks=[], make=make)


def test_only_the_one_of_the_batch_learns() -> None:
    model = codec([2, 4])
    judge = DiscriminatorPerBandwidth(num_codebooks=[2, 4], make=make)
    task = CodecTask(
        model=model,
        discriminators={"msstft": judge},
        reconstruction={"l1": L1Loss()},
        balancer=Balancer(weights={"l1": 0.1, "adv": 3.0, "feat": 3.0}),
        optimizer=partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.9)),
        adversarial=HingeLoss(clamped=True),
        matching=FeatureMatchingLoss(relative=True),
        ema_decay=None,
    )
    numbers: list[int] = []
    draw = model.quantizer.draw_num_codebooks
    model.quantizer.draw_num_codebooks = lambda generator=None: numbers.append(draw(generator)) or numbers[-1]

    def weights(number: int) -> Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in judge.of(number).parameters()])

    moved: list[list[int]] = []

    class Watch(L.Callback):
        def on_train_batch_start(self, *_: object) -> None:
            self.before = {number: weights(number) for number in (2, 4)}

        def on_train_batch_end(self, *_: object) -> None:
            moved.append(
                [number for number in (2, 4) if not torch.equal(self.before[number], weights(number))]
            )

    batch = AudioBatch(
        keys=["a", "b"], sample_rate=8000, attributes=[{}] * 2, wav=0.3 * torch.randn(2, 1, 400)
    )
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=8,
        logger=False,
        callbacks=[Watch()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, DataLoader([batch] * 8, batch_size=None))  # type: ignore[arg-type]
    assert set(numbers) == {2, 4}
    assert moved == [[number] for number in numbers]


def test_bandwidths_are_drawn_evenly_from_those_given() -> None:
    quantizer = codec([1, 4]).quantizer
    generator = torch.Generator().manual_seed(0)
    drawn = [quantizer.draw_num_codebooks(generator) for _ in range(400)]
    assert set(drawn) == {1, 4}
    assert 150 < drawn.count(1) < 250
    with pytest.raises(ValueError, match="5 codebooks asked for"):
        codec([1, 5])
    with pytest.raises(ValueError, match="are for dropout=True"):
        ResidualVectorQuantizer(dim=4, num_codebooks=2, cardinality=8, dropout_numbers=[1])


def test_all_chunks_of_a_batch_have_one_bandwidth() -> None:
    model = codec([1, 2, 3, 4], chunk_duration=0.025).train()
    generator = torch.Generator().manual_seed(0)
    wav = torch.randn(2, 1, 900)
    found = {model(wav, generator=generator).codes.shape[1] for _ in range(20)}
    assert found == {1, 2, 3, 4}
