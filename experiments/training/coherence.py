"""Settings that do not fit each other are refused before any work, with both numbers."""

from __future__ import annotations

import math
from typing import Any

import torch
from hydra.utils import instantiate

from sharding.schema import DatasetInfo
from sharding.storage.folders import load_info, open_splits

Config = dict[str, Any]


def check_coherence(config: Config) -> None:
    """ValueError for the first pair of settings that cannot work together."""
    _check_codec_and_language_model(config.get("codec"), config.get("lm"))
    _check_segment(config)
    _check_global_batch(config)
    for info in _dataset_infos(config["data"]):
        if "lm" in config:
            _check_codes(info, config)
        elif "codec" in config:
            _check_audio(info, config)


def codec_hash(config: Config) -> str | None:
    """Of the codec that made the codes of the experiment's shards; None where they hold audio."""
    hashes = {info.codes.codec_hash if info.codes else None for info in _dataset_infos(config["data"])}
    if len(hashes) > 1:
        first, second, *_ = sorted(map(str, hashes))
        raise ValueError(f"the datasets were encoded by unlike codecs, {first} and {second}")
    return hashes.pop()


def _check_codec_and_language_model(codec: Config | None, lm: Config | None) -> None:
    if codec is None or lm is None:
        return
    for name, number in _shape_of_codes(codec).items():
        if number != lm[name]:
            raise ValueError(f"the codec has {name} {number}, the language model has {name} {lm[name]}")


def _shape_of_codes(codec: Config) -> dict[str, int]:
    """num_codebooks and cardinality of the codes that a codec makes, whatever it is made of."""
    with torch.device("meta"):
        model = instantiate(codec, _convert_="all")
    return {"num_codebooks": model.num_codebooks, "cardinality": model.cardinality}


def _check_segment(config: Config) -> None:
    """Of a masked language model: its masks, and the mask rates of training, are made for one length."""
    wanted = config.get("lm", {}).get("segment_frames")
    if wanted is None:
        return
    codec, duration = config["codec"], config["data"]["segment_duration"]
    frames = round(duration * codec["sample_rate"] / math.prod(codec["encoder"]["ratios"]))
    if frames != wanted:
        raise ValueError(
            f"data.segment_duration {duration} s is {frames} frames of the codec, the masks of the language model"
            f" are for lm.segment_frames {wanted}"
        )


def _check_global_batch(config: Config) -> None:
    trainer = config["trainer"]
    devices, nodes = trainer.get("devices", 1), int(trainer.get("num_nodes", 1))
    if not isinstance(devices, int) or devices < 1:
        return  # "auto": the datamodule checks again once the world size is known
    ranks, accumulate = devices * nodes, int(trainer.get("accumulate_grad_batches") or 1)
    batch_size = int(config["data"]["batch_size"])
    if batch_size % (ranks * accumulate):
        raise ValueError(
            f"the global batch of {batch_size} does not divide over {ranks} ranks"
            f" x {accumulate} accumulated batches"
        )


def _dataset_infos(data: Config) -> list[DatasetInfo]:
    """What the training split says of itself, of each dataset of a mixture."""
    cache = instantiate(data.get("cache"))
    return [_dataset_info(own["path"], cache) for own in data.get("datasets", {"": data}).values()]


def _dataset_info(path: str, cache: Any) -> DatasetInfo:
    folders = open_splits(path, cache)
    if "train" not in folders:
        raise FileNotFoundError(f"{path} has no split 'train', only {', '.join(folders)}")
    return load_info(folders["train"])


def _check_audio(info: DatasetInfo, config: Config) -> None:
    wanted = config["codec"]["sample_rate"]
    other = sorted(set(info.sample_rates) - {wanted})
    if other and not config["data"].get("resample", False):
        raise ValueError(
            f"the shards hold {other[0]} Hz audio, the codec wants {wanted} Hz;"
            " shard with --sample-rate, or set data.resample=true"
        )


def _check_codes(info: DatasetInfo, config: Config) -> None:
    """Of shards of codes: made by a codec of this shape, and by the very codec that will decode."""
    if info.codes is None:
        return
    wanted = _shape_of_codes(config["codec"])
    for name, actual in (
        ("num_codebooks", info.codes.num_codebooks),
        ("cardinality", info.codes.cardinality),
    ):
        if actual != wanted[name]:
            raise ValueError(f"the codes were made with {name} {actual}, the experiment has {wanted[name]}")
