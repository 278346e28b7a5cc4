"""AudioGen's mixing: AudioCraft's to the number, and ours by what it promises."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.audio import AudioDataModule
from datamodules.augmentation import rms
from datamodules.mixing import AudioCraftMixing, Draws, MixSounds, joined_captions
from datamodules.resume import StreamDataset, StreamLoader
from datamodules.tokens import TokenDataModule
from datamodules.transforms import Sample
from lightning_audio.batch import AudioBatch

# Made by running the functions of AudioCraft's data/sound_dataset.py under seeds, with what they drew written down.
VECTORS = Path(__file__).parents[1] / "reference" / "audiocraft_mixing.pt"


def batch_of(wav: Tensor, captions: list[str | None]) -> AudioBatch:
    return AudioBatch(
        keys=[f"clip{i}" for i in range(len(wav))],
        sample_rate=8000,
        attributes=[{"description": caption, "number": i} for i, caption in enumerate(captions)],
        wav=wav,
        num_samples=torch.full((len(wav),), wav.shape[-1]) - torch.arange(len(wav)),
    )


def test_audiocrafts_numbers_for_its_draws() -> None:
    vectors = torch.load(VECTORS, weights_only=True)
    batch = batch_of(vectors["wav"], vectors["captions"])
    assert sum(case["clipped"] for case in vectors["cases"]) == 2
    for case in vectors["cases"]:
        mixed = AudioCraftMixing().mix(batch, Draws(**case["draws"]))
        assert mixed.wav is not None
        torch.testing.assert_close(mixed.wav, case["wav"], rtol=1e-5, atol=1e-6)
        assert [about["description"] for about in mixed.attributes] == case["captions"]
        sources = case["draws"]["sources"].tolist()
        assert [about["number"] for about in mixed.attributes] == sources
        assert mixed.num_samples is not None
        assert mixed.num_samples.tolist() == [400 - i for i in sources]


def test_audiocrafts_draws() -> None:
    """Half of the batch, mixed half of the time; whole decibels in the published ranges, one for the batch."""
    batch = batch_of(torch.randn(8, 1, 100), ["a"] * 8)
    rng = np.random.default_rng(0)
    draws = [AudioCraftMixing().draw(batch, rng) for _ in range(2000)]
    mixed = [each for each in draws if each.targets is not None]
    assert abs(len(mixed) / len(draws) - 0.5) < 0.05
    assert all(len(each.sources.unique()) == 4 for each in draws)
    assert {each.snr for each in mixed} == set(range(-5, 5))
    assert {each.start for each in mixed} == set(range(51))
    assert {each.level for each in mixed} == set(range(-35, -15))
    assert any((each.sources == each.targets).any() for each in mixed)  # a clip with itself: theirs does that
    with pytest.raises(ValueError, match="a batch of 1 on this rank is no clip"):
        AudioCraftMixing().draw(batch_of(torch.randn(1, 1, 100), ["a"]), rng)
    with pytest.raises(ValueError, match="has 2 channels"):
        AudioCraftMixing(p=1.0)(batch_of(torch.randn(4, 2, 100), ["a"] * 4), rng)


def pair(**lengths: int) -> Sample:
    """A sample of a tone whose stream has one other clip, of another tone."""
    time = np.arange(1000, dtype=np.float32)
    first = 0.3 * np.sin(0.1 * time)[None, : lengths.get("first", 1000)]
    second = Sample(
        "b", {"description": "bells"}, wav=0.01 * np.sin(0.5 * time)[None, : lengths.get("second", 1000)]
    )
    return Sample("a", {"description": "rain", "id": 1}, wav=first, another=lambda rng, accept=None: second)


def parts(mixed: np.ndarray) -> tuple[float, float, int]:
    """Amplitudes of the first tone, of the second, and where the second begins."""
    time = np.arange(mixed.shape[1])
    best = min(range(0, mixed.shape[1] - 10), key=lambda start: _fit(mixed[0], time, start)[1])
    return *_fit(mixed[0], time, best)[0], best


def _fit(mixed: np.ndarray, time: np.ndarray, start: int) -> tuple[tuple[float, float], float]:
    late = np.where(time >= start, np.sin(0.5 * (time - start)), 0.0)
    basis = np.stack([np.sin(0.1 * time), late], 1)
    amplitudes, residue, *_ = np.linalg.lstsq(basis, mixed, rcond=None)
    return (float(amplitudes[0]), float(amplitudes[1])), float(residue[0])


def test_level_difference_start_and_loudness_are_drawn_for_each_pair() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(40):
        mixed = MixSounds(p=1.0)(pair(), rng)
        assert mixed.wav is not None
        assert mixed.wav.dtype == np.float32
        assert mixed.wav.shape == (1, 1000)
        low, high, start = parts(mixed.wav)
        found.append((20 * np.log10(low / high), start, 20 * np.log10(rms(mixed.wav))))
    snrs, starts, levels = (np.array(values) for values in zip(*found, strict=True))
    assert -5.3 < snrs.min() < -2 < 2 < snrs.max() < 5.3
    assert 0 <= starts.min() < 150 < 350 < starts.max() <= 500
    assert -35.01 < levels.min() < -30 < -20 < levels.max() < -14.99
    assert all(len(set(values.round(3))) == 40 for values in (snrs, levels))


def test_captions_are_joined_and_nothing_else_changes() -> None:
    rng = np.random.default_rng(0)
    mixed = MixSounds(p=1.0)(pair(), rng)
    assert mixed.attributes == {"description": "rain bells", "id": 1}
    assert mixed.key == "a"
    sample = pair()
    assert MixSounds(p=0.0)(sample, rng) is sample
    assert joined_captions({"description": "rain"}, {"description": "rain"}) == {"description": "rain"}
    assert joined_captions({"description": None}, {"description": "bells"}) == {"description": "bells"}
    assert joined_captions({}, {}) == {}


def test_short_clips_loud_ones_and_silence() -> None:
    rng = np.random.default_rng(0)
    for lengths in ({"first": 300}, {"second": 50}):
        mixed = MixSounds(p=1.0)(pair(**lengths), rng)
        assert mixed.wav is not None
        assert mixed.wav.shape[1] == lengths.get("first", 1000)
    loud = MixSounds(p=1.0, level_low=5.0, level_high=5.0)(pair(), rng)
    assert loud.wav is not None
    assert np.abs(loud.wav).max() == pytest.approx(0.99)
    silent = Sample("c", {}, wav=np.zeros((1, 100), np.float32), another=pair().another)
    assert MixSounds(p=1.0)(silent, rng) is silent


def module(path: Path, **settings: Any) -> AudioDataModule:
    given = {"sample_rate": 8000, "batch_size": 8, "segment_duration": 0.25, **settings}
    return AudioDataModule(path, **given)


def take(data: AudioDataModule, count: int) -> list[AudioBatch]:
    data.setup("fit")
    loader = data.train_dataloader()
    return list(islice((batch for _ in range(count) for batch in loader), count))


def test_a_clip_is_mixed_with_another_of_the_stream_never_with_itself(audio_shards: Path) -> None:
    batches = take(module(audio_shards, transforms=[MixSounds(p=1.0)]), 12)
    partners = set()
    for batch in batches:
        assert len(batch) == 8
        for key, about in zip(batch.keys, batch.attributes, strict=True):
            captions = about["description"].split()
            assert len(captions) == 4
            first, second = int(captions[1]), int(captions[3])
            assert first == int(key[-2:]) == about["number"]
            assert first != second
            partners.add((first, second))
    assert len(partners) > 60


def test_the_mixtures_are_the_same_on_any_ranks_workers_and_after_a_resume(audio_shards: Path) -> None:
    alone = take(module(audio_shards, transforms=[MixSounds()]), 4)
    helped = take(module(audio_shards, transforms=[MixSounds()], num_workers=2), 4)
    for one, other in zip(alone, helped, strict=True):
        assert torch.equal(one.wav, other.wav)  # type: ignore[arg-type]
    for rank in range(4):  # 4 ranks, begun at the third batch
        data = module(audio_shards, transforms=[MixSounds()])
        data.setup("fit")
        single = data.train_dataloader()
        share = StreamLoader(
            single.dataset, single.journal, batch_size=8, num_batches=2, rank=rank, world_size=4, position=16
        )
        for batch, whole in zip(share, alone[2:], strict=True):
            rows = slice(2 * rank, 2 * rank + 2)
            assert batch.wav is not None
            assert whole.wav is not None
            assert torch.equal(batch.wav, whole.wav[rows])
            assert batch.attributes == whole.attributes[rows]


def test_audiocrafts_mixing_of_a_loader(audio_shards: Path) -> None:
    """Half the loader's batch, the same again after a resume, other mixtures in other batches."""
    settings: dict[str, Any] = {"batch_transforms": [AudioCraftMixing(p=1.0)]}
    batches = take(module(audio_shards, **settings), 4)
    assert [len(batch) for batch in batches] == [4] * 4
    assert all("+" in key for batch in batches for key in batch.keys)
    data = module(audio_shards, num_workers=1, **settings)
    data.setup("fit")
    loader = data.train_dataloader()
    loader.load_state_dict({**loader.state_dict(), "position": 16})
    again = next(iter(loader))
    assert again.keys == batches[2].keys
    assert torch.equal(again.wav, batches[2].wav)  # type: ignore[arg-type]
    assert len(next(iter(data.val_dataloader()))) == 5  # validation is left as it is
    assert isinstance(loader.dataset, StreamDataset)


