"""Where a model lies that is given by name: on this machine, in the hub's cache, or at the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

# The names that AudioCraft's `MusicGen.get_pretrained` took at first.
SHORT_NAMES = {size: f"facebook/musicgen-{size}" for size in ("small", "medium", "large", "melody")}
_HUB_ID = r"([\w-][\w.-]*/[\w-][\w.-]*)(?:/([\w./-]+))?"
# What makes a model, in each of the forms that come from the hub; the first that is there is taken.
_AUDIOCRAFT = ("state_dict.bin", "compression_state_dict.bin")
_TRANSFORMERS = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "special_tokens_map.json",
)
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "spiece.model")
_NATIVE = "config.yaml"


def locate(source: str | Path, *, cache_dir: str | Path | None = None) -> Path:
    """The file or folder of `source`: a path; a short name; a hub id `owner/name`, or `owner/name/file`.

    cache_dir: where files of the hub are kept; by default `AUDIOCRAFT_CACHE_DIR`, else the hub's own cache. It is
    looked into before the hub is asked.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    match = re.fullmatch(_HUB_ID, SHORT_NAMES.get(str(source), str(source)))
    if match is None or str(source).startswith(("/", ".", "~")):
        raise FileNotFoundError(f"there is no model at {path}")
    repository, file = match[1], match[2]
    folder = cache_dir or os.environ.get("AUDIOCRAFT_CACHE_DIR")
    cache = None if folder is None else Path(folder)
    found = _cached(repository, file, cache)
    if found is not None:
        return found
    return _fetched(repository, file, cache)


def files_of_a_model(names: Sequence[str]) -> list[str]:
    """Those of a folder's files that make one model; none where there is no whole one."""
    if audiocraft := [name for name in _AUDIOCRAFT if name in names]:
        return audiocraft
    weights = [name for name in names if re.fullmatch(r"model(-\d+-of-\d+)?\.safetensors", name)]
    weights += [name for name in names if weights and name == "model.safetensors.index.json"]
    weights = weights or [name for name in names if name == "pytorch_model.bin"]
    if "config.json" in names and weights:
        return [name for name in (*_TRANSFORMERS, *_TOKENIZER) if name in names] + weights
    native = [name for name in names if name.endswith(".safetensors")]
    return [_NATIVE, *native] if _NATIVE in names and native else []


def _cached(repository: str, file: str | None, cache: Path | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache  # slow to import

    wanted = [file] if file else [*_AUDIOCRAFT, "config.json", _NATIVE]
    for name in wanted:
        found = try_to_load_from_cache(repository, name, cache_dir=cache)
        if isinstance(found, str):  # else it is None, or a mark that the hub has no such file
            snapshot = Path(found).parent
            if file:
                return Path(found)
            present = files_of_a_model([path.name for path in snapshot.iterdir()])
            # A language model whose codec was never fetched is no whole model yet.
            if present and present != [_AUDIOCRAFT[0]]:
                return snapshot
    return None


def _fetched(repository: str, file: str | None, cache: Path | None) -> Path:
    from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download

    try:
        if file:
            return Path(hf_hub_download(repository, file, cache_dir=cache))
        files = files_of_a_model(HfApi().list_repo_files(repository))
        if files:
            return Path(snapshot_download(repository, allow_patterns=files, cache_dir=cache))
        reason = "it holds no model in a form that is known"
    except Exception as error:  # no connection, no such name, no permission, a full disk: all end here
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    where = cache or constants.HF_HUB_CACHE
    raise FileNotFoundError(
        f"there is no {repository!r} on this machine (neither at that path nor in {where}), and the hub did not "
        f"give it: {reason}. Where there is no internet, put its files ({file or _wanted()}) into a folder and name "
        "the folder, or copy the hub's cache here and set AUDIOCRAFT_CACHE_DIR"
    )


def _wanted() -> str:
    return f"{' and '.join(_AUDIOCRAFT)}; or config.json and model.safetensors of transformers"
