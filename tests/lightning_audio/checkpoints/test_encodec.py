"""Codecs of the first EnCodec repository: weights alone, compared with the same model of `transformers`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import EncodecConfig, EncodecModel

import lightning_audio
from lightning_audio.checkpoints.audiocraft.codec import convert_state
from lightning_audio.checkpoints.encodec import codec_node
from lightning_audio.checkpoints.stored import build

SMALL: dict[str, Any] = {"num_filters": 4, "hidden_size": 16, "codebook_size": 64}
CONFIGS: dict[str, dict[str, Any]] = {
    "24khz": {"target_bandwidths": [0.9, 1.8, 3.6]},
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


def model_of(name: str) -> EncodecModel:
    torch.manual_seed(0)
    model = EncodecModel(EncodecConfig(**{**SMALL, **CONFIGS[name]})).eval()
    with torch.no_grad():
        latent = model.encoder(torch.randn(1, model.config.audio_channels, 16000))
        for level, layer in enumerate(model.quantizer.layers):  # transformers starts them at zero
            layer.codebook.embed.normal_(std=float(latent.std()) * 0.7**level)
    return model


def original_names(model: EncodecModel) -> dict[str, Tensor]:
    """The weights as the first repository names them: each convolution within a wrapper and a normed one."""
    upsampling = {
        name for name, module in model.named_modules() if isinstance(module, torch.nn.ConvTranspose1d)
    }
    state = {}
    for key, value in model.state_dict().items():
        layer, last = re.sub(r"\.parametrizations\.weight\.original(\d)", "", key), key.rpartition(".")[2]
        if last in ("original0", "original1"):
            last = {"original0": "weight_g", "original1": "weight_v"}[last]
        else:
            layer = layer.rpartition(".")[0]
        kind = (
            "convtr" if layer in upsampling or layer.removesuffix("norm") + "conv" in upsampling else "conv"
        )
        layer = re.sub(r"\.conv$", f".{kind}.{kind}", re.sub(r"\.norm$", f".{kind}.norm", layer))
        layer = re.sub(r"^(encoder|decoder)\.layers\.", r"\1.model.", layer)
        layer = re.sub(r"^quantizer\.layers\.(\d+)\.codebook$", r"quantizer.vq.layers.\1._codebook", layer)
        state[f"{layer}.{last}"] = value.reshape(1) if last == "inited" else value
    return state


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("zipped", [True, False])
def test_codes_and_audio_equal_the_model_whose_weights_they_are(
    name: str, zipped: bool, tmp_path: Path
) -> None:
    theirs = model_of(name)
    torch.save(original_names(theirs), tmp_path / "codec.th", _use_new_zipfile_serialization=zipped)
    ours = lightning_audio.load(tmp_path / "codec.th", device="cpu")
    assert ours.sample_rate == theirs.config.sampling_rate
    wav = 0.3 * torch.randn(2, ours.channels, int(1.3 * ours.sample_rate) + 77)
    with torch.no_grad():
        wanted = theirs.encode(wav, bandwidth=theirs.config.target_bandwidths[-1])
        found = ours.encode(wav)
        chunks = list(wanted.audio_codes)
        if pad := wanted.last_frame_pad_length:
            chunks[-1] = chunks[-1][..., :-pad]
        assert torch.equal(found.codes, torch.cat(chunks, -1))
        decoded = theirs.decode(
            wanted.audio_codes, wanted.audio_scales, last_frame_pad_length=wanted.last_frame_pad_length
        ).audio_values
        torch.testing.assert_close(ours.decode(found), decoded, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "codebooks"), [("24khz", 32), ("48khz", 16)])
def test_the_published_sizes_are_read_off_the_shapes(name: str, codebooks: int, tmp_path: Path) -> None:
    options = {key: value for key, value in CONFIGS[name].items() if key != "target_bandwidths"}
    bandwidths = {"24khz": [1.5, 3.0, 6.0, 12.0, 24.0], "48khz": [3.0, 6.0, 12.0, 24.0]}[name]
    with torch.device("meta"):
        theirs = EncodecModel(EncodecConfig(**options, target_bandwidths=bandwidths))
    node = codec_node(convert_state(original_names(theirs)))
    with torch.device("meta"):
        ours = build(node)
    assert ours.max_codebooks == codebooks
    assert ours.hop_length == 320
    assert (ours.chunk_length, ours.normalize) == ((None, False) if name == "24khz" else (48000, True))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_a_codec_that_its_weights_do_not_tell(tmp_path: Path) -> None:
    state = original_names(model_of("24khz"))
    torch.save({**state, "surplus": torch.zeros(1)}, tmp_path / "surplus.th")
    with pytest.raises(ValueError, match="no model that is known"):
        lightning_audio.load(tmp_path / "surplus.th")
    lacking = {key: value for key, value in state.items() if not key.startswith("quantizer.")}
    torch.save(lacking, tmp_path / "lacking.th")
    with pytest.raises(ValueError, match=r"lack quantizer\.codebooks\.embed"):
        lightning_audio.load(tmp_path / "lacking.th")
    stereo = dict(state)
    stereo["encoder.model.0.conv.conv.weight_v"] = torch.randn(4, 2, 7)
    torch.save(stereo, tmp_path / "stereo.th")
    with pytest.raises(ValueError, match="2 channels with weight_norm"):
        lightning_audio.load(tmp_path / "stereo.th")
    other = {key: value for key, value in state.items() if key != "decoder.model.0.conv.conv.bias"}
    torch.save(other, tmp_path / "other.th")
    with pytest.raises(ValueError, match=r"missing: decoder\.layers\.0\.conv\.bias"):
        lightning_audio.load(tmp_path / "other.th")
