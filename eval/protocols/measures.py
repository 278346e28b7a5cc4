"""What is measured of a set of clips: a metric, what hears the clips for it, and how the number stands on a card.

A measure sees the clips one by one, those of the model under judgement and those of canaries, and holds a torchmetrics
`Metric` for each such set. Each clip is embedded by itself: no number depends on what else was in a batch.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from eval.bootstrap import bootstrap_mean
from eval.card import EmbedderInfo, Measurement, SizeCurve
from eval.clip_scores import ClipMean, ClipScores
from eval.embedders.base import Embedder, Tagger
from eval.protocols.judged import Canary, Judged
from eval.protocols.set_distance import Distance, SetScores

JUDGED = "judged"
"""The name of the set that is judged, beside those of the canaries."""


@dataclass
class Results:
    """What goes on the card.  scores_of: a measurement's name to the scores [N] of named clips."""

    measurements: list[Measurement] = field(default_factory=list)
    canaries: list[Measurement] = field(default_factory=list)
    size_curves: dict[str, SizeCurve] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    scores_of: dict[str, Callable[[Sequence[str]], Tensor]] = field(default_factory=dict)


def joined(parts: Sequence[Results]) -> Results:
    """The results of several measures, in their order."""
    total = Results()
    for part in parts:
        total.measurements += part.measurements
        total.canaries += part.canaries
        total.size_curves |= part.size_curves
        total.warnings += part.warnings
        total.scores_of |= part.scores_of
    return total


class Measure(Protocol):
    """needs_pairs: each clip is compared with one of the reference, or with its caption."""

    needs_pairs: bool
    needs_captions: bool

    def hears(self) -> list[EmbedderInfo]:
        """The networks that hear the clips."""
        ...

    def prepare(self, canaries: dict[str, Canary]) -> None:
        """Begins anew, with the sets that there will be."""
        ...

    def reference(self, target: Judged) -> None:
        """A clip of the reference set, as `wav`."""
        ...

    def update(self, name: str, judged: Judged) -> None:
        """A clip of the judged set or of a canary's."""
        ...

    def results(self) -> Results:
        """Of all ranks; all of them call it."""
        ...


def heard_by(network: Embedder | Tagger) -> EmbedderInfo:
    """What a card says of an embedder or a tagger."""
    return EmbedderInfo(network.name, network.sample_rate, network.weights_hash, str(network.hearing))


class SetDistances:
    """Distances between the set of clips and the reference set, all in the space of one embedder.

    distances: by the name that stands on the card.
    """

    needs_pairs = False
    needs_captions = False

    def __init__(self, *, embedder: Embedder, distances: dict[str, Distance]) -> None:
        self.embedder, self.distances = embedder, distances

    def hears(self) -> list[EmbedderInfo]:
        return [heard_by(self.embedder)]

    def prepare(self, canaries: dict[str, Canary]) -> None:
        self.canaries = {name: canary for name, canary in canaries.items() if canary.changes_audio}
        self.scores = SetScores(self.distances, [JUDGED, *self.canaries])

    def reference(self, target: Judged) -> None:
        self.scores.reference(self._rows(target), target.key, target.place)

    def update(self, name: str, judged: Judged) -> None:
        if name == JUDGED or name in self.canaries:
            self.scores.update(name, self._rows(judged), judged.key)

    def _rows(self, judged: Judged) -> Tensor:
        return self.embedder.embed(judged.wav[None], judged.sample_rate).detach().float().cpu()

    def results(self) -> Results:
        found = Results()
        self.scores.finish()
        for label, distance in self.distances.items():
            meaning = f"{distance.meaning}, to the embedder {self.embedder.name}"
            value = self.scores.value(label, JUDGED, found.warnings)
            counts = self.scores.counts(label)
            found.measurements.append(
                Measurement(
                    name=label,
                    value=value,
                    higher_is_better=False,
                    meaning=meaning,
                    interval=self.scores.interval(label) if math.isfinite(value) else None,
                    num_clips=counts.get(JUDGED),
                    group="Generation",
                )
            )
            if math.isfinite(value) and (curve := self.scores.size_curve(label)):
                found.size_curves[label] = curve
            if not distance.canaries:
                continue
            sets = {name: canary.meaning for name, canary in self.canaries.items()}
            for name, about in {**sets, self.scores.HALVES: self.scores.HALVES_MEANING}.items():
                value = self.scores.value(label, name, found.warnings)
                found.canaries.append(Measurement(f"{label}: {name}", value, False, about))
        return found


