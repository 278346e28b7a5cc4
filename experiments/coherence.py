"""Settings that do not fit each other are refused before any work, with both numbers."""

from __future__ import annotations

from typing import Any

from sharding.schema import DatasetInfo, split_folders

Config = dict[str, Any]


def check_coherence(config: Config) -> None:
    """ValueError for the first pair of settings that cannot work together."""
    _check_codec_and_language_model(config.get("codec"), config.get("lm"))
    _check_global_batch(config)
    info = _dataset_info(config["data"])
    if "lm" in config:
        _check_codes(info, config)
    elif "codec" in config:
        _check_audio(info, config)


def codec_hash(config: Config) -> str | None:
    """Of the codec that made the codes of the experiment's shards; None where they hold audio."""
    info = _dataset_info(config["data"])
    return info.codes.codec_hash if info.codes is not None else None


def _check_codec_and_language_model(codec: Config | None, lm: Config | None) -> None:
    if codec is None or lm is None:
        return
    quantizer = codec["quantizer"]
    for name in ("num_codebooks", "cardinality"):
        if quantizer[name] != lm[name]:
            raise ValueError(
                f"the codec has {name} {quantizer[name]}, the language model has {name} {lm[name]}"
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


def _dataset_info(data: Config) -> DatasetInfo:
    folders = split_folders(data["path"])
    if "train" not in folders:
        raise FileNotFoundError(f"{data['path']} has no split 'train', only {', '.join(folders)}")
    return DatasetInfo.load(folders["train"])


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
    quantizer = config["codec"]["quantizer"]
    for name, actual in (
        ("num_codebooks", info.codes.num_codebooks),
        ("cardinality", info.codes.cardinality),
    ):
        if actual != quantizer[name]:
            raise ValueError(
                f"the codes were made with {name} {actual}, the experiment has {quantizer[name]}"
            )
