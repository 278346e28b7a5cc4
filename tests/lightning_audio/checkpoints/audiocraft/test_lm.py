"""Language models in AudioCraft's packaged form: every shape of them is understood, and can be written."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_audio.checkpoints.audiocraft.conditioners import read_conditioning, write_conditioning
from lightning_audio.checkpoints.audiocraft.lm import extra_state, lm_config, lm_node, read_lm_file
from lightning_audio.checkpoints.audiocraft.lm_state import convert_state, revert_state
from lightning_audio.checkpoints.audiocraft.patterns import read_pattern, write_pattern
from lightning_audio.checkpoints.keymap import load_strict
from lightning_audio.checkpoints.stored import build
from lightning_audio.lm.masked import MaskedLM
from lightning_audio.lm.token_lm import TokenLM

CONDITIONS = {
    "conditioners": {"description": {"model": "lut", "lut": {"n_bins": 20, "dim": 6, "tokenizer": "noop"}}},
    "fuser": {"cross": ["description"], "prepend": [], "sum": [], "input_interpolate": []},
}
CONFIG: dict[str, Any] = {
    "lm_model": "transformer_lm",
    "dataset": {"segment_duration": 2},
    "codebooks_pattern": {"modeling": "delay", "delay": {"delays": [0, 1]}},
    "transformer_lm": {
        **{"n_q": 2, "card": 16, "dim": 16, "num_heads": 2, "num_layers": 2, "norm_first": True},
        **{"custom": True, "bias_ff": False, "bias_attn": False, "bias_proj": False},
    },
    **CONDITIONS,
}
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "with biases": {"bias_ff": True, "bias_attn": True, "bias_proj": True},
    "post-norm": {"norm_first": False, "layer_scale": 0.1},
    "rotary": {"positional_embedding": "rope"},
    "rotary and sinusoidal, decaying": {"positional_embedding": "sin_rope", "xpos": True},
    "norms of queries and keys": {"qk_layer_norm": True, "qk_layer_norm_cross": True},
    "shared keys": {"kv_repeat": 2},
    "short memory": {"past_context": 5},
    "relu": {"activation": "relu"},
    "positions scaled": {"positional_scale": 0.3},
}
PATTERNS: dict[str, dict[str, Any]] = {
    "delay": {"delays": [0, 0, 1, 1], "flatten_first": 2, "empty_initial": 1},
    "parallel": {"empty_initial": 0},
    "unroll": {"flattening": [0, 1, 1, 1], "delays": [0, 2, 2, 2]},
    "coarse_first": {"delays": [0, 1, 2]},
    "musiclm": {"group_by": 2},
}


def config_of(**shape: Any) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    config["transformer_lm"] |= shape
    return config


def built(config: dict[str, Any], **options: Any) -> TokenLM:
    torch.manual_seed(0)
    model: TokenLM = build(lm_node(config, read_conditioning(config), **options))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # so that biases and scales count
    return model.eval()


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_survives_being_written(name: str) -> None:
    config = config_of(**SHAPES[name])
    node = lm_node(config, read_conditioning(config))
    model = built(config)
    sections = {"dataset": CONFIG["dataset"], **lm_config(node), **write_conditioning(node["conditioning"])}
    again = yaml.safe_load(yaml.safe_dump(sections))
    state = {**revert_state(model.state_dict(), node), **extra_state(node)}
    other = build(lm_node(again, read_conditioning(again)))
    load_strict(other, convert_state(state))
    codes = torch.randint(0, 16, (1, 2, 9))
    conditions = model.conditioning([{"description": "happy rock"}])
    sequence = model.pattern.build(codes, model.special)
    with torch.no_grad():
        assert torch.equal(model(sequence, conditions), other.eval()(sequence, conditions))


@pytest.mark.parametrize("kind", ["rope", "sin_rope_xpos", "qk_layer_norm", "cross_postnorm_layerscale"])
def test_a_transformer_is_written_under_the_original_names(
    kind: str, reference_path: Callable[..., Path]
) -> None:
    """All keys and tensors of the reference's own state dicts, there and back."""
    case = torch.load(reference_path("transformer", f"{kind}.pt"), weights_only=True)
    theirs = {f"transformer.{key}": value for key, value in case["state_dict"].items()}
    positions = case["config"].get("positional_embedding", "sin")
    config = config_of(num_layers=2, dim=32, num_heads=4, positional_embedding=positions)
    config["transformer_lm"]["xpos"] = case["config"].get("xpos", False)
    node = lm_node(config, read_conditioning(config))
    ours = {**revert_state(convert_state(theirs), node), **extra_state(node)}
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=0, atol=1e-7)


