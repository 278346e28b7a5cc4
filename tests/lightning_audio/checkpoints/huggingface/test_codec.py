"""The same weights give the same codes and audio here and in `transformers`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import EncodecConfig, EncodecModel

from lightning_audio.checkpoints.huggingface.codec import build_codec, convert_state, read_codec
from lightning_audio.checkpoints.keymap import load_strict

# The published shapes at a tenth of their width.
SMALL: dict[str, Any] = {"num_filters": 4, "hidden_size": 16, "codebook_size": 64}
CONFIGS: dict[str, dict[str, Any]] = {
    "24khz_causal": {"target_bandwidths": [0.9, 1.8, 3.6]},
    "32khz": {
        "sampling_rate": 32000,
        "upsampling_ratios": [8, 5, 4, 4],
        "target_bandwidths": [1.2],
        "use_causal_conv": False,
        "use_conv_shortcut": False,
        "pad_mode": "constant",
    },
    "48khz": {
        "sampling_rate": 48000,
        "audio_channels": 2,
        "target_bandwidths": [1.8, 3.6, 7.2],
        "use_causal_conv": False,
        "norm_type": "time_group_norm",
        "normalize": True,
        "chunk_length_s": 1.0,
        "overlap": 0.01,
    },
}


def random_model(name: str) -> EncodecModel:
    torch.manual_seed(0)
    model = EncodecModel(EncodecConfig(**{**SMALL, **CONFIGS[name]})).eval()
    with torch.no_grad():
        latent = model.encoder(torch.randn(1, model.config.audio_channels, 16000))
        for level, layer in enumerate(model.quantizer.layers):  # transformers starts them at zero
            layer.codebook.embed.normal_(std=float(latent.std()) * 0.7**level)
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_codes_and_audio_equal_transformers(name: str) -> None:
    theirs = random_model(name)
    ours = build_codec(theirs.config.to_dict()).eval()
    load_strict(ours, convert_state(theirs.state_dict()))
    ours.prepare_for_inference()
    torch.manual_seed(1)
    wav = 0.3 * torch.randn(2, ours.channels, int(2.4 * ours.sample_rate) + 77)
    with torch.no_grad():
        for bandwidth in theirs.config.target_bandwidths:
            wanted = theirs.encode(wav, bandwidth=bandwidth)
            found = ours.encode(wav, bandwidth=bandwidth)
            chunks = list(wanted.audio_codes)
            if pad := wanted.last_frame_pad_length:
                chunks[-1] = chunks[-1][..., :-pad]
            assert torch.equal(found.codes, torch.cat(chunks, -1))
            decoded = theirs.decode(
                wanted.audio_codes, wanted.audio_scales, last_frame_pad_length=wanted.last_frame_pad_length
            ).audio_values
            torch.testing.assert_close(ours.decode(found), decoded, rtol=1e-4, atol=1e-4)


def test_a_folder_of_transformers_opens(tmp_path: Path) -> None:
    theirs = random_model("32khz")
    theirs.save_pretrained(tmp_path)
    ours = read_codec(tmp_path)
    wav = torch.randn(1, 1, 9000)
    with torch.no_grad():
        assert torch.equal(ours.encode(wav).codes, theirs.encode(wav).audio_codes[0])
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"pytorch_model\.bin"):
        read_codec(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "dac"}')
    with pytest.raises(ValueError, match="'dac'"):
        read_codec(tmp_path)


def test_the_published_default_shape() -> None:
    with torch.device("meta"):
        ours = build_codec({"model_type": "encodec"})
        theirs = EncodecModel(EncodecConfig())
    assert ours.max_codebooks == 32
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
