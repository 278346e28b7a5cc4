"""What steers a clip, cut to the segment that the clip is cut to."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from datamodules.audio import AudioDataModule
from datamodules.audio_codes import AudioCodesDataModule
from datamodules.tokens import TokenDataModule, crop_offsets
from datamodules.transforms import Sample, transformed
from lightning_audio import audio
from lightning_audio.batch import AudioBatch
from lightning_audio.conditioning.augmentation import merge_text
from lightning_audio.conditioning.base import Precomputed, WavCondition
from lightning_audio.conditioning.chroma import ChromaConditioner
from lightning_audio.conditioning.conditioning import Conditioning, attributes_of
from lightning_audio.conditioning.dropout import drop_conditions
from lightning_audio.conditioning.text import T5Conditioner
from lightning_audio.lm.patterns import DelayPattern
from lightning_audio.lm.tasks import TokenLMTask
from lightning_audio.lm.token_lm import TokenLM
from sharding.encoding.encode import encode
from sharding.encoding.features import ChromaFeature, TextFeature
from sharding.schema import CodesInfo, FeatureInfo, ShardIndex, split_folders
from sharding.writing.shard import ShardWriter
from sharding.writing.write import describe

RATE, HOP, CLIPS = 8000, 80, 12


class RampCodec(nn.Module):
    """Codebook 0: the frame's mean in 1000 levels; codebook 1: its place in the clip."""

    sample_rate, channels, frame_rate, num_codebooks, cardinality = RATE, 1, 100.0, 2, 1000

    def encode(self, wav: Tensor) -> SimpleNamespace:
        return SimpleNamespace(codes=ramp_codes(wav), scale=None)


def ramp_codes(wav: Tensor) -> Tensor:
    """[B, 1, L] -> [B, 2, T]"""
    frames = nn.functional.pad(wav, (0, -wav.shape[-1] % HOP)).unflatten(-1, (-1, HOP)).mean(-1)[:, 0]
    place = torch.arange(frames.shape[-1]).expand_as(frames)
    return torch.stack([(frames * 500 + 500).long().clamp(0, 999), place], dim=1)


class Ticks:
    """A step every 0.01 s that says which it is, in the manner of chroma; and one for each text."""

    hears = True

    def __init__(self, name: str, *, per_text: bool) -> None:
        self.name = name
        self.info = FeatureInfo(
            attribute="description" if per_text else "melody",
            encoder=name,
            encoder_hash="1",
            dim=2,
            dtype="<f4",
            frame_rate=None if per_text else 100.0,
            per_text=per_text,
        )

    def __call__(self, attributes: Any, heard: Any, device: torch.device) -> list[Tensor | None]:
        if self.info.per_text:
            texts = attributes["description"]
            if texts is None:
                return [None]
            return [torch.tensor([[float(len(text)), number]] * 3) for number, text in enumerate(texts)]
        steps = 1 + heard.wav.shape[-1] // HOP
        return [torch.stack([torch.arange(steps), torch.zeros(steps)], dim=1).float()]


