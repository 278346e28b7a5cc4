"""Bands that were trained one by one, put together as one decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_audio.checkpoints.codecs import read_codec_of
from lightning_audio.checkpoints.native import checkpoint_file, read_checkpoint, read_native
from lightning_audio.checkpoints.stored import WHOLE, Config, StoredModel, arguments_of, class_of, node_of
from lightning_audio.diffusion.band import BandDiffusion
from lightning_audio.diffusion.multiband import Bands, MultiBandDiffusion
from lightning_audio.hashing import weights_hash


@dataclass(frozen=True)
class TrainedBand:
    """A run of `DiffusionTask`: what it trained, and the codec that it learnt from."""

    run: Path
    node: Config
    weights: Mapping[str, Tensor]
    codec_source: str | None
    codec_hash: str
    num_codebooks: int | None

    @property
    def place(self) -> tuple[int, int]:
        """Which band, and of how many."""
        arguments = arguments_of(self.node)
        return arguments["band"], arguments["num_bands"]


def join_bands(
    runs: Sequence[str | Path], *, codec: str | Path | None = None, cache_dir: str | Path | None = None
) -> MultiBandDiffusion:
    """The decoder that runs of all bands make up, in any order; it can be used, and exported.

    codec: where their codec lies now; by default where they were trained with it.
    """
    bands = sorted((read_band(Path(run)) for run in runs), key=lambda band: band.place)
    _check_complete(bands)
    stored = _codec_of(bands, codec, cache_dir)
    weights = {
        f"bands.{number}.{name}": value
        for number, band in enumerate(bands)
        for name, value in band.weights.items()
    }
    config = {
        **stored.config,
        "bands": node_of(Bands, bands=[band.node for band in bands]),
        WHOLE: node_of(MultiBandDiffusion, _partial_=True, num_codebooks=bands[0].num_codebooks),
    }
    model = StoredModel(config, {**stored.weights, "bands": weights}).assemble()
    assert isinstance(model, MultiBandDiffusion)
    return model


def read_band(run: Path) -> TrainedBand:
    """The band of a run folder or of one of its checkpoints; ValueError where it trained something else."""
    file = checkpoint_file(run)
    stored = read_native(file)
    parts: Config = {name: node for name, node in stored.config.items() if name != WHOLE}
    if len(parts) != 1 or class_of(*parts.values()) is not BandDiffusion:
        raise ValueError(f"{run} trained no band of a diffusion, but {sorted(stored.config)}")
    ((part, node),) = parts.items()
    checkpoint = read_checkpoint(file)
    config: dict[str, Any] = checkpoint["config"]
    return TrainedBand(
        run=run,
        node=node,
        weights=stored.weights[part],
        codec_source=config.get("codec_source"),
        codec_hash=checkpoint["codec_hash"],
        num_codebooks=config["task"].get("num_codebooks"),
    )


def _check_complete(bands: Sequence[TrainedBand]) -> None:
    """ValueError unless these are all bands of one division of the same codec's audio, each once."""
    if not bands:
        raise ValueError("no runs of bands to join")
    places = [band.place for band in bands]
    count = places[0][1]
    if places != [(number, count) for number in range(count)]:
        found = ", ".join(
            f"{number} of {of} ({b.run})" for b, (number, of) in zip(bands, places, strict=True)
        )
        raise ValueError(f"want each of bands 0 to {count - 1} once, got {found}")
    first = bands[0]
    for band in bands[1:]:
        for what, ours, firsts in (
            ("edges", arguments_of(band.node)["edges"], arguments_of(first.node)["edges"]),
            ("codec", band.codec_hash[:12], first.codec_hash[:12]),
            ("number of codebooks", band.num_codebooks, first.num_codebooks),
        ):
            if ours != firsts:
                raise ValueError(f"{band.run} has the {what} {ours}, {first.run} has {firsts}")


def _codec_of(
    bands: Sequence[TrainedBand], codec: str | Path | None, cache_dir: str | Path | None
) -> StoredModel:
    first = bands[0]
    source = codec if codec is not None else first.codec_source
    if source is None:
        raise ValueError(f"{first.run} does not say where its codec lies: give the codec")
    # Runs may have been moved together with their codec's: look beside them as well.
    run_dir = first.run if first.run.is_dir() else first.run.parent.parent
    beside = run_dir.parent / Path(source).name
    stored = read_codec_of(
        beside if not Path(source).exists() and beside.exists() else source, cache_dir=cache_dir
    )
    actual = weights_hash(stored.assemble())
    if actual != first.codec_hash:
        raise ValueError(
            f"the bands were trained with codec {first.codec_hash[:12]}, but {source} is codec {actual[:12]}"
        )
    return stored
