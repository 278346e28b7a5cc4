"""Scores in training: equal to the metrics themselves, on the same items each time, unnoticed by training."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from eval.callback import GenerateAndScore
from eval.clip_scores import clip_number
from eval.embedders import LogMelEmbedder
from eval.fad import FrechetDistance
from eval.in_training import DistanceScore, GeneratorOf, ScoredClips, TextScore
from eval.kad import KernelDistance
from lightning_audio.batch import AudioBatch
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.codec.quantizer import ResidualVectorQuantizer
from lightning_audio.codec.seanet import SEANetDecoder, SEANetEncoder
from lightning_audio.conditioning.conditioning import Conditioning
from lightning_audio.conditioning.text import SubwordTextConditioner
from lightning_audio.generation.text_to_audio import TextToAudio
from lightning_audio.lm.patterns import DelayPattern
from lightning_audio.lm.tasks import TokenLMTask
from lightning_audio.lm.token_lm import TokenLM

RATE = 8000
pytestmark = pytest.mark.filterwarnings("ignore:.*embeddings for.*dimensions.*")


class _Codec:
    sample_rate, channels, frame_rate = RATE, 1, 100.0

    def encode_latent(self, wav: Tensor) -> Tensor:
        """[B, 1, L] -> [B, 4, T]"""
        frames = wav[:, 0, : wav.shape[-1] // 80 * 80].unflatten(-1, (-1, 80))
        return torch.stack([frames.mean(-1), frames.std(-1), frames.amax(-1), frames.amin(-1)], 1)

    def decode(self, codes: Tensor) -> Tensor:
        return codes[:, :1].repeat_interleave(80, -1) / 10.0


class _Generator:
    sample_rate = RATE

    def __init__(self, task: Any) -> None:
        assert not task.model.training
        self.codec = _Codec()
        self.calls: list[tuple[list[Any], float, list[int]]] = task.calls

    def generate(self, *, attributes: list[Any], duration: float, seed: list[int]) -> Tensor:
        torch.rand(3)  # a generator that is careless with the global state
        self.calls.append((attributes, duration, seed))
        drawn = [
            torch.randn(1, round(duration * RATE), generator=torch.Generator().manual_seed(s)) for s in seed
        ]
        return 0.1 * torch.stack(drawn)


class _Task(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(1, 1)
        self.drawn: list[float] = []
        self.calls: list[Any] = []
        self.seen: list[dict[str, float]] = []

    def training_step(self, batch: AudioBatch) -> Tensor:
        self.drawn.append(float(torch.rand(())))
        return self.model(torch.ones(1)).sum()

    def validation_step(self, batch: AudioBatch) -> None:
        pass

    def on_validation_end(self) -> None:
        if self.trainer.sanity_checking:
            return
        self.seen.append(
            {k: float(v) for k, v in self.trainer.callback_metrics.items() if k.startswith("score/")}
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def _batches(count: int = 3, first: int = 0) -> list[AudioBatch]:
    """Of four clips each, the second half of each batch shorter."""
    batches = []
    for i in range(first, first + count):
        generator = torch.Generator().manual_seed(i)
        batches.append(
            AudioBatch(
                keys=[f"clip{4 * i + j}" for j in range(4)],
                sample_rate=RATE,
                attributes=[{"description": f"text {4 * i + j}"} for j in range(4)],
                wav=0.1 * torch.randn(4, 1, RATE, generator=generator),
                num_samples=torch.tensor([RATE, RATE, RATE // 2, RATE // 2]),
            )
        )
    return batches


def _fit(folder: Path, callbacks: list[L.Callback], *, epochs: int = 3, **options: Any) -> _Task:
    L.seed_everything(0)
    task = _Task()
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=bool(options.pop("checkpoints", False)),
        **options,
    )
    loaders = [torch.utils.data.DataLoader(_batches(), batch_size=None) for _ in range(2)]  # type: ignore[arg-type]
    trainer.fit(task, *loaders)
    return task


def _callback(**changes: Any) -> GenerateAndScore:
    options: dict[str, Any] = {
        "build": _Generator,
        "scores": {
            "log_mel": DistanceScore(metric=FrechetDistance, embedder=LogMelEmbedder(sample_rate=RATE)),
            "codec": DistanceScore(metric=KernelDistance),
        },
        "num_items": 6,
        "batch_size": 4,
        "duration": 0.75,
    }
    return GenerateAndScore(**{**options, **changes})


def test_scores_are_the_metrics_of_the_first_clips_and_training_goes_on_as_without(tmp_path: Path) -> None:
    scored, plain = _fit(tmp_path, [_callback()]), _fit(tmp_path, [])
    assert scored.drawn == plain.drawn
    assert torch.equal(scored.model.weight, plain.model.weight)
    # The same items at every time, in two batches, each with the seed of its name.
    assert [len(attributes) for attributes, _, _ in scored.calls] == [4, 2] * 3
    texts = [item["description"] for attributes, _, _ in scored.calls[:2] for item in attributes]
    assert texts == [f"text {i}" for i in range(6)]
    seeds = [seed for _, _, seeds in scored.calls[:2] for seed in seeds]
    assert seeds == [clip_number(f"clip{i}") % 2**31 for i in range(6)]
    assert len(set(map(str, scored.calls))) == 2
    assert scored.seen[0] == scored.seen[1] == scored.seen[2]
    # What is logged is what the metric says of these clips.
    embedder, metric = LogMelEmbedder(sample_rate=RATE), FrechetDistance(128)
    wavs = [wav[:, :n] for b in _batches() for wav, n in zip(b.wav, b.num_samples.tolist(), strict=True)][:6]
    for wav, seed in zip(wavs, seeds, strict=True):
        noise = 0.1 * torch.randn(1, 6000, generator=torch.Generator().manual_seed(seed))
        metric.update(embedder.embed(noise[None], RATE), reference=False)
        metric.update(embedder.embed(wav[None, :, :6000], RATE), reference=True)
    assert scored.seen[0]["score/log_mel"] == pytest.approx(float(metric.compute()), rel=1e-6)
    assert scored.seen[0]["score/num_clips"] == 6
    assert scored.seen[0]["score/num_faulty"] == 0


def test_a_checkpoint_callback_finds_it_also_between_two_times(tmp_path: Path) -> None:
    best = L.pytorch.callbacks.ModelCheckpoint(
        dirpath=tmp_path / "best", monitor="score/log_mel", save_top_k=1
    )
    task = _fit(tmp_path, [_callback(every_n_validations=2), best], checkpoints=True)
    assert len(task.calls) == 4  # at the first and the third of three validations
    assert task.seen[0] == task.seen[1]
    assert best.best_model_score is not None
    assert float(best.best_model_score) == pytest.approx(task.seen[0]["score/log_mel"])


def test_time_is_bounded_once_and_the_items_stay_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = _callback(max_seconds=1e-9)
    task = _fit(tmp_path, [callback])
    assert [len(attributes) for attributes, _, _ in task.calls] == [4, 4, 4]
    assert caplog.text.count("enough for 1 of 2 batches") == 1
    assert [seen["score/num_clips"] for seen in task.seen] == [4, 4, 4]
    again = _callback()
    again.load_state_dict(callback.state_dict())
    assert (again._num_batches, again._validations) == (1, 3)


class _Broken(_Generator):
    def generate(self, **options: Any) -> Tensor:
        return super().generate(**options) * torch.nan


def test_generations_that_are_no_numbers_are_counted_and_do_not_stop_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = _fit(tmp_path, [_callback(build=_Broken)], epochs=1)
    assert math.isnan(task.seen[0]["score/log_mel"])
    assert task.seen[0]["score/num_faulty"] == 6
    assert "score/log_mel could not be taken" in caplog.text


class _Words:
    name, sample_rate, weights_hash, hearing = "words", RATE, None, None

    def embed(self, wav: Tensor, sample_rate: int, num_samples: Tensor | None = None) -> Tensor:
        return torch.stack([wav.mean((1, 2)), wav.std((1, 2))], 1)

    def embed_text(self, texts: list[str]) -> Tensor:
        return torch.tensor([[1.0, 0.0] if text == "up" else [0.0, 1.0] for text in texts])


def test_the_text_score_is_the_mean_cosine_of_clips_with_a_text() -> None:
    wavs = [torch.full((1, 10), 2.0), torch.tensor([[1.0, -1.0]]), torch.rand(1, 7)]
    clips = ScoredClips(["a", "b", "c"], ["up", "up", None], wavs, wavs, RATE, None, torch.device("cpu"))
    assert TextScore(embedder=_Words())(clips) == pytest.approx(0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [{"scores": {}}, {"num_items": 0}, {"duration": 0.0}, {"every_n_validations": 0}, {"max_seconds": 0}],
)
def test_settings_that_make_no_sense(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="GenerateAndScore"):
        _callback(**changes)


def _codec() -> EnCodec:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"dim": 8, "num_filters": 2, "ratios": (5, 4), "num_lstm_layers": 1}
    codec = EnCodec(
        encoder=SEANetEncoder(**shape),
        decoder=SEANetDecoder(**shape),
        quantizer=ResidualVectorQuantizer(dim=8, num_codebooks=2, cardinality=16),
        sample_rate=1000,
    )
    codec.quantizer.codebooks.embed.normal_()
    codec.quantizer.codebooks.inited.fill_(True)
    return codec.eval()


def test_a_language_model_is_scored_while_it_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real task, model and codec: it generates between its steps, and learns as if it did not."""
    monkeypatch.setattr("eval.in_training.load", lambda source, device: _codec())

    def fit(callbacks: list[L.Callback]) -> tuple[TokenLMTask, dict[str, float]]:
        torch.manual_seed(1)
        model = TokenLM(
            num_codebooks=2,
            cardinality=16,
            dim=16,
            num_heads=2,
            num_layers=1,
            pattern=DelayPattern(range(2)),
            conditioning=Conditioning(
                conditioners={"description": SubwordTextConditioner(dim=16, num_layers=1, num_buckets=32)},
                dim=16,
                fuse={"cross": ["description"]},
            ),
        )
        task = TokenLMTask(
            model=model, optimizer=partial(torch.optim.AdamW, lr=1e-2), ema_decay=0.5, ema_every=1
        )
        generator = torch.Generator().manual_seed(0)
        batches = [
            AudioBatch(
                keys=[f"{i}{j}" for j in range(2)],
                sample_rate=1000,
                attributes=[{"description": "rain"}, {"description": "a dog"}],
                codes=torch.randint(16, (2, 2, 50), generator=generator),
                num_frames=torch.tensor([50, 40]),
            )
            for i in range(2)
        ]
        trainer = L.Trainer(
            max_epochs=2,
            accelerator="cpu",
            default_root_dir=tmp_path,
            callbacks=callbacks,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        loaders = [torch.utils.data.DataLoader(batches, batch_size=None) for _ in range(2)]  # type: ignore[arg-type]
        trainer.fit(task, *loaders)
        return task, {k: float(v) for k, v in trainer.callback_metrics.items()}

    callback = _callback(
        build=GeneratorOf(codec="a run", generation=partial(TextToAudio, max_duration=1.0)),
        scores={"codec": DistanceScore(metric=FrechetDistance)},
        num_items=3,
        batch_size=2,
        duration=0.5,
    )
    scored, values = fit([callback])
    plain, _ = fit([])
    assert values["score/num_clips"] == 3
    assert values["score/codec"] > 0
    for name, weight in plain.model.state_dict().items():
        assert torch.equal(weight, scored.model.state_dict()[name]), name


def _share_of(rank: int, shares: list[list[int]]) -> ScoredClips:
    wavs = [wav for b in _batches(2) for wav in b.wav]
    mine = [wavs[i] for i in shares[rank]]
    return ScoredClips(
        [],
        [None] * len(mine),
        [0.5 * wav.cumsum(-1) for wav in mine],
        mine,
        RATE,
        _Codec(),
        torch.device("cpu"),
    )


def _work(rank: int, shares: list[list[int]], folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(DistanceScore(metric=FrechetDistance)(_share_of(rank, shares)), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize(
    "shares", [[[0, 2, 4, 6], [1, 3, 5]], [[], [0, 1, 2, 3, 4, 5, 6]]], ids=["uneven", "one empty"]
)
def test_two_ranks_log_what_one_would(shares: list[list[int]], tmp_path: Path) -> None:
    expected = DistanceScore(metric=FrechetDistance)(_share_of(0, [list(range(7))]))
    mp.start_processes(_work, args=(shares, str(tmp_path)), nprocs=2, start_method="fork")
    assert [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)] == [expected, expected]


class _Sharing(_Task):
    """Each rank validates on its own clips, as the datamodules have it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(_batches(1), batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> Any:
        clips = [_one(b, row) for b in _batches(2) for row in range(4)]
        own = clips[self.global_rank :: self.trainer.world_size]
        return torch.utils.data.DataLoader(own, batch_size=None)  # type: ignore[arg-type]

    def on_fit_end(self) -> None:
        torch.save(
            (self.seen, len(self.calls)), self.folder / f"{self.trainer.world_size}-{self.global_rank}.pt"
        )


def _one(batch: AudioBatch, row: int) -> AudioBatch:
    assert batch.wav is not None
    rows = slice(row, row + 1)
    return AudioBatch(batch.keys[rows], batch.sample_rate, batch.attributes[rows], wav=batch.wav[rows])


def test_two_processes_train_and_log_the_scores_of_one(tmp_path: Path) -> None:
    for devices in (1, 2):
        trainer = L.Trainer(
            max_epochs=1,
            accelerator="cpu",
            devices=devices,
            strategy="ddp_fork" if devices > 1 else "auto",
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            default_root_dir=tmp_path,
            callbacks=[
                _callback(num_items=5, batch_size=2, scores={"codec": DistanceScore(metric=FrechetDistance)})
            ],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        trainer.fit(_Sharing(tmp_path))
    (alone, calls), *both = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    assert calls == 3
    assert alone[0]["score/num_clips"] == 5
    for seen, calls in both:
        assert seen == alone
        assert calls == 2  # rank 1 has two clips, one batch, and takes part in the second all the same
