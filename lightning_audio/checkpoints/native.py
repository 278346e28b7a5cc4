"""Our own forms: the folder of a training run, and a packaged model of plain weights beside its config.

A run folder holds `config.yaml` and `checkpoints/{best,last}.ckpt`; a package holds `config.yaml`,
`codec.safetensors` and, for a generator, `lm.safetensors`.  In both the config is a tree of `_target_`
nodes.  It is data that may come from anybody, so only classes of this project are ever built from it.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.utils import get_object, instantiate
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lightning_audio.atomic import whole_file, write_text
from lightning_audio.checkpoints.keymap import load_strict
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.generate import TextToAudio
from lightning_audio.hashing import weights_hash

Config = dict[str, Any]
CONFIG_FILE = "config.yaml"


def build(node: Mapping[str, Any], **values: Any) -> Any:
    """The object that a `_target_` node describes; ValueError where a target is not a class of this project."""
    _refuse_foreign_targets(node)
    return instantiate(dict(node), _convert_="all", **values)


def _refuse_foreign_targets(node: Any) -> None:
    if isinstance(node, Mapping):
        if "_target_" in node:
            target = str(node["_target_"])
            found = get_object(target) if target.startswith("lightning_audio.") else None
            # The dotted path could wander out of the project through a module's own imports.
            if not isinstance(found, type) or not found.__module__.startswith("lightning_audio."):
                raise ValueError(
                    f"the checkpoint's config asks for {target!r}, which is no class of this project"
                )
        for child in node.values():
            _refuse_foreign_targets(child)
    elif isinstance(node, list):
        for child in node:
            _refuse_foreign_targets(child)


def is_native(path: Path) -> bool:
    """Whether `path` is a run folder, a package of ours, or one of a run's checkpoints."""
    return (path / CONFIG_FILE).is_file() or path.suffix == ".ckpt"


def load_native(path: Path, *, text_encoder: str | Path | None = None) -> EnCodec | TextToAudio:
    """The model of a run folder, of a `.ckpt` file or of a package.

    Of a run, the checkpoint with the best validation score where it kept one, else the last; of the
    weights, their moving average where the training kept one.
    """
    if path.is_dir() and (path / "codec.safetensors").is_file():
        return _load_package(path, text_encoder)
    file = path if path.is_file() else _preferred_checkpoint(path)
    checkpoint = read_checkpoint(file)
    config = checkpoint.get("config")
    if config is None:
        raise ValueError(f"{file} holds no config: it was not written by this project's trainer")
    node = config["task"]["model"]
    model = build(_with_text_encoder(node, text_encoder))
    load_strict(model, _model_weights(checkpoint, file))
    if "generation" not in config:
        return _ready(model, {"codec": node})
    codec = _codec_of_run(config, file, path)
    generator = build(config["generation"])(codec=codec, lm=model)
    return _ready(
        generator, {"codec": config_of(codec)["codec"], "lm": node, "generation": config["generation"]}
    )


def read_checkpoint(file: Path) -> dict[str, Any]:
    """A checkpoint's contents, read as data: nothing in it is executed."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{file} is no checkpoint that can be read safely: {reason}") from error


def export_native(model: EnCodec | TextToAudio, folder: Path) -> Path:
    """Write `model` as a package that `load` opens; it needs nothing of the run that it came from."""
    config = config_of(model)
    parts = {"codec": model} if isinstance(model, EnCodec) else {"codec": model.codec, "lm": model.lm}
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        with whole_file(folder / f"{name}.safetensors") as file:
            save_file({key: value.contiguous() for key, value in part.state_dict().items()}, file)
    write_text(
        folder / CONFIG_FILE, yaml.safe_dump(config, sort_keys=False)
    )  # last: then the package is whole
    return folder


def config_of(model: nn.Module) -> Config:
    """The nodes that build a model which came from `load`: "codec", and of a generator "lm" and "generation"."""
    config = getattr(model, "config", None)
    if not isinstance(config, dict):
        raise ValueError("only a model that came from `load` knows the config that builds it")
    return config


def _load_package(folder: Path, text_encoder: str | Path | None) -> EnCodec | TextToAudio:
    config = yaml.safe_load((folder / CONFIG_FILE).read_text())
    codec = build(config["codec"])
    load_strict(codec, load_file(folder / "codec.safetensors"))
    if "lm" not in config:
        return _ready(codec, config)
    lm = build(_with_text_encoder(config["lm"], text_encoder))
    load_strict(lm, load_file(folder / "lm.safetensors"))
    return _ready(build(config["generation"])(codec=_ready(codec, {"codec": config["codec"]}), lm=lm), config)


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


def _codec_of_run(config: Config, file: Path, path: Path) -> EnCodec:
    source = config.get("codec_source")
    if source is None:
        raise ValueError(f"{file} names no codec; train it with codec_source=<run or folder of its codec>")
    # A run folder may have been moved together with its codec's: look beside it as well.
    run_dir = path if path.is_dir() else file.parent.parent
    candidates = [Path(source), run_dir / source, run_dir.parent / Path(source).name]
    found = next((candidate for candidate in candidates if candidate.exists()), None)
    if found is None:
        raise FileNotFoundError(f"{file} was trained with the codec {source}, which is not there")
    codec = load_native(found)
    if not isinstance(codec, EnCodec):
        raise ValueError(f"{found} is a {type(codec).__name__}, not a codec")
    expected, actual = config.get("codec_hash"), weights_hash(codec)
    if expected and expected != actual:
        raise ValueError(f"{file} was trained with codec {expected[:12]}, but {found} is codec {actual[:12]}")
    return codec


def _with_text_encoder(node: Any, text_encoder: str | os.PathLike[str] | None) -> Any:
    """The same tree with every text encoder that is fetched by name read from `text_encoder` instead."""
    if text_encoder is None:
        return node
    if isinstance(node, Mapping):
        changed = {key: _with_text_encoder(value, text_encoder) for key, value in node.items()}
        if str(node.get("_target_", "")).endswith(".T5Conditioner"):
            changed["path"] = str(text_encoder)
        return changed
    return [_with_text_encoder(child, text_encoder) for child in node] if isinstance(node, list) else node


def _ready(model: Any, config: Config) -> Any:
    """The model in eval mode, with the nodes that build it as `.config`."""
    model.eval().requires_grad_(False)
    model.config = config
    return model
