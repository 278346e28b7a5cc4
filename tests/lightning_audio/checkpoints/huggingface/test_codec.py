"""The same weights give the same codes and audio here and in `transformers`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoFeatureExtractor, EncodecConfig, EncodecModel

from lightning_audio.checkpoints.huggingface.codec import (
    codec_config,
    codec_node,
    codec_weights,
    read_codec,
    write_codec,
)
from lightning_audio.checkpoints.keymap import load_strict
from lightning_audio.checkpoints.stored import StoredModel, build, take_apart

# The published shapes at a tenth of their width.
SMALL: dict[str, Any] = {"num_filters": 4, "hidden_size": 16, "codebook_size": 64}
CONFIGS: dict[str, dict[str, Any]] = {
    "24khz_causal": {"target_bandwidths": [0.9, 1.8, 3.6]},
    "24khz_residual_layers": {
        "target_bandwidths": [1.8],
        "num_residual_layers": 3,
        "trim_right_ratio": 0.5,
        "compress": 4,
        "num_lstm_layers": 1,
    },
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
    latent = model.encoder(torch.randn(1, model.config.audio_channels, 16000))
    for level, layer in enumerate(model.quantizer.layers):  # transformers starts them at zero
        layer.codebook.embed.normal_(std=float(latent.std()) * 0.7**level)
    return model


def codes_of(model: EncodecModel, encoded: Any) -> Tensor:
    """[B, K, T], chunk after chunk, without the padding that transformers gives the last one."""
    chunks = list(encoded.audio_codes)
    if pad := encoded.last_frame_pad_length:
        chunks[-1] = chunks[-1][..., :-pad]
    return torch.cat(chunks, -1)


@pytest.mark.parametrize("seconds", [2.4, 0.83])
@pytest.mark.parametrize("name", CONFIGS)
def test_codes_and_audio_equal_transformers(name: str, seconds: float) -> None:
    theirs = random_model(name)
    ours = build(codec_node(theirs.config.to_dict())).eval()
    load_strict(ours, codec_weights(theirs.state_dict()))
    ours.prepare_for_inference()
    torch.manual_seed(1)
    wav = 0.3 * torch.randn(3, ours.channels, int(seconds * ours.sample_rate) + 77)
    for bandwidth in theirs.config.target_bandwidths:
        wanted = theirs.encode(wav, bandwidth=bandwidth)
        found = ours.encode(wav, bandwidth=bandwidth)
        assert torch.equal(found.codes, codes_of(theirs, wanted))
        decoded = theirs.decode(
            wanted.audio_codes, wanted.audio_scales, last_frame_pad_length=wanted.last_frame_pad_length
        ).audio_values
        torch.testing.assert_close(ours.decode(found), decoded, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_there_and_back(name: str, tmp_path: Path) -> None:
    theirs = random_model(name)
    theirs.save_pretrained(tmp_path / "theirs")
    stored = take_apart(read_codec(tmp_path / "theirs").assemble())
    folder = write_codec(stored, tmp_path / "ours")
    opened, info = EncodecModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert opened.config.target_bandwidths == theirs.config.target_bandwidths
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    assert (extractor.feature_size, extractor.sampling_rate) == (
        theirs.config.audio_channels,
        theirs.config.sampling_rate,
    )
    wav = torch.randn(1, theirs.config.audio_channels, 30011)
    for bandwidth in theirs.config.target_bandwidths:
        one, other = (model.encode(wav, bandwidth=bandwidth) for model in (opened, theirs))
        assert torch.equal(codes_of(opened, one), codes_of(theirs, other))
    again = read_codec(folder)
    assert again.config == stored.config
    for key, tensor in stored.weights["codec"].items():
        assert torch.equal(again.weights["codec"][key], tensor), key


def test_the_published_default_shapes() -> None:
    with torch.device("meta"):
        ours = build(codec_node({"model_type": "encodec"}))
        theirs = EncodecModel(EncodecConfig())
    assert ours.max_codebooks == 32
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    config = codec_config(codec_node({"model_type": "encodec"}))
    assert config["target_bandwidths"] == [1.5, 3.0, 6.0, 12.0, 24.0]


@pytest.mark.parametrize("number", [1, 3, 6, 7, 29])
def test_any_number_of_codebooks_is_read_as_it_was_written(number: int) -> None:
    node = codec_node({"codebook_size": 2048, "upsampling_ratios": [7, 5, 4, 3], "target_bandwidths": [99.0]})
    node["quantizer"]["num_codebooks"] = number
    config = codec_config(node)
    assert EncodecConfig(**config).num_quantizers == number
    assert codec_node(config)["quantizer"]["num_codebooks"] == number


def test_codecs_that_transformers_cannot_hold(tmp_path: Path) -> None:
    node = codec_node({"model_type": "encodec"})

    def changed(part: str, **options: Any) -> dict[str, Any]:
        return {**node, part: {**node[part], **options}}

    cases = {
        "num_filters": changed("encoder", num_filters=16),
        "final activation": changed("decoder", final_activation={"_target_": "torch.nn.Tanh"}),
        "2 \\*\\* n codes": changed("quantizer", cardinality=1000),
        "like ResidualVectorQuantizer": node["quantizer"],
    }
    for message, wrong in cases.items():
        with pytest.raises(ValueError, match=message):
            write_codec(StoredModel({"codec": wrong}, {"codec": {}}), tmp_path)
    assert not list(tmp_path.iterdir())


def test_configs_that_are_not_understood() -> None:
    for options, message in (
        ({"codebook_dim": 64}, "width 64"),
        ({"chunk_length_s": 1.0}, "without an overlap"),
        ({"norm_type": "layer_norm"}, "'layer_norm'"),
    ):
        with pytest.raises(ValueError, match=message):
            codec_node(options)
