"""CLAP from a file of LAION's and from a folder of transformers, on tiny networks with random weights."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from eval.embedders.clap import Clap
from eval.embedders.laion import laion_clap_model

RATE = 48_000
WORDS = ["<s>", "<pad>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz", "Ġ", "<mask>"]
# transformers' name -> LAION's, each as they are written in files.
NAMES = [
    (r"text_model\.", "text_branch."),
    (r"(audio|text)_projection\.linear1", r"\1_projection.0"),
    (r"(audio|text)_projection\.linear2", r"\1_projection.2"),
    (r"audio_model\.audio_encoder\.batch_norm", "audio_branch.bn0"),
    (r"audio_model\.audio_encoder\.", "audio_branch."),
    (r"(blocks\.\d+)\.layernorm_before", r"\1.norm1"),
    (r"(blocks\.\d+)\.layernorm_after", r"\1.norm2"),
    (r"(blocks\.\d+)\.attention\.self\.relative", r"\1.attn.relative"),
    (r"(blocks\.\d+)\.attention\.output\.dense", r"\1.attn.proj"),
    (r"(blocks\.\d+)\.intermediate\.dense", r"\1.mlp.fc1"),
    (r"(blocks\.\d+)\.output\.dense", r"\1.mlp.fc2"),
]


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import ClapConfig, ClapModel

    text = {
        "vocab_size": len(WORDS),
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
        "intermediate_size": 32,
        "max_position_embeddings": 80,
        "layer_norm_eps": 1e-5,
    }
    audio = {
        "patch_embeds_hidden_size": 8,
        "hidden_size": 16,
        "depths": [2, 1],
        "num_attention_heads": [2, 4],
        "num_hidden_layers": 2,
    }
    torch.manual_seed(0)
    made = ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=24)).eval()
    for parameter in made.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    made.audio_model.audio_encoder.batch_norm.running_mean.fill_(-20.0)
    made.audio_model.audio_encoder.batch_norm.running_var.fill_(100.0)
    return made


@pytest.fixture(scope="module")
def extractor() -> Any:
    from transformers import ClapFeatureExtractor

    return ClapFeatureExtractor(truncation="rand_trunc", frequency_min=50, frequency_max=14_000)


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    (folder / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(WORDS)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


def _laion_state(model: Any, extractor: Any) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        key = name
        for pattern, replacement in NAMES:
            key = re.sub(pattern, replacement, key)
        state[key] = tensor
    for key in [key for key in state if ".attention.self.query." in key and key.startswith("audio_branch")]:
        parts = [state.pop(key.replace("query", part)) for part in ("query", "key", "value")]
        state[key.replace("attention.self.query", "attn.qkv")] = torch.cat(parts)
    # What is in the files besides, and not needed.
    state["audio_branch.logmel_extractor.melW"] = torch.from_numpy(extractor.mel_filters_slaney).float()
    state["audio_branch.spectrogram_extractor.stft.conv_real.weight"] = torch.zeros(513, 1, 1024)
    state["audio_branch.layers.0.blocks.1.attn_mask"] = torch.zeros(4, 64, 64)
    state["audio_branch.tscam_conv.weight"] = torch.zeros(5, 16, 2, 3)
    state["audio_branch.head.weight"] = torch.zeros(5, 5)
    state["audio_transform.sequential.0.weight"] = torch.zeros(24, 24)
    state["text_transform.sequential.3.bias"] = torch.zeros(24)
    state["text_branch.embeddings.position_ids"] = torch.arange(80)[None]
    return state


@pytest.fixture(scope="module")
def file(model: Any, extractor: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "music_audioset_epoch_15_esc_90.14.pt"
    state = {f"module.{key}": value for key, value in _laion_state(model, extractor).items()}
    torch.save({"epoch": 15, "state_dict": state, "optimizer": {"lr": np.float64(1e-4)}}, path)
    return path


@pytest.fixture(scope="module")
def clap(file: Path, tokenizer_folder: Path) -> Clap:
    return Clap.from_laion(file, tokenizer=tokenizer_folder, any_weights=True, device="cpu")


def _vectors(features: Any) -> Tensor:
    return F.normalize(features if isinstance(features, Tensor) else features.pooler_output, dim=-1)


def _wav(*shape: int) -> Tensor:
    return 0.2 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def _expected(model: Any, extractor: Any, wav: Tensor) -> Tensor:
    heard = extractor(list(wav.numpy()), sampling_rate=RATE, return_tensors="pt")
    return _vectors(model.get_audio_features(input_features=heard["input_features"]))


@pytest.mark.parametrize("seconds", [10.0, 3.3])
def test_audio_equals_transformers(clap: Clap, model: Any, extractor: Any, seconds: float) -> None:
    wav = _wav(2, round(seconds * RATE))
    wav[1] = wav[1].cumsum(0) / 100  # darker by far
    expected = _expected(model, extractor, wav)
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    assert torch.allclose(clap.embed(wav[:, None], RATE), expected, atol=1e-5)


def test_of_a_long_clip_all_counts_and_always_alike(clap: Clap) -> None:
    wav = _wav(1, 1, 12 * RATE)
    windows = clap.embed(torch.cat([wav[..., : 10 * RATE], wav[..., 2 * RATE :]]), RATE)
    assert torch.allclose(
        clap.embed(wav, RATE), F.normalize(windows.mean(0, keepdim=True), dim=-1), atol=1e-5
    )


def test_text_equals_transformers(clap: Clap, model: Any, tokenizer_folder: Path) -> None:
    from transformers import RobertaTokenizer

    texts = ["a dog", "rain on a roof " * 40]
    tokens = RobertaTokenizer.from_pretrained(tokenizer_folder)(
        texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt"
    )
    with torch.no_grad():
        made = model.get_text_features(tokens["input_ids"], attention_mask=tokens["attention_mask"])
    found = clap.embed_text(texts)
    assert (found[0] - found[1]).abs().max() > 1e-3
    assert torch.allclose(found, _vectors(made), atol=1e-5)
    assert clap.embed_text([]).shape == (0, 24)


def test_a_folder_of_transformers(
    model: Any, extractor: Any, tokenizer_folder: Path, tmp_path: Path, clap: Clap
) -> None:
    from transformers import ClapProcessor, RobertaTokenizer

    model.save_pretrained(tmp_path)
    words = RobertaTokenizer.from_pretrained(tokenizer_folder)
    ClapProcessor(feature_extractor=extractor, tokenizer=words).save_pretrained(tmp_path)
    there = Clap.from_transformers(path=tmp_path, dim=24, device="cpu")
    wav = _wav(1, 1, 4 * RATE)
    assert torch.allclose(there.embed(wav, RATE), clap.embed(wav, RATE), atol=1e-5)
    assert torch.allclose(there.embed_text(["rain"]), clap.embed_text(["rain"]), atol=1e-5)


def test_what_goes_on_the_card(clap: Clap) -> None:
    assert (clap.name, clap.sample_rate, clap.dim) == ("clap-music", RATE, 24)
    assert len(clap.weights_hash or "") == 64


def test_the_wrong_tokeniser_is_refused(file: Path, tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(WORDS[:-2])}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(ValueError, match=r"tokeniser knows \d+ tokens, the network 32"):
        Clap.from_laion(file, tokenizer=tmp_path, any_weights=True, device="cpu")


def test_absent_weights_and_tokenisers_are_named(tmp_path: Path, file: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"music_audioset_epoch_15_esc_90\.14\.pt.*weights fetch clap-music"
    ):
        Clap.from_laion(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"vocab\.json.*weights fetch roberta-tokenizer"):
        Clap.from_laion(file, tokenizer=tmp_path, any_weights=True)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("audio_branch.patch_embed.fusion_model.local_att.0.weight", "fusion of long clips"),
        ("audio_branch.something.weight", r"something\.weight"),
    ],
)
def test_other_networks_are_refused(
    key: str, message: str, model: Any, extractor: Any, tokenizer_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": {**_laion_state(model, extractor), key: torch.zeros(1)}}, path)
    with pytest.raises(ValueError, match=message):
        Clap.from_laion(path, tokenizer=tokenizer_folder, any_weights=True)


def test_the_published_network_has_its_place(random_state: Callable[..., dict[str, Tensor]]) -> None:
    """HTSAT-base beside roberta-base: every tensor of the published shapes arrives."""
    model = laion_clap_model(random_state(_published_shapes(), 0))
    config = model.config
    assert (config.audio_config.depths, config.audio_config.hidden_size) == ([2, 2, 12, 2], 1024)
    assert list(config.audio_config.num_attention_heads) == [4, 8, 16, 32]
    assert (config.text_config.num_attention_heads, config.projection_dim) == (12, 512)
    assert 190e6 < sum(parameter.numel() for parameter in model.parameters()) < 200e6


def _published_shapes() -> dict[str, tuple[int, ...]]:
    audio, text = "audio_branch.", "text_branch."
    shapes: dict[str, tuple[int, ...]] = {"logit_scale_a": (), "logit_scale_t": ()}
    shapes |= {f"{audio}bn0.{part}": (64,) for part in ("weight", "bias", "running_mean", "running_var")}
    shapes |= {f"{audio}bn0.num_batches_tracked": (), f"{audio}logmel_extractor.melW": (513, 64)}
    shapes |= {f"{audio}patch_embed.proj.weight": (128, 1, 4, 4), f"{audio}patch_embed.proj.bias": (128,)}
    shapes |= _pair(f"{audio}patch_embed.norm", 128)
    for layer, (depth, heads) in enumerate(zip((2, 2, 12, 2), (4, 8, 16, 32), strict=True)):
        width = 128 * 2**layer
        for block in range(depth):
            name = f"{audio}layers.{layer}.blocks.{block}."
            shapes |= _pair(f"{name}norm1", width) | _pair(f"{name}norm2", width)
            shapes[f"{name}attn.relative_position_bias_table"] = (225, heads)
            shapes[f"{name}attn.relative_position_index"] = (64, 64)
            shapes |= _linear(f"{name}attn.qkv", width, 3 * width) | _linear(f"{name}attn.proj", width, width)
            shapes |= _linear(f"{name}mlp.fc1", width, 4 * width) | _linear(
                f"{name}mlp.fc2", 4 * width, width
            )
        if layer < 3:
            shapes[f"{audio}layers.{layer}.downsample.reduction.weight"] = (2 * width, 4 * width)
            shapes |= _pair(f"{audio}layers.{layer}.downsample.norm", 4 * width)
    shapes |= _pair(f"{audio}norm", 1024)
    for kind, count in (("word", 50_265), ("position", 514), ("token_type", 1)):
        shapes[f"{text}embeddings.{kind}_embeddings.weight"] = (count, 768)
    shapes |= _pair(f"{text}embeddings.LayerNorm", 768)
    for layer in range(12):
        name = f"{text}encoder.layer.{layer}."
        for part in (
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
        ):
            shapes |= _linear(f"{name}{part}", 768, 768)
        shapes |= _linear(f"{name}intermediate.dense", 768, 3072) | _linear(f"{name}output.dense", 3072, 768)
        shapes |= _pair(f"{name}attention.output.LayerNorm", 768) | _pair(f"{name}output.LayerNorm", 768)
    shapes |= _linear(f"{text}pooler.dense", 768, 768)
    for name, width in (("audio", 1024), ("text", 768)):
        shapes |= _linear(f"{name}_projection.0", width, 512) | _linear(f"{name}_projection.2", 512, 512)
    return shapes


def _pair(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}
