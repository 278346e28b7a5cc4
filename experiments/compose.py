"""From the command line's overrides to one resolved configuration, with errors that name the nearest choice."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

CONFIGS = Path(__file__).parent / "configs"


def experiment_names() -> list[str]:
    """Every experiment there is, by the name that `experiment=` takes."""
    return sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))


def compose_config(name: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration `configs/<name>.yaml` with the overrides applied.

    Raises ValueError in one line for an unknown file, key or a value that is not there.
    """
    for override in overrides:
        if "=" not in override and not override.startswith("~"):
            raise ValueError(f"{override!r} is no override; overrides look like trainer.max_steps=1000")
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3"):
        try:
            config = compose(config_name=name, overrides=list(overrides))
        except MissingConfigException as error:
            raise ValueError(_explain_missing_choice(error, overrides)) from error
        except ConfigCompositionException as error:
            raise ValueError(_explain_unknown_key(error, name, overrides)) from error
    return config


def resolve(config: DictConfig) -> dict[str, Any]:
    """Plain dicts and lists with every interpolation replaced; ValueError names what still has to be given."""
    # OmegaConf.missing_keys stumbles over settings that refer to a missing one.
    missing = sorted(name for name, value in _settings(config) if value == "???")
    if missing:
        raise ValueError(
            f"these settings have no value yet: {', '.join(missing)}; give them as {missing[0]}=..."
        )
    try:
        resolved = OmegaConf.to_container(config, resolve=True)
    except InterpolationKeyError as error:
        raise ValueError(f"a setting refers to one that is not there: {error}") from error
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def _explain_missing_choice(error: MissingConfigException, overrides: Sequence[str]) -> str:
    wanted = error.missing_cfg_file or ""
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    group, _, choice = names[0].removeprefix("/").rpartition("/")
    choices = sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
    nearest = difflib.get_close_matches(choice, choices, n=3, cutoff=0.4) or choices
    return f"there is no {group or 'configuration'} {choice!r}; nearest: {', '.join(nearest)}"


def _explain_unknown_key(error: ConfigCompositionException, name: str, overrides: Sequence[str]) -> str:
    found = re.search(r"Could not override '([^']+)'", str(error))
    if not found:
        return " ".join(str(error).split())
    wanted = found.group(1)
    with_choices = [o for o in overrides if (CONFIGS / o.partition("=")[0].lstrip("+")).is_dir()]
    try:
        keys = [key for key, _ in _settings(compose(config_name=name, overrides=with_choices))]
    except (ConfigCompositionException, MissingConfigException, OmegaConfBaseException):
        keys = []
    nearest = difflib.get_close_matches(wanted, keys, n=3, cutoff=0.5)
    hint = f"; nearest: {', '.join(nearest)}" if nearest else ""
    return f"there is no setting {wanted!r}{hint}"


def _settings(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and plain value, as it is written, of every setting, inner nodes included."""
    plain = OmegaConf.to_container(config, resolve=False) if OmegaConf.is_config(config) else config
    if isinstance(plain, list):
        plain = dict(enumerate(plain))
    if isinstance(plain, dict):
        for key, value in plain.items():
            name = prefix + str(key)
            yield name, value
            yield from _settings(value, name + ".")
