"""The transformer equals the original, in one pass, in chunks and step by step; and does not look ahead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_audio.layers.positions import sinusoidal_embedding
from lightning_audio.layers.transformer import KVCache, StaticKVCache, Transformer

CASES = [
    "cross_normfirst",
    "cross_postnorm_layerscale",
    "custom_causal",
    "kv_repeat2",
    "memeff_causal_nobias",
    "mha_causal",
    "noncausal_memeff",
    "past_context5",
    "positional_scale0.3",
    "qk_layer_norm",
    "rope",
    "sin_rope_xpos",
]


def build(config: dict[str, Any]) -> Transformer:
    """Ours, from the original's arguments and its defaults."""
    positions = config.get("positional_embedding", "sin")
    activation = {"gelu": F.gelu, "relu": F.relu}[config.get("activation", "relu")]
    return Transformer(
        dim=config["d_model"],
        num_heads=config["num_heads"],
        num_layers=config["num_layers"],
        hidden_dim=config["dim_feedforward"],
        causal=config.get("causal", False),
        cross_attention=config.get("cross_attention", False),
        pre_norm=config.get("norm_first", False),
        bias_attention=config.get("bias_attn", True),
        bias_feedforward=config.get("bias_ff", True),
        sinusoidal=positions in ("sin", "sin_rope"),
        rotary=positions in ("rope", "sin_rope"),
        xpos=config.get("xpos", False),
        position_scale=config.get("positional_scale", 1.0),
        max_period=config.get("max_period", 10_000),
        past_context=config.get("past_context"),
        kv_repeat=config.get("kv_repeat", 1),
        qk_norm=config.get("qk_layer_norm", False),
        qk_norm_cross=config.get("qk_layer_norm_cross", False),
        layer_scale=config.get("layer_scale"),
        activation=activation,
    ).eval()


NAMES = {
    "self_attn.mha.": "self_attn.",
    "self_attn.in_proj_": "self_attention.qkv.",
    "self_attn.out_proj": "self_attention.output",
    "self_attn.q_layer_norm": "self_attention.query_norm",
    "self_attn.k_layer_norm": "self_attention.key_norm",
    "cross_attention.out_proj": "cross_attention.output",
    "cross_attention.q_layer_norm": "cross_attention.query_norm",
    "cross_attention.k_layer_norm": "cross_attention.key_norm",
    "linear1": "feedforward.expand",
    "linear2": "feedforward.contract",
    "norm1": "norm_self",
    "norm2": "norm_feedforward",
    "layer_scale_1": "scale_self",
    "layer_scale_2": "scale_feedforward",
    "layer_scale_cross": "scale_cross",
}


