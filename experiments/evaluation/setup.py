"""What an evaluation consists of. All that can be wrong with it is found here, before any long work."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from eval.embedders.hearing import AsGiven, Level
from eval.protocols.measures import Measure
from experiments.compose import resolve
from experiments.evaluation.generations import Generations
from experiments.evaluation.items import (
    Item,
    ReferenceSet,
    audio_files,
    headers_of,
    one_rate,
    open_reference,
)
from experiments.evaluation.makers import Maker
from experiments.evaluation.ranks import Rank
from lightning_audio import load
from lightning_audio.audio import convert, read

LINKS = "judged"
"""Folder beside a card with the audio that another system made, so that its page can play it."""


class Setup:
    """The reference set, the measures with their weights, and what makes or holds the judged audio.

    protocol: the protocol's settings.   maker: None where the audio is there already.
    files: that audio, by key.   extra: those of its files that stand for no item, where sets are compared as sets.
    """

    def __init__(self, config: DictConfig, rank: Rank) -> None:
        self.config, self.rank = config, rank
        self.protocol: dict[str, Any] = resolve(config)["protocol"]
        if (config.model is None) == (config.audio_folder is None):
            raise ValueError("give model=..., or audio_folder=... with the audio that some other system made")
        self.sample_rate: int = self.protocol["sample_rate"]
        self.channels: int = self.protocol["channels"]
        self.reference = self._open_reference()
        # Weights that are absent are an error of a measure's constructor.
        self.measures: dict[str, Measure] = instantiate(self.protocol["measures"], _convert_="all")
        self.level: Level = instantiate(self.protocol["level"])
        self._check_captions()
        self.maker: Maker | None = None
        self.files: dict[str, Path] = {}
        self.extra: dict[str, Path] = {}
        if config.audio_folder is None:
            self.maker = self._make_maker()
            self._check_rate(self.maker.sample_rate, f"{config.model} makes")
        else:
            self._find_files(Path(config.audio_folder))

    def _open_reference(self) -> ReferenceSet:
        config, dataset = self.config, self.protocol["dataset"]
        return open_reference(
            config.audio,
            split=dataset["split"],
            sample_rate=self.sample_rate,
            channels=self.channels,
            resample=config.resample,
            captions=config.captions,
            every_caption=dataset["every_caption"],
            min_duration=dataset["min_duration"],
            limit=config.limit,
        )

    def _make_maker(self) -> Maker:
        config = self.config
        model = load(config.model, device=self.rank.device(config.device), text_encoder=config.text_encoder)
        build: Callable[..., Maker] = instantiate(self.protocol["make"], _convert_="all")
        return build(model, source=str(config.model), seed=config.seed)

    def _find_files(self, folder: Path) -> None:
        self.files = audio_files(folder)
        rate = one_rate(headers_of(self.files), folder)
        self._check_rate(rate, f"the files of {folder} are")
        keys = [item.key for item in self.reference.items]
        if self.files.keys() & set(keys):
            return
        if names := [name for name, measure in self.measures.items() if measure.needs_pairs]:
            raise ValueError(
                f"none of the {len(self.files)} files of {folder} (the first is {next(iter(self.files))!r}) has the "
                f"name of one of the {len(keys)} clips of {self.reference.name} (the first is {keys[0]!r}), and "
                f"{', '.join(names)} compare clip with clip"
            )
        self.extra = self.files

    def _check_rate(self, rate: int, what: str) -> None:
        if rate != self.sample_rate and not self.config.resample:
            raise ValueError(
                f"{what} {rate} Hz, the protocol wants {self.sample_rate} Hz: resample=true converts it, which the "
                f"card then says; protocol.sample_rate={rate} makes it another protocol"
            )

    def _check_captions(self) -> None:
        without = [item.key for item in self.reference.items if not item.caption]
        names = [name for name, measure in self.measures.items() if measure.needs_captions]
        if without and names:
            raise ValueError(
                f"{len(without)} of {len(self.reference.items)} clips of {self.reference.name} have no caption "
                f"({without[0]!r} first), and {', '.join(names)} need one; captions=table.csv gives them to a folder"
            )

    @property
    def reconstruct(self) -> Callable[[Tensor], Tensor] | None:
        """A reference clip [C, L] through the model's codec, at the evaluation's rate; None without a model."""
        maker = self.maker
        if maker is None:
            return None

        def through(wav: Tensor) -> Tensor:
            made = maker.reconstruct(convert(wav, self.sample_rate, maker.sample_rate, maker.channels))
            return convert(made, maker.sample_rate, self.sample_rate, self.channels)

        return through

    def generations(self, out: Path, maker: Maker) -> Generations:
        """The folder of what is made here."""
        follows_from = {
            "weights": maker.hashes,
            "made": maker.settings(),
            "seed": self.config.seed,
            "level": str(self.level),
            "reference": self.reference.hash,
            "every caption": self.protocol["dataset"]["every_caption"],
        }
        return Generations(out, follows_from)

    def read_for(self, maker: Maker) -> Callable[[Item], Tensor]:
        """A reference clip [C, L] at the rate and with the channels of the model."""
        return lambda item: convert(
            self.reference.read(item), self.sample_rate, maker.sample_rate, maker.channels
        )


class JudgedClips:
    """The items beside the files of what is judged, at the rate and with the channels of the evaluation.

    path: of an item's file; None where it has none.   level: that the files are not at yet.
    broken: why items have no file, by key.
    """

    def __init__(
        self,
        setup: Setup,
        path: Callable[[str], Path | None],
        *,
        level: Level,
        broken: dict[str, str | None],
    ) -> None:
        self.reference, self.extra = setup.reference, setup.extra
        self.sample_rate, self.channels = setup.sample_rate, setup.channels
        self.path, self.level, self.broken = path, level, broken
        self.items = setup.reference.items
        self.extra_keys = list(setup.extra)

    def __len__(self) -> int:
        return len(self.items) + len(self.extra_keys)

    def key(self, place: int) -> str:
        item = self._item(place)
        return self.extra_keys[place - len(self.items)] if item is None else item.key

    def caption(self, place: int) -> str | None:
        item = self._item(place)
        return None if item is None else item.caption

    def target(self, place: int) -> Tensor | None:
        item = self._item(place)
        return None if item is None else self.reference.read(item)

    def wav(self, place: int) -> Tensor | None:
        key = self.key(place)
        if self._item(place) is not None and self.extra:
            return None
        if fault := self.broken.get(key):
            raise ValueError(fault)
        path = self.path(key)
        if path is None:
            raise ValueError("there is no file of this name")
        wav, rate = read(path)
        return convert(self.level(wav, rate), rate, self.sample_rate, self.channels)

    def _item(self, place: int) -> Item | None:
        return self.items[place] if place < len(self.items) else None


def made_clips(setup: Setup, generations: Generations) -> JudgedClips:
    """Of what was made here, at its level."""
    return JudgedClips(setup, generations.path, level=AsGiven(), broken=generations.finished())


def found_clips(setup: Setup) -> JudgedClips:
    """Of the files that another system made."""
    return JudgedClips(setup, setup.files.get, level=setup.level, broken={})


def beside_card(path: Path, out: Path, key: str) -> str | None:
    """The path of a clip's file from the card's folder: into it the file is linked where it lies elsewhere.

    None where that cannot be done, as between file systems.
    """
    if path.resolve().is_relative_to(out.resolve()):
        return path.resolve().relative_to(out.resolve()).as_posix()
    link = out / LINKS / f"{quote(key, safe='')}{path.suffix}"
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:
        return None
    return link.relative_to(out).as_posix()