def test_bad_clips_to_mix_with_are_passed_over(audio_shards: Path) -> None:
    source = module(audio_shards).source("train", training=True)
    read, asked = source._read, []

    def failing(shard: int, nth: int, rng: np.random.Generator) -> Sample:
        asked.append((shard, nth))
        if len(asked) in (2, 3):
            raise ValueError("is cut")
        return read(shard, nth, rng)

    source._read = failing  # type: ignore[method-assign]
    source.transforms = [MixSounds(p=1.0)]
    mixed = source.load(0, 0, np.random.default_rng(0))
    assert len(asked) == 4
    assert len(mixed.attributes["description"].split()) == 4


def test_codes_cannot_be_mixed(code_shards: Path, tmp_path: Path) -> None:
    data = TokenDataModule(
        code_shards, batch_size=4, num_frames=20, transforms=[MixSounds(p=1.0)], log_folder=tmp_path
    )
    data.setup("fit")
    with (
        pytest.warns(UserWarning, match="no other clips"),
        pytest.raises(ValueError, match="no other clips to mix"),
    ):
        next(iter(data.train_dataloader()))


def test_settings_that_make_no_sense() -> None:
    for settings in ({"p": 1.5}, {"min_overlap": -0.1}):
        with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
            MixSounds(**settings)
    with pytest.raises(ValueError, match="snr_low <= snr_high, got 5 dB and -5 dB"):
        AudioCraftMixing(snr_low=5, snr_high=-5)
    with pytest.raises(ValueError, match="level_low"):
        MixSounds(level_low=-10.0)
    with pytest.raises(ValueError, match="share"):
        AudioCraftMixing(share=0.0)
