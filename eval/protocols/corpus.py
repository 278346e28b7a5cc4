"""What is measured of a codec, of a language model and of generations, each number with its baselines.

A protocol reads batches, runs the model, and gives `Measurement`s for a card; where the batches come from and
what is written where is not its business.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from eval.bootstrap import Interval, bootstrap_mean
from eval.card import Measurement
from eval.clip_scores import ClipScores, clip_faults
from eval.embedders import Embedder
from eval.fad import FrechetDistance, bootstrap_frechet
from eval.language_model import CodebookCrossEntropy, UnigramCrossEntropy, count_codes
from eval.reconstruction import MelDistance, SiSDR, constant_baseline, si_sdr
from eval.steering import AttributeClassifier, Steering, SteeringAccuracy
from lightning_audio.batch import Attributes, AudioBatch
from lightning_audio.codec.encodec import EnCodec


@dataclass(frozen=True)
class CodecScores:
    """Of a codec: the numbers, how often each code occurred [K, card], faults by clip, and the first clips.

    examples: (key, original [C, L], reconstruction [C, L], SI-SDR in dB).
    reconstructions: of every clip, [C, L] each, in the order of the batches.
    """

    measurements: list[Measurement]
    code_counts: Tensor
    faults: dict[str, str]
    examples: list[tuple[str, Tensor, Tensor, float]]
    reconstructions: list[Tensor]


@torch.inference_mode()
def score_codec(
    codec: EnCodec, batches: Iterable[AudioBatch], *, untrained: EnCodec, num_examples: int = 6
) -> CodecScores:
    """Reconstruction quality, beside the same codec untrained and the best constant signal."""
    device = next(codec.decoder.parameters()).device
    metrics: dict[str, list[ClipScores]] = {
        name: [SiSDR().to(device), MelDistance(sample_rate=codec.sample_rate).to(device)]
        for name in ("trained", "untrained", "constant")
    }
    counts = torch.zeros(codec.num_codebooks, codec.cardinality, dtype=torch.int64)
    faults: dict[str, str] = {}
    examples: list[tuple[str, Tensor, Tensor, float]] = []
    reconstructions: list[Tensor] = []
    for batch in (batch.to(device) for batch in batches):
        assert batch.wav is not None
        assert batch.num_samples is not None
        faults |= clip_faults(batch.wav, batch.keys, batch.num_samples)
        decoded = codec(batch.wav)
        estimates = {
            "trained": decoded.wav,
            "untrained": untrained(batch.wav).wav,
            "constant": constant_baseline(batch.wav, batch.num_samples),
        }
        for name, estimate in estimates.items():
            for metric in metrics[name]:
                metric.update(estimate, batch.wav, batch.num_samples)
        counts += count_codes(decoded.codes, codec.cardinality).cpu()
        scores = si_sdr(decoded.wav, batch.wav, batch.num_samples).tolist()
        for key, wav, output, length, score in zip(
            batch.keys, batch.wav.cpu(), decoded.wav.cpu(), batch.num_samples.tolist(), scores, strict=True
        ):
            reconstructions.append(output[:, :length])
            if len(examples) < num_examples:
                examples.append((key, wav[:, :length], output[:, :length], score))
    measurements = [
        _clip_measurement(
            "SI-SDR", "dB", "How much of the waveform the codec keeps", {n: m[0] for n, m in metrics.items()}
        ),
        _clip_measurement(
            "Mel distance",
            "dB",
            "How far the codec's spectrum is from the original's, over six resolutions",
            {n: m[1] for n, m in metrics.items()},
        ),
    ]
    return CodecScores(measurements, counts, faults, examples, reconstructions)


def _clip_measurement(name: str, unit: str, meaning: str, scores: dict[str, ClipScores]) -> Measurement:
    trained = scores["trained"]
    clips = trained.clip_scores()
    return Measurement(
        name=name,
        value=float(trained.compute()),
        higher_is_better=bool(trained.higher_is_better),
        meaning=meaning,
        unit=unit,
        interval=bootstrap_mean(clips),
        baselines={other: float(score.compute()) for other, score in scores.items() if other != "trained"},
        num_clips=len(clips),
        group="Codec, on test clips",
    )


class PredictingModel(Protocol):
    """The part of a token language model that is scored."""

    num_codebooks: int
    cardinality: int

    def conditioning(self, attributes: Sequence[Attributes]) -> Any: ...

    def predictions(self, codes: Tensor, conditions: Any) -> tuple[Tensor, Tensor]:
        """codes [B, K, T] -> logits [B, K, T, card], and [K, T] bool: which frames are predicted at all."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


@torch.inference_mode()
def score_language_model(
    lm: PredictingModel, training: Iterable[AudioBatch], validation: Iterable[AudioBatch]
) -> list[Measurement]:
    """Cross-entropy of each codebook on validation clips, beside predicting codes by their frequency."""
    device = next(lm.parameters()).device
    model = CodebookCrossEntropy(lm.num_codebooks).to(device)
    unigram = UnigramCrossEntropy(lm.num_codebooks, lm.cardinality).to(device)
    for batch in training:
        codes, mask = _codes_and_mask(batch.to(device))
        unigram.update(codes, mask, training=True)
    for batch in (batch.to(device) for batch in validation):
        codes, mask = _codes_and_mask(batch)
        logits, is_predicted = lm.predictions(codes, lm.conditioning(batch.attributes))
        predicted_mask = mask & is_predicted
        model.update(logits, codes, predicted_mask)
        unigram.update(codes, predicted_mask, training=False)
    values, baselines, intervals = model.compute(), unigram.compute(), model.intervals()
    return [
        Measurement(
            name=f"Cross-entropy, codebook {k + 1}",
            value=float(values[k]),
            higher_is_better=False,
            meaning=f"Surprise per code; {math.exp(values[k]):.0f} equally likely codes would surprise as much",
            unit="nats",
            interval=intervals[k],
            baselines={"unigram": float(baselines[k])},
            group="Language model, on validation clips",
        )
        for k in range(lm.num_codebooks)
    ]


