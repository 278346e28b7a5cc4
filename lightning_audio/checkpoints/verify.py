"""Whether a model that was written is still the same: read again, and compared on a fixed random input.

Both are run in float32 on the CPU. Where the weights were rounded on purpose, the model that they are compared with is
rounded alike: what is measured is the conversion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_audio.checkpoints.stored import StoredModel
from lightning_audio.conditioning.base import Condition, Conditioner, FusedConditions
from lightning_audio.diffusion.multiband import MultiBandDiffusion
from lightning_audio.lm.masked import MaskedLM
from lightning_audio.lm.token_lm import TokenLM

TOLERANCE = 1e-4
"""Of logits, and of audio in [-1, 1]. Codes are equal, or they are not."""
_NUM_FRAMES = 20


def verify(original: StoredModel, written: StoredModel, *, dtype: torch.dtype | None = None) -> str:
    """What was found equal, in words; ValueError where something is not.

    dtype: that the language model's weights were written in, if it is not theirs.
    """
    if original.weights.keys() != written.weights.keys():
        raise ValueError(f"written were {sorted(written.weights)}, of a model of {sorted(original.weights)}")
    found: list[str] = []
    with torch.inference_mode(), torch.random.fork_rng(devices=[]):
        rounded = _rounded(original, dtype)
        for part, weights in rounded.weights.items():
            _compare_weights(part, weights, written.weights[part])
        for name, outputs in _CHECKS.items():
            if name in original.weights:
                expected, actual = outputs(rounded), dict(outputs(written))
                found += [_compare(what, value, actual[what]) for what, value in expected]
    return ", ".join(found)


def _rounded(stored: StoredModel, dtype: torch.dtype | None) -> StoredModel:
    """The model in float32 on the CPU, the language model's weights after having been in `dtype`."""

    def as_written(value: Tensor, part: str) -> Tensor:
        value = value.detach().cpu()
        if not value.is_floating_point():
            return value
        return value.to(dtype).float() if dtype is not None and part == "lm" else value.float()

    weights = {
        part: {name: as_written(value, part) for name, value in own.items()}
        for part, own in stored.weights.items()
    }
    return StoredModel(stored.config, weights)


def _compare_weights(part: str, expected: Mapping[str, Tensor], actual: Mapping[str, Tensor]) -> None:
    if expected.keys() != actual.keys():
        raise ValueError(
            f"the {part} that was written has other weights: {sorted(expected.keys() ^ actual.keys())[:5]}"
        )
    for name, value in expected.items():
        if not torch.equal(value, actual[name].to(value.dtype)):
            raise ValueError(f"the {part} that was written differs in the weights {name}")


def _compare(what: str, expected: Tensor, actual: Tensor) -> str:
    if expected.shape != actual.shape:
        raise ValueError(
            f"{what} of the written model are {tuple(actual.shape)}, not {tuple(expected.shape)}"
        )
    if not expected.is_floating_point():
        if share := float((expected != actual).float().mean()):
            raise ValueError(f"{what} of the written model differ: {share:.1%} of them")
        return f"{what} equal"
    difference = float((expected - actual).abs().max())
    if not difference <= TOLERANCE:  # NaN is not
        raise ValueError(f"{what} of the written model differ by {difference:.2e}, more than {TOLERANCE:g}")
    return f"{what} to {difference:.1e}"


def _codec_outputs(stored: StoredModel) -> Iterator[tuple[str, Tensor]]:
    codec = _part(stored, "codec")
    torch.manual_seed(0)
    wav = 0.3 * torch.randn(1, codec.channels, _NUM_FRAMES * codec.hop_length - 7)
    encoded = codec.encode(wav)
    yield "codes", encoded.codes
    yield "audio", codec.decode(encoded)


def _lm_outputs(stored: StoredModel) -> Iterator[tuple[str, Tensor]]:
    lm = _part(stored, "lm")
    torch.manual_seed(1)
    codes = torch.randint(0, lm.cardinality, (2, lm.num_codebooks, min(_NUM_FRAMES, _longest(lm))))
    conditions = _conditions(lm, codes.shape[-1])
    if isinstance(lm, MaskedLM):
        stages = range(lm.num_codebooks)
        yield "logits", torch.stack([lm.stage_logits(codes, conditions, stage) for stage in stages])
    else:
        yield "logits", lm(lm.pattern.build(codes, lm.special), conditions)


def _band_outputs(stored: StoredModel) -> Iterator[tuple[str, Tensor]]:
    mbd = stored.assemble()
    assert isinstance(mbd, MultiBandDiffusion)
    torch.manual_seed(2)
    codes = torch.randint(0, mbd.codec.cardinality, (1, mbd.num_codebooks, _NUM_FRAMES))
    yield "diffused audio", mbd.decode(codes, seed=0, steps=[60, 0])


def _part(stored: StoredModel, name: str) -> Any:
    return StoredModel({name: stored.config[name]}, {name: stored.weights[name]}).assemble()


def _longest(lm: TokenLM) -> int:
    return lm.segment_frames if isinstance(lm, MaskedLM) else _NUM_FRAMES


def _conditions(lm: TokenLM, length: int) -> FusedConditions:
    """What the model is told, drawn at random where its conditioners would give it: they may not be on this machine."""
    conditioning = lm.conditioning
    conditions = {}
    for name, conditioner in conditioning.conditioners.items():
        assert isinstance(conditioner, Conditioner)
        steps = 1 if conditioning.way_of[name] == "sum" else 5  # what is summed is one vector for all
        embedding = conditioning.output_proj[name](torch.randn(2, steps, conditioner.dim))
        conditions[name] = Condition(embedding, torch.ones(2, steps, dtype=torch.bool))
    return conditioning.fuse(conditions, length=length)


_CHECKS: dict[str, Callable[[StoredModel], Iterator[tuple[str, Tensor]]]] = {
    "codec": _codec_outputs,
    "lm": _lm_outputs,
    "bands": _band_outputs,
}
