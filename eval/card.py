"""The card: the numbers of one evaluation together with everything that made them."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from eval.bootstrap import Interval
from lightning_audio.atomic import write_text

SCHEMA_VERSION = 2
_PACKAGES = {"project": "lightning-audio"} | {
    name: name
    for name in (
        "torch",
        "lightning",
        "transformers",
        "torchmetrics",
        "numpy",
        "scipy",
        "julius",
        "soundfile",
    )
}


@dataclass(frozen=True)
class Measurement:
    """One number, with what a reader needs to judge it.

    name: short, as it stands in a table.     meaning: one plain line.
    unit: "dB", "nats", "%", or "".           baselines: name to value, such as {"untrained": -12.0}.
    group: measurements of one group stand together in a table.
    """

    name: str
    value: float
    higher_is_better: bool
    meaning: str
    unit: str = ""
    interval: Interval | None = None
    baselines: Mapping[str, float] = field(default_factory=dict)
    num_clips: int | None = None
    group: str = ""

    @property
    def beats_baselines(self) -> bool | None:
        """Whether the whole interval (or the value) is better than every baseline; None without any."""
        if not self.baselines:
            return None
        low, high = (self.interval.low, self.interval.high) if self.interval else (self.value, self.value)
        if not math.isfinite(self.value):
            return False
        if self.higher_is_better:
            return all(low > baseline for baseline in self.baselines.values())
        return all(high < baseline for baseline in self.baselines.values())


@dataclass(frozen=True)
class EmbedderInfo:
    """Which network heard the clips (an embedder or a tagger); `weights_hash` is None where it has no weights.

    hearing: how clips reached it: resampler and level, in words.
    """

    name: str
    sample_rate: int
    weights_hash: str | None = None
    hearing: str = ""


@dataclass(frozen=True)
class Durations:
    """Of the evaluated clips, in seconds."""

    total: float
    shortest: float
    longest: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Durations:
        if not seconds:
            raise ValueError("durations of no clips: the evaluated set is empty")
        return cls(total=float(sum(seconds)), shortest=float(min(seconds)), longest=float(max(seconds)))


@dataclass(frozen=True)
class SizeCurve:
    """A distance that depends on the number of clips, at several sizes, and where the line through them ends.

    points: (number of embeddings, distance).   limit: the line at infinitely many.   r_squared: how well it fits.
    """

    points: tuple[tuple[int, float], ...]
    limit: float
    slope: float
    r_squared: float


@dataclass(frozen=True)
class PublishedRow:
    """What others published for the same protocol: values by the measurement's name on the card, and where."""

    system: str
    source: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Card:
    """All of an evaluation. `save` writes it as JSON, `load` gives it back equal.

    num_clips: that were scored, of `num_items` that the set has (None: nobody said how many).
    resampler, loudness: the rules by which the judged audio was brought to one rate and level, in words; what an
        embedder does beyond that stands with the embedder.
    reference_hash: of the reference set.  missing: clips that could not be used, name to reason.
    faults: clips that were scored though something is wrong with them, such as silence, name to reason.
    seeds: one per purpose.  sampling: the keywords of `generate`.  canaries: what scores on this very set
    look like for silence, noise, shuffled captions, the reference's own halves.
    size_curves: by the name of the distance.   published: rows of papers and model cards to be compared with.
    """

    protocol: str
    model: str
    measurements: list[Measurement]
    num_clips: int
    durations: Durations
    embedders: list[EmbedderInfo] = field(default_factory=list)
    model_hash: str | None = None
    resampler: str = ""
    loudness: str = ""
    reference: str = ""
    reference_hash: str | None = None
    num_items: int | None = None
    missing: dict[str, str] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    seeds: dict[str, int] = field(default_factory=dict)
    sampling: dict[str, Any] = field(default_factory=dict)
    canaries: list[Measurement] = field(default_factory=list)
    size_curves: dict[str, SizeCurve] = field(default_factory=dict)
    published: list[PublishedRow] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    device: str = "cpu"
    versions: dict[str, str] = field(default_factory=lambda: package_versions())
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.num_clips < 1:
            raise ValueError(
                f"card of {self.protocol!r}: {self.num_clips} clips were evaluated, needs at least 1"
            )

    def save(self, path: str | Path) -> Path:
        """Writes card.json, whole or not at all."""
        return write_text(
            path, json.dumps(_encode(dataclasses.asdict(self)), indent=2, allow_nan=False) + "\n"
        )

    @classmethod
    def load(cls, path: str | Path) -> Card:
        """The card in a file; ValueError for one of another schema version, or one that is no card."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not a card: {error}") from error
        found = data.get("schema_version") if isinstance(data, dict) else None
        if found != SCHEMA_VERSION:
            raise ValueError(f"{path} has card version {found}, this program reads version {SCHEMA_VERSION}")
        try:
            data["measurements"] = [_measurement(item) for item in data["measurements"]]
            data["canaries"] = [_measurement(item) for item in data["canaries"]]
            data["embedders"] = [EmbedderInfo(**item) for item in data["embedders"]]
            data["size_curves"] = {name: _size_curve(item) for name, item in data["size_curves"].items()}
            data["published"] = [PublishedRow(**item) for item in data["published"]]
            data["durations"] = Durations(**data["durations"])
            return cls(**data)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a whole card: {error}") from error


def _size_curve(data: dict[str, Any]) -> SizeCurve:
    points = tuple((int(count), float(value)) for count, value in data.pop("points"))
    return SizeCurve(points=points, **{name: float(value) for name, value in data.items()})


def package_versions() -> dict[str, str]:
    """Of python and of the packages that a number can depend on; "absent" for those not installed."""
    versions = {"python": platform.python_version()}
    for label, package in _PACKAGES.items():
        try:
            versions[label] = version(package)
        except PackageNotFoundError:
            versions[label] = "absent"
    return versions


def _encode(value: Any) -> Any:
    """Floats that JSON lacks become text ("nan", "inf"): a diverged number must stay visible."""
    if isinstance(value, Mapping):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _measurement(data: dict[str, Any]) -> Measurement:
    interval = data.pop("interval")
    if interval is not None:
        interval = Interval(**{**interval, "low": float(interval["low"]), "high": float(interval["high"])})
    baselines = {name: float(value) for name, value in data.pop("baselines").items()}
    return Measurement(
        **{**data, "value": float(data["value"]), "interval": interval, "baselines": baselines}
    )
