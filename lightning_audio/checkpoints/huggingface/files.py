"""The files of a folder of `transformers`: JSON, and weights in safetensors or pickled, in one file or several."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lightning_audio.atomic import whole_file, write_text
from lightning_audio.checkpoints.pickles import read_pickle

CONFIG_FILE = "config.json"
WEIGHTS_FILE, PICKLED_FILE = "model.safetensors", "pytorch_model.bin"


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; ValueError names a file that holds none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}, not an object")
    return content


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    write_text(file, json.dumps(content, indent=2) + "\n")


def part_of(config: Mapping[str, Any], name: str, model_type: str | None = None) -> dict[str, Any]:
    """The config of one part of a whole; ValueError where it is absent, or of another type than is known."""
    part = config.get(name)
    if not isinstance(part, dict):
        raise ValueError(f"the config has no part {name!r}; it has {sorted(config)}")
    if model_type not in (None, part.get("model_type")):
        raise ValueError(f"{name} is of the type {part.get('model_type')!r}; only {model_type} is known")
    return part


def open_weights(folder: Path) -> Mapping[str, Tensor]:
    """All tensors of a folder by name; those in safetensors are read when they are asked for, not before."""
    for name in (WEIGHTS_FILE, PICKLED_FILE):
        if (folder / name).is_file():
            return _open_files([folder / name])
        if (index := folder / f"{name}.index.json").is_file():
            return _open_shards(folder, index)
    raise FileNotFoundError(
        f"{folder} holds neither {WEIGHTS_FILE} nor {PICKLED_FILE}, nor an index of their shards"
    )


def write_weights(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """One `model.safetensors`, marked as transformers wants it."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    with whole_file(folder / WEIGHTS_FILE) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})


class StoredTensors(Mapping[str, Tensor]):
    """Tensors that lie in safetensors files.  files: which file holds which."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self._files[name], "pt") as file:
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _open_shards(folder: Path, index: Path) -> Mapping[str, Tensor]:
    """The files that an index names, which must lie beside it and hold what it says."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ValueError(f"{index} has no weight_map")
    names = sorted(set(places.values()))
    if strays := [name for name in names if Path(name).name != name]:
        raise ValueError(f"{index} names files that are not beside it: {strays[:3]}")
    if absent := [name for name in names if not (folder / name).is_file()]:
        raise FileNotFoundError(f"{index} names {len(names)} files, of which {absent} are not there")
    weights = _open_files([folder / name for name in names])
    if missing := sorted(set(places) - set(weights)):
        raise ValueError(
            f"{index} promises {missing[:3]}, which its files do not hold ({len(missing)} in all)"
        )
    return weights


def _open_files(files: list[Path]) -> Mapping[str, Tensor]:
    if files[0].suffix == ".bin":
        return {name: tensor for file in files for name, tensor in read_pickle(file).items()}
    places: dict[str, Path] = {}
    for path in files:
        try:
            with safe_open(path, "pt") as file:
                places |= dict.fromkeys(file.keys(), path)
        except SafetensorError as error:
            raise ValueError(
                f"{path} cannot be read: it is torn, or no safetensors file ({error})"
            ) from error
    return StoredTensors(places)
