"""SEANet against the reference vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_audio.checkpoints.audiocraft.codec import convert_state, seanet_arguments
from lightning_audio.checkpoints.keymap import load_strict
from lightning_audio.checkpoints.stored import build, node_of
from lightning_audio.codec.seanet import SEANetDecoder, SEANetEncoder
from lightning_audio.layers.conv import fold_weight_norm

CASES = [
    *("causal", "causal_reflect_trim0", "default_constant"),
    *("disable_norm_outer2", "reflect_3res_noskip", "time_group_norm"),
]
# What the vectors' configs leave at the original classes' defaults.
CLASS_DEFAULTS = {"n_residual_layers": 3, "lstm": 0, "norm": "none", "pad_mode": "reflect", "true_skip": True}


def read_case(file: Path) -> tuple[dict[str, Any], SEANetEncoder, SEANetDecoder]:
    case = torch.load(file, weights_only=True)
    options = CLASS_DEFAULTS | case["config"]["common"]
    pair = nn.ModuleDict(
        {
            "encoder": build(node_of(SEANetEncoder, **seanet_arguments(options))),
            "decoder": build(
                node_of(SEANetDecoder, **seanet_arguments(options | case["config"]["decoder_extra"]))
            ),
        }
    )
    load_strict(pair, convert_state(case["state_dict"]))
    encoder, decoder = pair["encoder"].eval(), pair["decoder"].eval()
    assert isinstance(encoder, SEANetEncoder)
    assert isinstance(decoder, SEANetDecoder)
    return case, encoder, decoder


def assert_relatively_close(found: Tensor, wanted: Tensor, tolerance: float = 1e-5) -> None:
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= tolerance * wanted.abs().max()


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_equals_the_reference(reference_path: Callable[..., Path], name: str, folded: bool) -> None:
    case, encoder, decoder = read_case(reference_path("seanet", f"{name}.pt"))
    if folded:
        fold_weight_norm(encoder)
        fold_weight_norm(decoder)
    for length in (320, 333, 7):
        latent = encoder(case["inputs"][f"x{length}"])
        assert_relatively_close(latent, case["outputs"][f"emb{length}"])
        assert_relatively_close(decoder(latent), case["outputs"][f"y{length}"])


def test_the_causal_codec_does_not_look_ahead() -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "dim": 8,
        "num_filters": 2,
        "ratios": (4, 2),
        "causal": True,
        "num_lstm_layers": 1,
    }
    encoder, decoder = SEANetEncoder(**options), SEANetDecoder(**options)
    wav = torch.randn(1, 1, 64, requires_grad=True)
    decoder(encoder(wav))[0, 0, 31].backward()
    assert wav.grad is not None
    assert wav.grad[0, 0, 32:].abs().max() == 0
    assert wav.grad[0, 0, :32].abs().max() > 0


def test_the_output_is_as_long_as_whole_frames() -> None:
    encoder = SEANetEncoder(dim=8, num_filters=2, ratios=(4, 2), num_lstm_layers=0)
    decoder = SEANetDecoder(dim=8, num_filters=2, ratios=(4, 2), num_lstm_layers=0)
    for length in (1, 8, 9, 100):
        latent = encoder(torch.randn(1, 1, length))
        assert latent.shape == (1, 8, -(-length // 8))
        assert decoder(latent).shape == (1, 1, 8 * latent.shape[-1])
