"""Several datasets as one stream, each with its share of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from datamodules.order import MixtureOrder, Order, StreamOrder
from datamodules.resume import Source
from datamodules.stream import LoaderDataModule, StreamDataModule
from datamodules.transforms import Sample
from lightning_audio.batch import AudioBatch

_OF_SOURCES = ("sample_rate", "channels", "segment_duration", "num_frames")


class MixtureSource:
    """The samples of several sources, their shards numbered one source after the other.

    A key is that of the sample after the name of its dataset: "music/track7".
    """

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self.sources = dict(sources)
        self.counts = np.concatenate([source.counts for source in self.sources.values()])
        self._names = list(self.sources)
        self._ends = np.cumsum([len(source.counts) for source in self.sources.values()])
        self._collate = next(iter(self.sources.values())).collate

    def load(self, shard: int, nth: int, rng: np.random.Generator) -> Sample:
        dataset, own_shard = self._find(shard)
        loaded = self.sources[dataset].load(own_shard, nth, rng)
        return replace(loaded, key=f"{dataset}/{loaded.key}")

    def name(self, shard: int, nth: int) -> tuple[str, str]:
        dataset, own_shard = self._find(shard)
        shard_name, key = self.sources[dataset].name(own_shard, nth)
        return f"{dataset}/{shard_name}", f"{dataset}/{key}"

    def collate(self, samples: Sequence[Sample]) -> AudioBatch:
        return self._collate(samples)

    def _find(self, shard: int) -> tuple[str, int]:
        """The dataset, and the shard's number in it."""
        place = int(np.searchsorted(self._ends, shard, side="right"))
        dataset = self._names[place]
        return dataset, shard - int(self._ends[place]) + len(self.sources[dataset].counts)


class MixtureDataModule(LoaderDataModule):
    """Batches of several datasets, all of one kind: audio of one form, or codes of one codec.

    datasets: by name, what is its own of each dataset: its path, and any other argument of `each`.
    each: the data module of one dataset, `AudioDataModule` or `TokenDataModule` (in a config with `_partial_`).
    weights: by name, each dataset's share of the samples (None: the hours of its training split). The order is
        `MixtureOrder`'s, and `epoch_batches` None is about as many samples as the datasets have together.
    block: positions in which the shares are exact.
    settings: of all datasets alike, arguments of `each`: those of `LoaderDataModule` too, which are the mixture's.
    Validation and test take the datasets that have such a split one after the other, whole.
    """

    def __init__(
        self,
        datasets: Mapping[str, Mapping[str, Any]],
        *,
        each: Callable[..., StreamDataModule],
        weights: Mapping[str, float] | None = None,
        block: int = 1024,
        **settings: Any,
    ) -> None:
        of_loaders = inspect.signature(LoaderDataModule).parameters
        super().__init__(**{name: value for name, value in settings.items() if name in of_loaders})
        if not datasets:
            raise ValueError("a mixture of no datasets")
        if weights is not None and weights.keys() != datasets.keys():
            raise ValueError(f"weights are of {sorted(weights)}, the datasets are {sorted(datasets)}")
        self.modules = {name: each(**{**settings, **own}) for name, own in datasets.items()}
        self._weights = weights
        self.block = block

    @property
    def splits(self) -> list[str]:
        return list(dict.fromkeys(split for module in self.modules.values() for split in module.splits))

    @property
    def weights(self) -> dict[str, float]:
        """Each dataset's share, by name; they need not sum to 1."""
        if self._weights is not None:
            return dict(self._weights)
        return {name: module.info(self.train_split).duration / 3600 for name, module in self.modules.items()}

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        for module in self.modules.values():
            module.setup(stage)

    def source(self, split: str, *, training: bool) -> MixtureSource:
        sources = {
            name: module.source(split, training=training)
            for name, module in self.modules.items()
            if training or split in module.splits
        }
        _refuse_unlike({name: _kind(self.modules[name], source, split) for name, source in sources.items()})
        return MixtureSource(sources)

    def order(self, source: Source) -> Order:
        assert isinstance(source, MixtureSource)
        orders = {
            # Each has an order of its own, which another dataset that joins does not change.
            name: StreamOrder(one.counts, seed=_seed(self.seed, name), window=self.window)
            for name, one in source.sources.items()
        }
        return MixtureOrder(orders, self.weights, seed=self.seed, block=self.block)


def _seed(seed: int, name: str) -> int:
    return int(np.random.SeedSequence([seed, *name.encode()]).generate_state(1, np.uint64)[0] >> 1)


def _refuse_unlike(kinds: Mapping[str, Mapping[str, object]]) -> None:
    (first, mine), *others = kinds.items()
    for name, its in others:
        for what in mine:
            if mine[what] != its[what]:
                raise ValueError(
                    f"{first} and {name} make no batch together: {what} is {mine[what]} and {its[what]}"
                )


def _kind(module: StreamDataModule, source: Source, split: str) -> dict[str, object]:
    """What must be the same of all datasets, for their samples to make one batch."""
    info, features = module.info(split), getattr(module, "features", ())
    codes = getattr(source, "codes", None)
    return {
        "the kind of source": type(source).__name__,
        **{what: getattr(source, what, None) for what in _OF_SOURCES},
        "the codec": codes and (codes.codec_hash, codes.frame_rate, codes.num_codebooks, codes.cardinality),
        "conditions": list(getattr(module, "conditions", ())),
        "features": {name: info.features[name].encoder_hash for name in features if name in info.features},
    }