def _codes_and_mask(batch: AudioBatch) -> tuple[Tensor, Tensor]:
    """codes [B, K, T] and, of the same shape, True where a frame belongs to its clip."""
    assert batch.codes is not None
    assert batch.num_frames is not None
    frames = torch.arange(batch.codes.shape[-1], device=batch.codes.device)
    return batch.codes, (frames < batch.num_frames[:, None])[:, None].expand_as(batch.codes)


def score_steering(
    wavs: Sequence[Tensor],
    attributes: Sequence[Attributes],
    sample_rate: int,
    classifier: AttributeClassifier,
    *,
    known: dict[str, dict[str, Steering]],
) -> list[Measurement]:
    """How often generations [C, L] are heard to be what their caption says, against a guess.

    known: what the classifier scores on clips whose truth is known, by a name such as "test clips": the most
    that a perfect model could be credited with.
    """
    found = []
    for name, steering in steering_of(classifier, wavs, attributes, sample_rate).items():
        ceiling = ", ".join(
            f"{100 * scores[name].accuracy:.0f} % on {what}" for what, scores in known.items()
        )
        subject = "Everything" if name == "all" else f"The {name}"
        found.append(
            Measurement(
                name="Text steering, all at once" if name == "all" else f"Text steering, {name}",
                value=100 * steering.accuracy,
                higher_is_better=True,
                meaning=f"{subject} is what the caption asked for (the same listener: {ceiling})",
                unit="%",
                interval=Interval(low=100 * steering.low, high=100 * steering.high),
                baselines={"chance": 100 * steering.chance, "other captions": 100 * steering.shuffled},
                num_clips=steering.num_clips,
                group="Generation, from test captions",
            )
        )
    return found


def steering_of(
    classifier: AttributeClassifier,
    wavs: Sequence[Tensor],
    attributes: Sequence[Attributes],
    sample_rate: int,
) -> dict[str, Steering]:
    """The classifier's own score on clips [C, L] whose truth is known."""
    metric = SteeringAccuracy(classifier)
    metric.update(wavs, sample_rate=sample_rate, attributes=attributes)
    return metric.compute()


@torch.inference_mode()
def score_distance(
    generated: Sequence[Tensor],
    reference: Sequence[Tensor],
    sample_rate: int,
    embedder: Embedder,
    *,
    baselines: dict[str, Sequence[Tensor]],
    label: str,
) -> tuple[Measurement, list[Measurement]]:
    """Fréchet distance of generations to reference clips, and canaries that show what good and bad look like.

    All clips [C, L] at `sample_rate` Hz.  baselines: sets that a model must beat, such as shuffled codes.
    """
    sets = {"generated": generated, "reference": reference, **baselines}
    embedded = {name: _embed(embedder, clips, sample_rate) for name, clips in sets.items()}
    target = embedded["reference"]
    value = _distance(embedded["generated"], target)
    measurement = Measurement(
        name=f"Fréchet distance, {label}",
        value=value,
        higher_is_better=False,
        meaning=f"How unlike the test clips the generations are, as a set, to the embedder {embedder.name}",
        interval=bootstrap_frechet(embedded["generated"], target),
        baselines={name: _distance(embedded[name], target) for name in baselines},
        num_clips=len(generated),
        group="Generation, from test captions",
    )
    halves = _distance(target[::2], target[1::2])
    canaries = [
        Measurement(
            name=f"{label}: the reference's own halves",
            value=halves,
            higher_is_better=False,
            meaning="Two halves of real clips against each other: about the least that so few clips can reach",
        ),
        *(
            Measurement(
                name=f"{label}: {what}",
                value=_distance(_embed(embedder, clips, sample_rate), target),
                higher_is_better=False,
                meaning=meaning,
            )
            for what, meaning, clips in _bad_sets(reference)
        ),
    ]
    return measurement, canaries


def _bad_sets(reference: Sequence[Tensor]) -> list[tuple[str, str, list[Tensor]]]:
    generator = torch.Generator().manual_seed(0)
    noise = [0.1 * torch.randn(clip.shape, generator=generator) for clip in reference]
    silence = [torch.zeros_like(clip) for clip in reference]
    return [
        ("white noise", "What a broken model scores", noise),
        ("silence", "What a silent model scores", silence),
    ]


def _embed(embedder: Embedder, clips: Sequence[Tensor], sample_rate: int) -> Tensor:
    """Embeddings of clips [C, L], each by itself so that lengths may differ.  -> [N, D]"""
    return torch.cat([embedder.embed(clip[None], sample_rate).cpu() for clip in clips])


def _distance(embeddings: Tensor, reference: Tensor) -> float:
    metric = FrechetDistance(embeddings.shape[1])
    metric.update(embeddings, reference=False)
    metric.update(reference, reference=True)
    return float(metric.compute())