def wav_of(number: int) -> Tensor:
    """A ramp [1, L] whose every value is another one in 16 bits, from 0.5 s on."""
    length = 4000 + 100 * number
    return torch.arange(length)[None] * (number % 3 + 1) / (1 << 15) - 0.4


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of which all but every fourth have a melody, their own audio upside down."""
    folder = tmp_path_factory.mktemp("steered") / "audio"
    for split, numbers in (("train", range(CLIPS)), ("valid", range(CLIPS, CLIPS + 4))):
        path = folder / split / "000000.tar"
        path.parent.mkdir(parents=True)
        with ShardWriter(path) as writer:
            for number in numbers:
                wav = wav_of(number)
                texts = [f"{'a' * number} ramp", "slope"]
                parts: dict[str, Any] = {
                    "flac": audio.encode(wav, RATE),
                    "json": json.dumps({"description": texts if number % 4 != 1 else None}).encode(),
                }
                if number % 4:
                    parts["melody.flac"] = audio.encode(-wav, RATE)
                writer.add(f"clip{number:02d}", parts, wav.shape[1], RATE, 1)
        describe([path], [writer.finish([])])
    return folder


@pytest.fixture(scope="module")
def codes(shards: Path) -> Path:
    out = shards.parent / "codes"
    ticks = [Ticks("text", per_text=True), Ticks("ticks", per_text=False)]
    encode(shards, out, RampCodec(), "abc", features=ticks, crops=3, keep_audio=True)
    return out


def batches(module: Any, epochs: int = 1) -> Iterator[AudioBatch]:
    module.setup("fit")
    loader = module.train_dataloader()
    for _ in range(epochs):
        yield from loader


def test_a_melody_is_cut_as_its_clip_is(shards: Path) -> None:
    module = AudioDataModule(
        shards, sample_rate=RATE, segment_duration=0.25, batch_size=4, conditions=["melody"]
    )
    seen = 0
    for batch in batches(module, 4):
        wavs, lengths = batch.conditions["melody"], batch.condition_samples["melody"]
        assert wavs.shape == (4, 1, 2000)
        for key, wav, melody, length in zip(batch.keys, batch.wav, wavs, lengths.tolist(), strict=True):  # type: ignore[arg-type]
            has_melody = int(key[-2:]) % 4 > 0
            assert length == 2000 * has_melody
            assert torch.equal(melody, -wav * has_melody)
            seen += has_melody
    assert seen > 20


def test_a_melody_goes_with_codes_of_any_crop(codes: Path) -> None:
    """The codes say where in the clip they are, the melody too."""
    module = TokenDataModule(codes, segment_duration=0.3, batch_size=4, conditions=["melody"])
    phases = set()
    for batch in batches(module, 8):
        for row, key in enumerate(batch.keys):
            number, offsets = int(key[-2:]), crop_offsets(dict(batch.attributes[row]), module.codes_info())
            first = int(batch.codes[row, 1, 0])  # type: ignore[index]
            assert batch.codes[row, 1].tolist() == list(range(first, first + 30))  # type: ignore[index]
            if not number % 4:
                assert batch.condition_samples["melody"][row] == 0
                continue
            melody = batch.conditions["melody"][row]
            assert torch.equal(ramp_codes(-melody[None])[0, 0], batch.codes[row, 0])  # type: ignore[index]
            start = round(float((-melody[0, 0] + 0.4) * (1 << 15)) / (number % 3 + 1))
            assert start - first * HOP in offsets
            phases.add(offsets.index(start - first * HOP))
    assert phases == {0, 1, 2}
    (valid,) = list(TokenDataModule(codes, num_frames=20, batch_size=4).val_dataloader())
    for key, row in zip(valid.keys, valid.codes, strict=True):
        first = int(row[1, 0])
        whole = ramp_codes(wav_of(int(key[-2:]))[None])[0]
        assert torch.equal(row, whole[:, first : first + 20])  # always the first crop


def test_audio_goes_with_codes_of_any_crop(codes: Path) -> None:
    module = AudioCodesDataModule(
        codes, sample_rate=RATE, segment_duration=0.3, batch_size=4, features=["ticks"]
    )
    offsets = set()
    for batch in batches(module, 8):
        assert torch.equal(batch.codes[:, :1], ramp_codes(batch.wav)[:, :1])  # type: ignore[index,arg-type]
        for row, key in enumerate(batch.keys):
            first_value = float((batch.wav[row, 0, 0] + 0.4) * (1 << 15))  # type: ignore[index]
            start = round(first_value / (int(key[-2:]) % 3 + 1))
            offset = start - int(batch.codes[row, 1, 0]) * HOP  # type: ignore[index]
            offsets.add(crop_offsets(dict(batch.attributes[row]), module.codes_info()).index(offset))
            assert batch.features["melody"][row, 0, 0] == round(start / HOP)
    assert offsets == {0, 1, 2}


def test_every_crop_of_a_clip_that_is_just_a_segment_fills_it(codes: Path) -> None:
    """Clip 8 has 60 frames, to the sample. In a crop the last is not whole; with its audio it is taken as it begins."""
    for batch in batches(TokenDataModule(codes, num_frames=60, batch_size=4, epoch_batches=8)):
        assert batch.num_frames.tolist() == [60] * 4  # type: ignore[union-attr]
    module = AudioCodesDataModule(
        codes, sample_rate=RATE, segment_duration=0.6, batch_size=4, epoch_batches=8, max_bad_ratio=0.0
    )
    assert {key for batch in batches(module) for key in batch.keys} == {
        "clip08",
        "clip09",
        "clip10",
        "clip11",
    }


def test_features_are_cut_and_follow_the_text_that_was_chosen(codes: Path) -> None:
    for cache_bytes in (0, 1 << 30):
        module = TokenDataModule(
            codes,
            segment_duration=0.3,
            batch_size=4,
            features=["text", "ticks"],
            cache_bytes=cache_bytes,
        )
        chosen = set()
        for batch in batches(module, 4):
            assert batch.features["melody"].shape == (4, 31, 2)
            for row, key in enumerate(batch.keys):
                first = int(batch.codes[row, 1, 0])  # type: ignore[index]
                ticks = batch.features["melody"][row, :, 0]
                valid = int(batch.feature_steps["melody"][row])  # the last may lie past the clip's end
                assert valid >= 30
                assert torch.equal(ticks[:valid], ticks[0] + torch.arange(valid))
                assert ticks[0] in (first, first + 1)  # the nearest, to where a crop begins
                steps, text = (
                    int(batch.feature_steps["description"][row]),
                    batch.attributes[row]["description"],
                )
                assert steps == (3 if text else 0)
                if text:
                    length, number = batch.features["description"][row, 0].tolist()
                    assert length == len(text)
                    chosen.add(number)
                else:
                    assert int(key[-2:]) % 4 == 1
        assert chosen == {0, 1}


def test_batches_of_conditions_do_not_depend_on_workers(codes: Path) -> None:
    settings: dict[str, Any] = {"segment_duration": 0.3, "batch_size": 4}
    settings |= {"conditions": ["melody"], "features": ["text"]}
    alone, helped = (
        list(batches(TokenDataModule(codes, num_workers=workers, **settings), 3)) for workers in (0, 2)
    )
    for one, other in zip(alone, helped, strict=True):
        assert one.keys == other.keys
        for name in ("conditions", "condition_samples", "features", "feature_steps"):
            mine, theirs = getattr(one, name), getattr(other, name)
            assert mine.keys() == theirs.keys()
            assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_a_melody_of_another_rate_is_converted(tmp_path: Path) -> None:
    path = tmp_path / "train/000000.tar"
    path.parent.mkdir()
    tone = torch.sin(2 * torch.pi * 200 * torch.arange(32000) / 16000).expand(2, -1) * 0.5
    with ShardWriter(path) as writer:
        parts = {
            "flac": audio.encode(torch.zeros(1, 16000), RATE),
            "json": b"{}",
            "melody.wav": audio.encode(tone, 16000, suffix=".wav"),
        }
        writer.add("a", parts, 16000, RATE, 1)
    describe([path], [writer.finish([])])
    module = AudioDataModule(
        tmp_path, sample_rate=RATE, segment_duration=0.5, batch_size=1, conditions=["melody"]
    )
    (batch,) = batches(module)
    melody = batch.conditions["melody"][0, 0]
    assert melody.shape == (4000,)
    spectrum = torch.fft.rfft(melody).abs()
    assert int(spectrum.argmax()) == 100  # 200 Hz in 0.5 s


def test_a_transform_that_changes_a_text_takes_its_feature_away() -> None:
    rng = np.random.default_rng(0)
    features = {"description": np.zeros((1, 2)), "melody": np.zeros((1, 2))}
    sample = Sample("a", {"description": "one", "bpm": 1}, features=features)

    def faster(sample: Sample, rng: np.random.Generator) -> Sample:
        return Sample("a", {**sample.attributes, "bpm": 2}, features=sample.features)

    def mixed(sample: Sample, rng: np.random.Generator) -> Sample:
        return Sample("a", {**sample.attributes, "description": "one, two"}, features=sample.features)

    assert transformed(sample, [faster], rng).features.keys() == {"description", "melody"}
    assert transformed(sample, [faster, mixed], rng).features.keys() == {"melody"}


def test_what_is_not_there_or_not_as_said_is_refused(codes: Path, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no features \['t5'\], only \['text', 'ticks'\]"):
        TokenDataModule(codes, batch_size=4, features=["t5"]).source("train", training=True)
    with pytest.raises(ValueError, match=r"have several: \['melody', 'melody'\]"):
        TokenDataModule(codes, batch_size=4, conditions=["melody"], features=["ticks"]).source(
            "train", training=True
        )
    info = CodesInfo(codec_hash="", frame_rate=100.0, num_codebooks=1, cardinality=2, crops=2)
    for offsets in (None, [0], [0, -1], [0, "1"], [0, 1 << 40]):
        with pytest.raises(ValueError, match="codes_offsets for 2 crops"):
            crop_offsets({"codes_offsets": offsets}, info)


# --- what becomes of it in a model


@pytest.fixture(scope="module")
def t5_path(reference_path: Callable[..., Path]) -> str:
    return str(reference_path("t5", "t5-small"))


def text_task(encoder: T5Conditioner, **options: Any) -> TokenLMTask:
    torch.manual_seed(0)
    conditioning = Conditioning(
        conditioners={"description": encoder}, dim=16, fuse={"cross": ["description"]}, mask_padding=True
    )
    model = TokenLM(
        conditioning=conditioning,
        pattern=DelayPattern((0, 1)),
        num_codebooks=2,
        cardinality=1000,
        dim=16,
        num_heads=2,
        num_layers=1,
    )
    return TokenLMTask(model=model, optimizer=torch.optim.AdamW, ema_decay=None, **options)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float16", 2e-4)])
def test_a_text_encoded_ahead_gives_the_loss_of_t5_itself(
    codes: Path, t5_path: str, tmp_path: Path, dtype: str, tolerance: float
) -> None:
    def encoder(path: str) -> T5Conditioner:
        return T5Conditioner(name="t5-small", path=path)

    encode(codes, tmp_path / "more", None, None, features=[TextFeature(encoder(t5_path), dtype=dtype)])
    settings: dict[str, Any] = {"num_frames": 30, "batch_size": 4}
    live = list(batches(TokenDataModule(codes, **settings)))
    ahead = list(batches(TokenDataModule(tmp_path / "more", features=["t5"], **settings)))
    # The one that is given all has no T5 to load.
    tasks = text_task(encoder(t5_path), cfg_dropout=0.4), text_task(encoder("/absent"), cfg_dropout=0.4)
    losses = [
        [task._loss(batch, 0, training=True).loss.item() for batch in stream]
        for task, stream in zip(tasks, (live, ahead), strict=True)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=tolerance)
    nothing = text_task(encoder("/absent"), cfg_dropout=1.0)
    dropped = [nothing._loss(batch, 0, training=True).loss.item() for batch in ahead]
    is_dropped = [
        one == pytest.approx(other, rel=1e-5) for one, other in zip(losses[1], dropped, strict=True)
    ]
    assert 0 < sum(is_dropped) < len(dropped)


def test_conditions_and_features_become_attributes(codes: Path) -> None:
    module = TokenDataModule(
        codes, segment_duration=0.3, batch_size=4, conditions=["melody"], features=["text"]
    )
    for batch in batches(module):
        for row, item in enumerate(attributes_of(batch)):
            number = int(batch.keys[row][-2:])
            assert ("melody" in item) == (number % 4 > 0)
            if number % 4:
                assert isinstance(item["melody"], WavCondition)
                assert item["melody"].sample_rate == RATE
                assert torch.equal(item["melody"].wav, batch.conditions["melody"][row])
            assert isinstance(item["description"], Precomputed) == (number % 4 != 1)
            if number % 4 != 1:
                assert item["description"].embedding.shape == (3, 2)
                # Past merging; not past dropping.
                merged = merge_text(
                    {**item, "genre": "rock"}, merge_p=1.0, drop_field_p=0.0, rng=random.Random(0)
                )
                assert merged["description"] is item["description"]
            (dropped,) = drop_conditions([item], cfg_dropout=1.0, generator=torch.Generator().manual_seed(0))
            assert set(dropped.values()) == {None}


def test_chroma_made_ahead_is_the_conditioners_own(tmp_path: Path, shards: Path) -> None:
    """Of whole clips; of a segment it is the nearest frames of the whole's."""
    feature = ChromaFeature(sample_rate=RATE, radix2_exp=9)
    encode(shards, tmp_path / "out", RampCodec(), "abc", features=[feature])
    module = TokenDataModule(tmp_path / "out", batch_size=4, features=["chroma"])
    conditioner = ChromaConditioner(sample_rate=RATE, radix2_exp=9).eval()
    for batch in module.val_dataloader():  # whole clips
        values = [item["melody"] for item in attributes_of(batch)]
        condition = conditioner(conditioner.prepare(values))
        for row, key in enumerate(batch.keys):
            number = int(key[-2:])
            wav = -wav_of(number) if number % 4 else wav_of(number)
            live = conditioner(conditioner.prepare([WavCondition(wav, RATE)]))
            assert torch.equal(condition.embedding[row, condition.mask[row]], live.embedding[0])
    module = TokenDataModule(tmp_path / "out", batch_size=4, num_frames=32, features=["chroma"])
    for batch in batches(module):
        # A step is 128 samples: 0.32 s are 20 of them, and the one at its end.
        assert batch.features["melody"].shape == (4, 21, 12)


def test_hostile_features_are_bad_samples(codes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "codes"
    shutil.copytree(codes, folder)
    tar = split_folders(folder)["train"] / "000000.tar"
    index = ShardIndex.load(tar.with_suffix(".index.json"))
    raw = bytearray(tar.read_bytes())
    offset, size = index.parts["ticks.npy"][0]
    buffer = io.BytesIO()
    np.save(buffer, np.full((int(size) // 8, 2), np.nan, np.float32))
    raw[offset : offset + size] = buffer.getvalue()[: int(size)].ljust(int(size), b"\0")
    tar.write_bytes(raw)
    source = TokenDataModule(folder, batch_size=1, features=["ticks"]).source("train", training=True)
    with pytest.raises(ValueError, match=r"ticks"):
        source.load(0, 0, np.random.default_rng(0))
    assert source.load(0, 1, np.random.default_rng(0)).features
