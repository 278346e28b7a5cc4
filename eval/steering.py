"""Does the text steer the music?  What a small classifier hears in a clip is held against its caption.

    classifier = AttributeClassifier.fit(wavs, attributes, sample_rate=16000, names=["instrument", "tempo"])
    steering = SteeringAccuracy(classifier)
    steering.update(generations, sample_rate=16000, attributes=of_their_captions)
    steering.compute()["tempo"].accuracy

Score the same classifier on real clips of the test split too: what it does not hear there, it cannot find in
generations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

from eval.bootstrap import bootstrap_mean
from eval.clip_features import ClipFeatures, degrade
from lightning_audio.batch import Attributes


class AttributeClassifier(nn.Module):
    """The class of each attribute that a clip seems to have.

    classes: the classes of each attribute, for instance {"tempo": ["slow", "fast"]}.  sample_rate: Hz.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        *,
        classes: Mapping[str, Sequence[str]],
        sample_rate: int,
        hidden: int = 64,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        if lone := [name for name, labels in classes.items() if len(labels) < 2]:
            raise ValueError(f"nothing to tell apart: {', '.join(lone)} has fewer than two classes")
        self.classes = {name: list(labels) for name, labels in classes.items()}
        self.sample_rate = sample_rate
        self.features = ClipFeatures(sample_rate=sample_rate)
        with torch.no_grad():
            size = self.features(torch.zeros(1, 2 * sample_rate)).shape[-1]
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        self.body = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(size, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.GELU(),
        )
        self.heads = nn.ModuleDict({name: nn.Linear(hidden, len(c)) for name, c in self.classes.items()})

    @classmethod
    def fit(
        cls,
        wavs: Sequence[Tensor],
        attributes: Sequence[Attributes],
        *,
        sample_rate: int,
        names: Sequence[str],
        seed: int = 0,
        copies: int = 2,
        steps: int = 300,
    ) -> AttributeClassifier:
        """A classifier trained on clips, each [C, L], of which `attributes` are known.

        names: the attributes to learn; their classes are the values that occur.
        copies: how often each clip is also seen degraded. Codec reconstructions of the clips, appended to
            `wavs` with their attributes repeated, make it surer still on generations.
        """
        if len(wavs) != len(attributes) or not wavs:
            raise ValueError(f"{len(wavs)} clips with {len(attributes)} sets of attributes")
        classes = {name: sorted({str(a[name]) for a in attributes}) for name in names}
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = cls(classes=classes, sample_rate=sample_rate)
            model._learn(_mono(wavs), model.targets(attributes), generator, copies=copies, steps=steps)
        return model.eval()

    def _learn(
        self, wavs: list[Tensor], targets: Tensor, generator: torch.Generator, *, copies: int, steps: int
    ) -> None:
        """Fit to the features of the clips [L] as they are and degraded, with targets [N, A]."""
        clean = self._describe(wavs)
        versions = [clean] + [
            self._describe([degrade(wav[None], generator)[0] for wav in wavs]) for _ in range(copies)
        ]
        seen = torch.stack(versions)  # [versions, N, size]
        self.mean, self.scale = seen.mean((0, 1)), seen.std((0, 1)).clamp_min(1e-3)
        optimizer = torch.optim.AdamW(self.parameters(), lr=2e-3, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        self.train()
        for _ in range(steps):
            clip = torch.randint(len(wavs), (128,), generator=generator)
            version = torch.randint(len(versions), (128,), generator=generator)
            scores = self.scores(seen[version, clip])
            losses = [
                F.cross_entropy(score, targets[clip, i], label_smoothing=0.05)
                for i, score in enumerate(scores.values())
            ]
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            optimizer.step()
            schedule.step()

    @torch.no_grad()
    def _describe(self, wavs: Sequence[Tensor]) -> Tensor:
        """Features of clips [L] of any lengths.  -> [N, size]"""
        device = self.mean.device
        return torch.cat([self.features(wav[None].to(device).float()) for wav in wavs])

    def scores(self, features: Tensor) -> dict[str, Tensor]:
        """Logits of each attribute's classes.  features [B, size] -> [B, classes] each."""
        hidden = self.body((features - self.mean) / self.scale)
        return {name: head(hidden) for name, head in self.heads.items()}

    def targets(self, attributes: Sequence[Attributes]) -> Tensor:
        """The index of each attribute's class.  -> [N, A] int64"""
        rows = []
        for item in attributes:
            for name, labels in self.classes.items():
                if str(item.get(name)) not in labels:
                    raise ValueError(
                        f"{name} is {item.get(name)!r}, the classifier knows {', '.join(labels)}"
                    )
            rows.append([labels.index(str(item[name])) for name, labels in self.classes.items()])
        return torch.tensor(rows).reshape(-1, len(self.classes))

    @torch.no_grad()
    def classify(self, wavs: Tensor | Sequence[Tensor], sample_rate: int) -> Tensor:
        """The index of the likeliest class of each attribute.  wavs: [B, C, L] or clips [C, L] -> [B, A]"""
        if sample_rate != self.sample_rate:
            raise ValueError(
                f"clips are {sample_rate} Hz, the classifier was trained at {self.sample_rate} Hz"
            )
        scores = self.eval().scores(self._describe(_mono(wavs)))
        return torch.stack([score.argmax(-1) for score in scores.values()], dim=-1)

    def predict(self, wavs: Tensor | Sequence[Tensor], sample_rate: int) -> dict[str, list[str]]:
        """The likeliest class of each attribute of each clip.  wavs: [B, C, L], or clips [C, L]"""
        columns = self.classify(wavs, sample_rate).unbind(-1)
        return {
            name: [labels[i] for i in column.tolist()]
            for (name, labels), column in zip(self.classes.items(), columns, strict=True)
        }

    def get_extra_state(self) -> dict[str, Any]:
        return {"classes": self.classes, "sample_rate": self.sample_rate}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        if state != self.get_extra_state():
            raise ValueError(f"the saved classifier is of {state}, this one of {self.get_extra_state()}")


def _mono(wavs: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """Clips [C, L] -> [L], the mean of their channels."""
    return [wav.mean(0) for wav in wavs]


class Steering(NamedTuple):
    """How often one attribute (or all together) is heard as the caption has it.

    accuracy: share of clips, with the bootstrap interval [low, high] over clips.
    chance: of a guess among the classes.  shuffled: against the captions of the other clips (a canary: what
    a model that ignores its captions would score; near chance where captions are balanced).
    """

    accuracy: float
    low: float
    high: float
    chance: float
    shuffled: float
    num_clips: int


class SteeringAccuracy(Metric):
    """Share of clips that the classifier hears as their captions say, per attribute and for "all" at once."""

    higher_is_better = True
    full_state_update = False
    heard: list[Tensor]
    wanted: list[Tensor]

    def __init__(self, classifier: AttributeClassifier, *, num_resamples: int = 1000, seed: int = 0) -> None:
        super().__init__()
        self.classifier = classifier.eval()
        self.num_resamples = num_resamples
        self.seed = seed
        self.add_state("heard", [], dist_reduce_fx="cat")  # [N, A] each
        self.add_state("wanted", [], dist_reduce_fx="cat")

    def update(
        self, wavs: Tensor | Sequence[Tensor], *, sample_rate: int, attributes: Sequence[Attributes]
    ) -> None:
        """wavs: [B, C, L], or clips [C, L].  attributes: what each one's caption asks for."""
        if len(wavs) != len(attributes):
            raise ValueError(f"{len(wavs)} clips with {len(attributes)} sets of attributes")
        self.heard.append(self.classifier.classify(wavs, sample_rate))
        self.wanted.append(self.classifier.targets(attributes).to(self.heard[-1].device))

    def compute(self) -> dict[str, Steering]:
        heard, wanted = _joined(self.heard), _joined(self.wanted)
        sizes = [len(labels) for labels in self.classifier.classes.values()]
        scores = {
            name: self._score(heard[:, [i]], wanted[:, [i]], sizes[i])
            for i, name in enumerate(self.classifier.classes)
        }
        return {**scores, "all": self._score(heard, wanted, int(torch.tensor(sizes).prod()))}

    def _score(self, heard: Tensor, wanted: Tensor, num_classes: int) -> Steering:
        """heard, wanted [N, a]: a clip counts where all `a` attributes agree."""
        agree = (heard[:, None] == wanted[None]).all(-1).double().cpu()  # [N, N]: clip i with caption j
        hits = agree.diagonal()
        interval = bootstrap_mean(hits, num_resamples=self.num_resamples, seed=self.seed)
        return Steering(
            accuracy=float(hits.mean()),
            low=interval.low,
            high=interval.high,
            chance=1 / num_classes,
            # Every clip against every other clip's caption: the mean over all shufflings, with no luck in it.
            shuffled=float((agree.sum() - hits.sum()) / (len(hits) * (len(hits) - 1))),
            num_clips=len(hits),
        )


def _joined(state: list[Tensor] | Tensor) -> Tensor:
    """A list state before or after torchmetrics has joined it over ranks.  -> [N, A]"""
    if isinstance(state, Tensor):
        return state
    if not state:
        raise ValueError("steering accuracy: no clips were given")
    return torch.cat(state)
