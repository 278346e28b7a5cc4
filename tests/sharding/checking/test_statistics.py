from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_audio import audio
from sharding.checking.statistics import dataset_statistics, quantile
from sharding.schema import CodesInfo, ShardIndex, parse_codes

MakeDataset = Callable[..., Path]
MakeSample = Callable[..., tuple[str, dict[str, bytes]]]
CODES = CodesInfo(codec_hash="abc", frame_rate=100.0, num_codebooks=2, cardinality=64)


def test_counts_are_those_of_the_clips(make_dataset: MakeDataset, audio_sample: MakeSample) -> None:
    train = [
        [audio_sample(0, genre="jazz", mood=["calm", "warm", "calm"]), audio_sample(1, genre="rock", bpm=90)],
        [
            audio_sample(2, genre="jazz", description=["a b c", "d"]),
            audio_sample(3, genre="", extra={"a": 1}),
        ],
    ]
    dataset = make_dataset({"train": train, "test": [[audio_sample(4, genre="jazz")]]})
    found = dataset_statistics(dataset)
    split = found["train"]
    assert (split.num_clips, split.num_shards, found["test"].num_clips) == (4, 2, 1)
    assert split.seconds == pytest.approx(0.4)
    assert [quantile(split.durations, share) for share in (0, 0.5, 1)] == pytest.approx([0.1] * 3)
    assert (split.sample_rates, split.channels) == (Counter({8000: 4}), Counter({1: 4}))
    assert split.parts == {"flac": 4, "json": 4}
    genre, mood, extra = (split.attributes[name] for name in ("genre", "mood", "extra"))
    assert (genre.num_clips, genre.values) == (3, Counter(jazz=2, rock=1))
    assert (mood.num_clips, mood.values) == (1, Counter(calm=1, warm=1))  # a value counts once a clip
    assert (extra.num_clips, extra.complete) == (1, False)
    assert split.attributes["bpm"].values == Counter({"90": 1})
    assert "source" not in split.attributes
    assert split.num_words == Counter({2: 3, 3: 1, 1: 1})  # "noise 0", "noise 1", "noise 3", "a b c", "d"


def test_loudness_is_that_of_the_whole_clip(make_dataset: MakeDataset) -> None:
    wavs = [10 ** (-level / 20) * torch.sin(torch.arange(16000) * 0.7)[None] for level in (6, 20)]
    wavs += [torch.zeros(1, 16000), torch.ones(7, 16000)]
    samples = [
        (f"clip{i}", {"wav": audio.encode(wav, 8000, suffix=".wav", subtype="FLOAT"), "json": b"{}"})
        for i, wav in enumerate(wavs)
    ]
    split = dataset_statistics(make_dataset({"train": [samples]}))["train"]
    assert split.peaks == pytest.approx([-6, -20, -100, 0], abs=0.01)
    expected = [audio.integrated_loudness(wav[:5], 8000) for wav in wavs]
    assert split.loudness == pytest.approx([max(-100.0, loudness) for loudness in expected], abs=1e-3)
    assert split.loudness[2] == -100.0
    assert split.num_clipped == 1


def test_codes_are_counted(make_dataset: MakeDataset, code_sample: MakeSample) -> None:
    samples = [code_sample(seed) for seed in range(3)]
    split = dataset_statistics(make_dataset({"train": [samples[:2], samples[2:]]}, CODES))["train"]
    codes = np.concatenate([parse_codes(parts["codes.npy"]) for _, parts in samples], axis=1)
    assert split.num_code_clips == 3
    assert split.code_counts is not None
    assert np.array_equal(split.code_counts, [[(row == code).sum() for code in range(64)] for row in codes])
    assert split.loudness == []


@pytest.mark.slow
def test_as_many_clips_as_asked_are_read_whatever_the_workers(
    make_dataset: MakeDataset, audio_sample: MakeSample
) -> None:
    shards = [[audio_sample(4 * shard + i) for i in range(4)] for shard in range(3)]
    dataset = make_dataset({"train": shards})
    few = [dataset_statistics(dataset, num_decoded=5, workers=workers)["train"] for workers in (1, 2)]
    assert len(few[0].loudness) == 5
    assert few[0].loudness == few[1].loudness
    everything = dataset_statistics(dataset, num_decoded=None)["train"].loudness
    assert len(everything) == 12
    assert set(few[0].loudness) < set(everything)
    assert few[0].num_clips == 12
    assert dataset_statistics(dataset, num_decoded=0)["train"].loudness == []


def test_what_cannot_be_read_is_counted(make_dataset: MakeDataset, audio_sample: MakeSample) -> None:
    (_, good), values = audio_sample(0), {"description": "x"}
    samples = [
        ("a", good),
        ("b", {**good, "flac": b"junk", "json": json.dumps(values).encode()}),
        ("c", {**good, "json": b"[]"}),
    ]
    dataset = make_dataset({"train": [samples]})
    split = dataset_statistics(dataset)["train"]
    assert (split.num_clips, split.num_unreadable, len(split.loudness)) == (3, 2, 1)
    index = ShardIndex.load(dataset / "train/000000.index.json")
    ShardIndex(index.keys[:2], {n: t[:2] for n, t in index.parts.items()}, *np.ones((3, 2), np.int64)).save(
        dataset / "train/000000.index.json"
    )
    with pytest.raises(ValueError, match=r"2 samples in its index, dataset\.json says 3"):
        dataset_statistics(dataset)
    with pytest.raises(ValueError, match="not be negative, got -1"):
        dataset_statistics(dataset, num_decoded=-1)


def test_values_without_end_do_not_fill_memory(
    make_dataset: MakeDataset, audio_sample: MakeSample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharding.checking.statistics._MOST_VALUES", 2)
    shards = [
        [audio_sample(3 * shard + i, own=f"{shard} {i}", same="x", long="y" * 100) for i in range(3)]
        for shard in range(3)
    ]
    attributes = dataset_statistics(make_dataset({"train": shards}), num_decoded=0)["train"].attributes
    assert not attributes["own"].complete
    assert len(attributes["own"].values) <= 4
    assert (attributes["same"].complete, attributes["same"].values) == (True, Counter(x=9))
    assert (attributes["long"].complete, attributes["long"].values) == (False, Counter())
    assert {about.num_clips for about in attributes.values()} == {9}
