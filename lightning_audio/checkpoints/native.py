"""Our own forms: the folder of a training run, and a packaged model of plain weights beside its config.

A run folder holds `config.yaml` and `checkpoints/{best,last}.ckpt`; a package holds `config.yaml` and one
`<part>.safetensors` for each part of the model ("codec", "lm", ...).  In both the config is a tree of `_target_`
nodes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lightning_audio.atomic import whole_file, write_text
from lightning_audio.checkpoints.pickles import read_pickle
from lightning_audio.checkpoints.stored import WHOLE, Config, StoredModel
from lightning_audio.hashing import weights_hash

CONFIG_FILE = "config.yaml"


def is_native(path: Path) -> bool:
    """Whether `path` is a run folder, a package of ours, or one of a run's checkpoints."""
    return (path / CONFIG_FILE).is_file() or path.suffix == ".ckpt"


def read_native(
    path: Path,
    *,
    text_encoder: str | Path | None = None,
    read_codec: Callable[[str | Path], StoredModel] | None = None,
) -> StoredModel:
    """The model of a run folder, of a `.ckpt` file or of a package.

    read_codec: reads what a run names as its codec, which may be of any form; by default one of ours.

    Of a run, the checkpoint with the best validation score where it kept one, else the last; of the
    weights, their moving average where the training kept one.
    """
    if path.is_dir() and any(path.glob("*.safetensors")):
        return _read_package(path, text_encoder)
    file = checkpoint_file(path)
    checkpoint = read_checkpoint(file)
    config = checkpoint.get("config")
    if config is None:
        raise ValueError(f"{file} holds no config: it was not written by this project's trainer")
    node, weights = config["task"]["model"], _model_weights(checkpoint, file)
    if WHOLE not in config:
        part = config.get("part", "codec")  # what a run trains, where it says so
        return StoredModel({part: node}, {part: weights})
    codec = _codec_of_run(config, file, path, read_codec or (lambda source: read_native(Path(source))))
    return StoredModel(
        {**codec.config, "lm": with_text_encoder(node, text_encoder), WHOLE: config[WHOLE]},
        {**codec.weights, "lm": weights},
    )


def write_native(stored: StoredModel, folder: Path) -> Path:
    """Write a package that needs nothing of the run that it came from."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, weights in stored.weights.items():
        with whole_file(folder / f"{name}.safetensors") as file:
            save_file({key: value.contiguous() for key, value in weights.items()}, file)
    # Last: a folder with a config is a whole package.
    write_text(folder / CONFIG_FILE, yaml.safe_dump(stored.config, sort_keys=False))
    return folder


def read_checkpoint(file: Path) -> dict[str, Any]:
    """A checkpoint's contents, read as data: nothing in it is executed."""
    return read_pickle(file)


def with_text_encoder(node: Any, text_encoder: str | os.PathLike[str] | None) -> Any:
    """The same tree with every text encoder that is fetched by name read from `text_encoder` instead."""
    if text_encoder is None:
        return node
    if isinstance(node, Mapping):
        changed = {key: with_text_encoder(value, text_encoder) for key, value in node.items()}
        if str(node.get("_target_", "")).endswith(".T5Conditioner"):
            changed["path"] = str(text_encoder)
        return changed
    return [with_text_encoder(child, text_encoder) for child in node] if isinstance(node, list) else node


def _read_package(folder: Path, text_encoder: str | Path | None) -> StoredModel:
    config = yaml.safe_load((folder / CONFIG_FILE).read_text())
    if not isinstance(config, dict) or not all(isinstance(node, dict) for node in config.values()):
        raise ValueError(f"{folder / CONFIG_FILE} is no config of a packaged model")
    weights = {name: _read_weights(folder / f"{name}.safetensors") for name in config if name != WHOLE}
    return StoredModel(with_text_encoder(config, text_encoder), weights)


def _read_weights(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise FileNotFoundError(f"the package {file.parent} lacks {file.name}, which its config names")
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is torn, or no file of weights ({error})") from error


def checkpoint_file(path: Path) -> Path:
    """The checkpoint to read of a run folder, or `path` itself where it is a file."""
    return path if path.is_file() else _preferred_checkpoint(path)


def _preferred_checkpoint(run_dir: Path) -> Path:
    for name in ("best.ckpt", "last.ckpt"):
        if (file := run_dir / "checkpoints" / name).is_file():
            return file
    raise FileNotFoundError(
        f"{run_dir} holds no checkpoint yet (looked for checkpoints/best.ckpt and last.ckpt)"
    )


def _model_weights(checkpoint: Mapping[str, Any], file: Path) -> dict[str, Tensor]:
    weights = {
        name.removeprefix("model."): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith("model.")
    }
    if not weights:
        raise ValueError(f"{file} holds no weights of a model")
    averages = checkpoint.get("ema", {}).get("average", {})
    return {**weights, **averages}


def _codec_of_run(
    config: Config, file: Path, path: Path, read_codec: Callable[[str | Path], StoredModel]
) -> StoredModel:
    source = config.get("codec_source")
    if source is None:
        raise ValueError(f"{file} names no codec; train it with codec_source=<run or folder of its codec>")
    # A run folder may have been moved together with its codec's: look beside it as well.
    run_dir = path if path.is_dir() else file.parent.parent
    candidates = [Path(source), run_dir / source, run_dir.parent / Path(source).name]
    found = next((candidate for candidate in candidates if candidate.exists()), source)
    try:
        whole = read_codec(found)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{file} was trained with the codec {source}, which is not there: {error}"
        ) from error
    if "codec" not in whole.config:
        raise ValueError(
            f"{file} was trained with {found} as its codec, which is a model of {[*whole.config]}"
        )
    stored = StoredModel({"codec": whole.config["codec"]}, {"codec": whole.weights["codec"]})
    expected, actual = config.get("codec_hash"), weights_hash(stored.assemble())
    if expected and expected != actual:
        raise ValueError(f"{file} was trained with codec {expected[:12]}, but {found} is codec {actual[:12]}")
    return stored