def test_torchs_own_attention_is_understood(reference_path: Callable[..., Path]) -> None:
    case = torch.load(reference_path("transformer", "mha_causal.pt"), weights_only=True)
    converted = convert_state({f"transformer.{key}": value for key, value in case["state_dict"].items()})
    assert "transformer.layers.0.self_attention.qkv.weight" in converted


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_survives_being_written(name: str) -> None:
    section = {"modeling": name, name: PATTERNS[name]}
    node = read_pattern(section, 4)
    assert write_pattern(node) == section
    assert build(node).num_codebooks == 4


def test_patterns_as_the_original_reads_them() -> None:
    assert build(read_pattern({"modeling": "delay"}, 3)).delays == [0, 1, 2]
    # Options under another name than the pattern's own are not looked at there.
    other = {"modeling": "musiclm", "music_lm": {"group_by": 4}}
    assert build(read_pattern(other, 4)).group_size == 2
    assert not build(read_pattern({"modeling": "parallel", "parallel": {"empty_initial": -1}}, 2)).has_start
    assert (
        build(read_pattern({"modeling": "parallel", "parallel": {"empty_initial": 2}}, 2)).num_steps(3) == 6
    )
    with pytest.raises(ValueError, match="'valle'"):
        read_pattern({"modeling": "valle"}, 4)
    # The first configs named the pattern beside the shape.
    config = config_of(q_modeling="delay")
    config["codebooks_pattern"] = {"modeling": None}
    assert lm_node(config, read_conditioning(config))["pattern"]["delays"] == [0, 1]


def test_a_magnet(tmp_path: Path) -> None:
    config = config_of(causal=False, subcodes_context=3)
    config |= {"lm_model": "transformer_lm_magnet", "masking": {"span_len": 2}}
    config["codebooks_pattern"] = {"modeling": "parallel", "parallel": {"empty_initial": -1}}
    model = built(config, frame_rate=50.3)
    assert isinstance(model, MaskedLM)
    assert (model.segment_frames, model.span_length, model.context) == (100, 2, 3)
    node = lm_node(config, read_conditioning(config), frame_rate=50.3)
    sections = lm_config(node)
    assert sections["transformer_lm"]["causal"] is False
    again = {"dataset": config["dataset"], **sections}
    assert lm_node(again, node["conditioning"], frame_rate=50.0)["segment_frames"] == 100
    config["transformer_lm"]["subcodes_context"] = -1
    assert lm_node(config, node["conditioning"])["context"] is None
    config["codebooks_pattern"] = CONFIG["codebooks_pattern"]
    with pytest.raises(ValueError, match="in parallel without a start"):
        lm_node(config, node["conditioning"])


@pytest.mark.parametrize(
    ("shape", "match"),
    [
        ({"norm": "rms_norm"}, "'rms_norm'"),
        ({"causal": False}, "causal False"),
        ({"activation": "swiglu"}, "'swiglu'"),
        ({"positional_embedding": "learned"}, "'learned'"),
        ({"mystery": 3}, r"not understood: \['mystery'\]"),
    ],
)
def test_what_is_not_understood_is_named(shape: dict[str, Any], match: str) -> None:
    config = config_of(**shape)
    with pytest.raises(ValueError, match=match):
        lm_node(config, read_conditioning(config))


def test_unknown_keys_and_other_kinds_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="surprise"):
        convert_state({"surprise.weight": torch.zeros(1)})
    torch.save({"best_state": {}, "xp.cfg": "solver: compression"}, tmp_path / "codec.bin")
    with pytest.raises(ValueError, match="holds a 'compression' model"):
        read_lm_file(tmp_path / "codec.bin")
    torch.save({"weights": {}}, tmp_path / "other.bin")
    with pytest.raises(ValueError, match="lacks"):
        read_lm_file(tmp_path / "other.bin")
    with pytest.raises(ValueError, match="'stable_diffusion'"):
        lm_node({**CONFIG, "lm_model": "stable_diffusion"}, read_conditioning(CONFIG))


def test_the_reference_model_is_told_by_its_config(
    text_case: dict[str, Any], read_text_lm: Callable[..., TokenLM]
) -> None:
    """The node that comes of the config of the vectors goes back to a config of the same node."""
    conditioning = read_conditioning(text_case["config"])
    node = lm_node(text_case["config"], conditioning)
    again = {"dataset": {}, **lm_config(node), **write_conditioning(conditioning)}
    assert lm_node(again, read_conditioning(again)) == node
    state = revert_state(read_text_lm().state_dict(), node)
    assert state.keys() == text_case["state_dict"].keys()
    assert all(torch.equal(state[key], value) for key, value in text_case["state_dict"].items())