def translate(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The original's parameter names in ours; the cross-attention's packed projection is cut in two."""
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        if "rope." in key:
            continue
        for theirs, ours in NAMES.items():
            key = key.replace(theirs, ours)
        if "cross_attention.in_proj_" in key:
            dim = value.shape[0] // 3
            out[key.replace("in_proj_", "query.")] = value[:dim]
            out[key.replace("in_proj_", "key_value.")] = value[dim:]
        else:
            out[key] = value
    return out


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, reference_path: Callable[..., Path]) -> dict[str, Any]:
    return torch.load(reference_path("transformer", f"{request.param}.pt"), weights_only=True)


def chunked(model: Transformer, x: Tensor, cross: Tensor | None, sizes: list[int], **kwargs: Any) -> Tensor:
    cache = KVCache(model, batch_size=x.shape[0], capacity=x.shape[1])
    return torch.cat(
        [model(part, cross=cross, cache=cache, **kwargs) for part in x.split(sizes, dim=1)], dim=1
    )


def static(model: Transformer, x: Tensor, cross: Tensor | None, first: int) -> Tensor:
    """The first steps at once, the others one by one in work of one shape."""
    cache = KVCache(model, batch_size=x.shape[0], capacity=x.shape[1] + 3)
    parts = [model(x[:, :first], cross=cross, cache=cache)]
    cache = StaticKVCache(cache)
    parts += [model(step, cross=cross, cache=cache) for step in x[:, first:].split(1, dim=1)]
    return torch.cat(parts, dim=1)


def test_equals_the_original(case: dict[str, Any]) -> None:
    model = build(case["config"])
    model.load_state_dict(translate(case["state_dict"]))
    x, cross = case["inputs"]["x"], case["inputs"]["cross"]
    with torch.no_grad():
        y = model(x, cross=cross)
        torch.testing.assert_close(y, case["outputs"]["y"], rtol=1e-5, atol=2e-6)
        if model.causal:
            for sizes in ([1] * 12, [12], [5, 1, 4, 2]):
                torch.testing.assert_close(chunked(model, x, cross, sizes), y, rtol=1e-5, atol=3e-6)
            for first in (1, 7):
                torch.testing.assert_close(static(model, x, cross, first), y, rtol=1e-5, atol=3e-6)


def small(**kwargs: Any) -> Transformer:
    torch.manual_seed(0)
    return Transformer(dim=16, num_heads=2, num_layers=2, hidden_dim=32, **kwargs).eval()


def test_a_step_does_not_depend_on_later_ones_nor_beyond_its_context() -> None:
    model = small(past_context=2)
    x = torch.randn(1, 8, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x)[:, 5].square().sum(), x)
    reached = gradient.abs().sum(dim=-1)[0] > 0
    # Two layers, each two steps back: 5 sees 1 .. 5.
    assert reached.tolist() == [False, True, True, True, True, True, False, False]


@pytest.mark.parametrize("kwargs", [{}, {"rotary": True}, {"sinusoidal": False, "past_context": 3}])
def test_hidden_steps_change_nothing(kwargs: dict[str, Any]) -> None:
    """An item behind hidden padding gives what it gives without it: in one pass and step by step."""
    model = small(**kwargs)
    torch.manual_seed(1)
    x = torch.randn(2, 6, 16)
    padded = torch.cat([1e3 * torch.randn(2, 3, 16), x], dim=1)
    visible = torch.ones(2, 9, dtype=torch.bool)
    visible[:, :3] = False
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(model(padded, visible=visible)[:, 3:], expected, rtol=1e-5, atol=1e-5)
        cache = KVCache(model, batch_size=2, capacity=9)
        parts = [model(padded[:, :4], visible=visible[:, :4], cache=cache)]
        parts += [model(step, cache=cache) for step in padded[:, 4:].split(1, dim=1)]
    if not kwargs.get("past_context"):  # a window counts hidden steps too
        torch.testing.assert_close(torch.cat(parts, dim=1)[:, 3:], expected, rtol=1e-5, atol=1e-5)


def test_masked_conditions_change_nothing() -> None:
    model = small(cross_attention=True)
    torch.manual_seed(1)
    x, cross = torch.randn(2, 5, 16), torch.randn(2, 3, 16)
    padded = torch.cat([cross, torch.randn(2, 4, 16)], dim=1)
    mask = torch.arange(7).expand(2, 7) < 3
    with torch.no_grad():
        torch.testing.assert_close(model(x, cross=padded, cross_mask=mask), model(x, cross=cross))


def test_recomputing_gives_the_same_gradients() -> None:
    x = torch.randn(2, 5, 16)
    gradients = []
    for recompute in (False, True):
        model = small(recompute=recompute).train()
        model(x).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*gradients)


def test_sinusoids_start_with_cosines() -> None:
    embedding = sinusoidal_embedding(torch.tensor([0, 1]), 8)
    assert embedding[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    torch.testing.assert_close(embedding[1, [0, 3]], torch.tensor([1.0, 1e-4]).cos())


def test_bad_settings_name_their_numbers() -> None:
    with pytest.raises(ValueError, match=r"30.*4 heads"):
        Transformer(dim=30, num_heads=4, num_layers=1, hidden_dim=8)
    with pytest.raises(ValueError, match="needs rotary"):
        Transformer(dim=32, num_heads=4, num_layers=1, hidden_dim=8, xpos=True)
    model = small()
    with pytest.raises(ValueError, match=r"room for 4 steps, and 0 \+ 5"):
        model(torch.zeros(1, 5, 16), cache=KVCache(model, batch_size=1, capacity=4))
    with pytest.raises(ValueError, match="no conditions"):
        small(cross_attention=True)(torch.zeros(1, 5, 16))
