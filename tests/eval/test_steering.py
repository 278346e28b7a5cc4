"""Steering: the classifier learns what it is shown, and the score is what a hand count gives."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from datamodules.synthetic import CLASSES, make_corpus
from eval.clip_features import ClipFeatures, degrade
from eval.steering import AttributeClassifier, SteeringAccuracy

RATE = 8000


def clip(pitch: str, pulse: str, generator: torch.Generator) -> Tensor:
    """Two seconds of short tones, low or high, slow or fast.  [1, L]"""
    jitter = 1.0 + 0.1 * torch.rand(2, generator=generator)
    frequency = {"low": 200.0, "high": 900.0}[pitch] * jitter[0]
    rate = {"slow": 1.7, "fast": 4.0}[pulse] * jitter[1]
    time = torch.arange(2 * RATE) / RATE
    return (
        0.5 * (torch.sin(2 * math.pi * frequency * time) * torch.exp(-8.0 * (time * rate % 1.0) / rate))[None]
    )


def toy_set(copies: int, seed: int) -> tuple[list[Tensor], list[dict[str, str]]]:
    generator = torch.Generator().manual_seed(seed)
    labels = [{"pitch": p, "pulse": r} for p in ("low", "high") for r in ("slow", "fast")] * copies
    return [clip(label["pitch"], label["pulse"], generator) for label in labels], labels


def fit(seed: int = 0) -> AttributeClassifier:
    wavs, labels = toy_set(6, 1)
    return AttributeClassifier.fit(
        wavs, labels, sample_rate=RATE, names=["pitch", "pulse"], seed=seed, copies=1, steps=60
    )


@pytest.fixture(scope="module")
def classifier() -> AttributeClassifier:
    return fit()


def test_hears_what_it_was_taught(classifier: AttributeClassifier) -> None:
    wavs, labels = toy_set(4, 2)
    heard = classifier.predict(torch.stack(wavs), RATE)
    assert heard == {name: [label[name] for label in labels] for name in ("pitch", "pulse")}
    stereo_and_quiet = [0.02 * wav.expand(2, -1) for wav in wavs]
    assert classifier.predict(stereo_and_quiet, RATE) == heard


def test_same_seed_same_classifier(classifier: AttributeClassifier) -> None:
    state = torch.get_rng_state()
    again, other = fit(), fit(seed=1)
    assert (torch.get_rng_state() == state).all()  # the caller's own random numbers are left alone
    for name, value in classifier.named_parameters():
        assert torch.equal(value, again.get_parameter(name))
    assert not torch.equal(classifier.body[1].weight, other.body[1].weight)


def test_saved_and_loaded(classifier: AttributeClassifier) -> None:
    wavs, _ = toy_set(1, 3)
    copy = AttributeClassifier(classes=classifier.classes, sample_rate=RATE)
    copy.load_state_dict(classifier.state_dict())
    assert copy.predict(wavs, RATE) == classifier.predict(wavs, RATE)
    other = AttributeClassifier(classes={"pitch": ["a", "b"], "pulse": ["c", "d"]}, sample_rate=RATE)
    with pytest.raises(ValueError, match="the saved classifier"):
        other.load_state_dict(classifier.state_dict())


def test_features_ignore_gain_and_survive_silence() -> None:
    features = ClipFeatures(sample_rate=RATE)
    wav = clip("low", "fast", torch.Generator().manual_seed(0))
    torch.testing.assert_close(features(wav), features(0.05 * wav), atol=1e-3, rtol=1e-3)
    assert features(torch.zeros(1, 2 * RATE)).isfinite().all()


def test_degraded_clips_are_still_clips() -> None:
    wav = clip("low", "fast", torch.Generator().manual_seed(0)).expand(8, -1)
    worse = degrade(wav, torch.Generator().manual_seed(0))
    assert worse.shape == (8, 3 * wav.shape[-1] // 4)
    assert worse.isfinite().all()
    assert degrade(torch.zeros(1, RATE), torch.Generator()).isfinite().all()


def test_score_is_a_count(classifier: AttributeClassifier) -> None:
    steering = SteeringAccuracy(classifier)
    wavs, labels = toy_set(5, 4)
    # One caption in four asks for the other pitch, which is not what the clip is.
    asked = [
        {**a, "pitch": "low" if a["pitch"] == "high" else "high"} if i % 4 == 0 else a
        for i, a in enumerate(labels)
    ]
    steering.update(wavs[:7], sample_rate=RATE, attributes=asked[:7])
    steering.update(torch.stack(wavs[7:]), sample_rate=RATE, attributes=asked[7:])
    scores = steering.compute()
    assert list(scores) == ["pitch", "pulse", "all"]
    assert scores["pitch"].accuracy == 0.75
    assert scores["pulse"].accuracy == 1.0
    assert scores["all"].accuracy == 0.75
    assert [score.chance for score in scores.values()] == [0.5, 0.5, 0.25]
    assert scores["pitch"].low < 0.75 < scores["pitch"].high
    assert scores["pitch"].num_clips == 20


def test_shuffled_captions_are_the_mean_over_all_other_captions(classifier: AttributeClassifier) -> None:
    steering = SteeringAccuracy(classifier)
    wavs, labels = toy_set(3, 5)
    steering.update(wavs, sample_rate=RATE, attributes=labels)
    heard = classifier.predict(wavs, RATE)["pulse"]
    pairs = [heard[i] == labels[j]["pulse"] for i in range(12) for j in range(12) if i != j]
    assert steering.compute()["pulse"].shuffled == pytest.approx(sum(pairs) / len(pairs))


def test_bad_input_is_named(classifier: AttributeClassifier) -> None:
    wavs, labels = toy_set(1, 0)
    steering = SteeringAccuracy(classifier)
    with pytest.raises(ValueError, match=r"16000 Hz.*8000 Hz"):
        classifier.predict(wavs, 16000)
    with pytest.raises(ValueError, match=r"pulse is 'brisk'.*fast, slow"):
        steering.update(wavs[:1], sample_rate=RATE, attributes=[{"pitch": "low", "pulse": "brisk"}])
    with pytest.raises(ValueError, match="4 clips with 3 sets"):
        steering.update(wavs, sample_rate=RATE, attributes=labels[:3])
    with pytest.raises(ValueError, match="too short to hear its tempo"):
        classifier.predict([wavs[0][:, :RATE]], RATE)
    with (
        pytest.raises(ValueError, match="no clips"),
        pytest.warns(UserWarning, match="before the ``update`` method"),
    ):
        SteeringAccuracy(classifier).compute()
    with pytest.raises(ValueError, match="fewer than two classes"):
        AttributeClassifier.fit(wavs[:1], labels[:1], sample_rate=RATE, names=["pitch"])


@pytest.mark.slow
def test_hears_the_embedded_corpus() -> None:
    """At least 95 % of clips of the test split in each attribute, taught on the training split."""
    pieces = list(make_corpus(num_pieces=288, seed=0))
    split = {name: [p for p in pieces if p.split == name] for name in ("train", "test")}
    wavs, labels = ([getattr(p, field) for p in split["train"]] for field in ("wav", "attributes"))
    classifier = AttributeClassifier.fit(wavs, labels, sample_rate=16000, names=list(CLASSES), copies=1)
    steering = SteeringAccuracy(classifier)
    steering.update(
        [p.wav for p in split["test"]], sample_rate=16000, attributes=[p.attributes for p in split["test"]]
    )
    scores = steering.compute()
    assert all(scores[name].accuracy >= 0.95 for name in CLASSES), scores
    assert all(abs(scores[name].shuffled - scores[name].chance) < 0.05 for name in CLASSES)
