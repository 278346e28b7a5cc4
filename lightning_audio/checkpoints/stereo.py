"""A stereo codec out of a stored mono one, as a model that can be written like any other."""

from __future__ import annotations

from torch import nn

from lightning_audio.checkpoints.stored import StoredModel, take_apart
from lightning_audio.codec.stereo import StereoFromMono


def stereo_codec(mono: nn.Module) -> StereoFromMono:
    """The stereo codec whose channels the mono codec takes one by one.  mono: a codec that came from `load`."""
    stored = take_apart(mono)
    if stored.config.keys() != {"codec"}:
        raise ValueError(f"want a codec to make a stereo one of, got a model of {', '.join(stored.config)}")
    node = {
        "_target_": f"{StereoFromMono.__module__}.{StereoFromMono.__name__}",
        "codec": stored.config["codec"],
    }
    weights = {f"codec.{name}": value for name, value in stored.weights["codec"].items()}
    model = StoredModel({"codec": node}, {"codec": weights}).assemble()
    assert isinstance(model, StereoFromMono)
    return model