class ClipMeasure:
    """The mean of a score per clip; a subclass says how a metric is fed with a clip.

    names: one for each score that the metric gives, in its order, as they stand on the card.
    metric: makes one; there is one for each set.
    """

    needs_pairs = True
    needs_captions = False

    def __init__(
        self, *, names: Sequence[str], metric: Callable[[], ClipMean], meaning: str, unit: str = ""
    ) -> None:
        self.names, self.metric, self.meaning, self.unit = list(names), metric, meaning, unit
        self.prepare({})

    @abstractmethod
    def add(self, metric: Any, judged: Judged) -> None:
        """One clip."""

    def hears(self) -> list[EmbedderInfo]:
        return []

    def extra_sets(self) -> dict[str, str]:
        """Further canaries of this measure: name to meaning."""
        return {}

    def prepare(self, canaries: dict[str, Canary]) -> None:
        self.sets = {name: canary.meaning for name, canary in canaries.items()} | self.extra_sets()
        self.metrics = {name: self.metric() for name in (JUDGED, *self.sets)}

    def reference(self, target: Judged) -> None:
        """Nothing: clips come with what they are compared with."""

    def update(self, name: str, judged: Judged) -> None:
        self.add(self.metrics[name], judged)

    def results(self) -> Results:
        found = Results()
        values = {name: self._values(metric, found.warnings, name) for name, metric in self.metrics.items()}
        judged = self.metrics[JUDGED]
        clips = judged.clip_scores()
        columns = clips[:, None] if clips.ndim == 1 else clips  # [N, scores]
        for column, label in enumerate(self.names):
            scores = columns[:, column]
            found.measurements.append(
                Measurement(
                    name=label,
                    value=values[JUDGED][column],
                    higher_is_better=bool(judged.higher_is_better),
                    meaning=self.meaning,
                    unit=self.unit,
                    interval=bootstrap_mean(scores) if len(scores) > 1 else None,
                    num_clips=len(scores),
                    group="Generation",
                )
            )
            found.scores_of[label] = lambda keys, column=column: _column(judged.scores_of(keys), column)  # type: ignore[misc]
            found.canaries += [
                Measurement(
                    f"{label}: {name}", values[name][column], bool(judged.higher_is_better), about, self.unit
                )
                for name, about in self.sets.items()
            ]
        return found

    def _values(self, metric: ClipMean, warnings: list[str], name: str) -> list[float]:
        # Asked first: a metric that raises amid `compute` keeps the states of all ranks.
        if len(metric.clip_scores()) == 0:
            warnings.append(f"{', '.join(self.names)} of {name}: no clip could be scored")
            return [math.nan] * len(self.names)
        return [float(value) for value in metric.compute().reshape(-1)]


def _column(scores: Tensor, column: int) -> Tensor:
    return scores if scores.ndim == 1 else scores[:, column]


class PairedScores(ClipMeasure):
    """A score of each clip beside its reference, such as SI-SDR.  metric: makes a `ClipScores`."""

    def add(self, metric: ClipScores, judged: Judged) -> None:
        wav, target = judged.pair
        metric.update(wav[None], target[None], keys=[judged.key])


class TaggerScores(ClipMeasure):
    """How differently a tagger hears each clip and its reference.  metric: makes a `TaggerDivergence`."""

    def __init__(self, *, tagger: Tagger, **options: Any) -> None:
        self.tagger = tagger
        super().__init__(**options)

    def hears(self) -> list[EmbedderInfo]:
        return [heard_by(self.tagger)]

    def add(self, metric: Any, judged: Judged) -> None:
        ours, theirs = (
            self.tagger.logits(wav[None], judged.sample_rate).detach().cpu() for wav in judged.pair
        )
        metric.update([ours], [theirs], [judged.key])


class TextEmbedder(Embedder, Protocol):
    """An embedder of audio and of texts, in one space."""

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """[N] texts -> [N, D]"""
        ...


class CaptionScores(ClipMeasure):
    """How well each clip fits its caption.  metric: makes a `ClapScore`.

    The clip's embeddings, where it has several, count as their mean.
    """

    needs_captions = True
    REFERENCE = "the reference clips"

    def __init__(self, *, embedder: TextEmbedder, **options: Any) -> None:
        self.embedder = embedder
        super().__init__(**options)

    def hears(self) -> list[EmbedderInfo]:
        return [heard_by(self.embedder)]

    def extra_sets(self) -> dict[str, str]:
        return {self.REFERENCE: "The reference clips with their own captions"}

    def reference(self, target: Judged) -> None:
        self.add(self.metrics[self.REFERENCE], target)

    def add(self, metric: Any, judged: Judged) -> None:
        audio = self.embedder.embed(judged.wav[None], judged.sample_rate).detach().float().cpu()
        text = self.embedder.embed_text([judged.caption or ""]).detach().float().cpu()
        metric.update(audio.mean(0, keepdim=True), text, [judged.key])
