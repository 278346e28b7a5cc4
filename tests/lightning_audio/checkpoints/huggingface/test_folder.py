"""Folders that are not what they should be: what is wrong is named, before any long work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lightning_audio.checkpoints.huggingface.files import open_weights
from lightning_audio.checkpoints.huggingface.folder import (
    is_huggingface,
    read_huggingface,
    write_huggingface,
)
from lightning_audio.checkpoints.stored import StoredModel


@pytest.fixture(scope="module")
def published(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return theirs.save(theirs.musicgen(), tmp_path_factory.mktemp("published"))


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    for file in published.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def change_config(folder: Path, part: str | None = None, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (config if part is None else config[part]).update(changes)
    (folder / "config.json").write_text(json.dumps(config))


def change_weights(folder: Path, changes: dict[str, torch.Tensor | None]) -> None:
    weights = {**load_file(folder / "model.safetensors"), **changes}
    kept = {name: tensor for name, tensor in weights.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def test_folders_are_told_apart(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert is_huggingface(folder)
    assert not is_huggingface(tmp_path_factory.mktemp("empty"))
    assert not is_huggingface(folder / "config.json")
    change_config(folder, model_type="dac")
    with pytest.raises(ValueError, match="'dac' model of transformers; known are encodec, musicgen"):
        read_huggingface(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is no JSON"):
        is_huggingface(folder)


def test_missing_files(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        read_huggingface(folder)


def test_torn_files(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="torn"):
        read_huggingface(folder)


ATTENTION = "decoder.model.decoder.layers.1.self_attn"


@pytest.mark.parametrize(
    ("key", "tensor", "message"),
    [
        ("decoder.surprise.weight", torch.zeros(1), r"'surprise\.weight'"),
        ("surprise.weight", torch.zeros(1), r"no part of the model: \['surprise\.weight'\]"),
        ("audio_encoder.surprise.weight", torch.zeros(1), r"'surprise\.weight'"),
        (f"{ATTENTION}.out_proj.weight", None, r"missing: transformer\.layers\.1\.self_attention\.output"),
        (f"{ATTENTION}.q_proj.weight", None, r"self_attention\.qkv\.weight lacks the parts \[0\]"),
        (f"{ATTENTION}.v_proj.weight", None, r"wrong shape: .*self_attention\.qkv\.weight is \(64, 32\)"),
        ("decoder.lm_heads.2.weight", None, r"heads\.weight lacks the parts \[2\]"),
        ("enc_to_dec_proj.weight", None, r"missing: conditioning\.output_proj\.description\.weight"),
        ("decoder.lm_heads.1.weight", torch.zeros(31, 32), r"wrong shape: heads\.weight is \(127, 32\)"),
        ("audio_encoder.quantizer.layers.1.codebook.embed", None, r"lacks the codebooks \[1\]"),
    ],
)
def test_keys_are_named(key: str, tensor: torch.Tensor | None, message: str, folder: Path) -> None:
    change_weights(folder, {key: tensor})
    with pytest.raises(ValueError, match=message):
        read_huggingface(folder).assemble()


def test_the_text_encoder_inside_is_checked_too(folder: Path) -> None:
    change_weights(folder, {"text_encoder.surprise": torch.zeros(1)})
    conditioner = read_huggingface(folder).assemble().lm.conditioning.conditioners["description"]
    with pytest.raises(ValueError, match=r"surplus of weights: \['surprise'\]"):
        conditioner.encoder  # noqa: B018 - loads it
    change_weights(folder, {"text_encoder.surprise": None, "text_encoder.shared.weight": None})
    with pytest.raises(ValueError, match=r"lacks \['shared\.weight'\]"):
        conditioner.encoder  # noqa: B018


def test_configs_that_are_not_understood(folder: Path) -> None:
    for part, changes, message in (
        ("decoder", {"activation_function": "silu"}, "'silu'"),
        (
            "decoder",
            {"activation_function": "gelu", "ffn_dim": 100},
            "100 is no multiple of the model's width 32",
        ),
        (
            "decoder",
            {"ffn_dim": 96, "num_codebooks": 5, "audio_channels": 2},
            "5 codebooks are not those of 2",
        ),
        ("audio_encoder", {"model_type": "dac"}, "'dac'; only encodec"),
    ):
        change_config(folder, part, **changes)
        with pytest.raises(ValueError, match=message):
            read_huggingface(folder)
    change_config(folder, "audio_encoder", model_type="encodec")
    change_config(folder, decoder=None)
    with pytest.raises(ValueError, match="no part 'decoder'"):
        read_huggingface(folder)
    change_config(folder, "text_encoder", model_type="bert")
    with pytest.raises(ValueError, match="'bert'; only t5"):
        read_huggingface(folder)


def test_a_code_as_start_token(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"pad_token_id": 0}')
    with pytest.raises(ValueError, match="pad_token_id 0, which is a code; want 32"):
        read_huggingface(folder)


def test_names_of_earlier_versions(published: Path, folder: Path) -> None:
    """Published files have weight norms of the old kind, tied weights twice, and positions."""
    old = {
        ".parametrizations.weight.original0": ".weight_g",
        ".parametrizations.weight.original1": ".weight_v",
    }
    weights = load_file(folder / "model.safetensors")
    for new_name, old_name in old.items():
        weights = {name.replace(new_name, old_name): tensor for name, tensor in weights.items()}
    weights["text_encoder.encoder.embed_tokens.weight"] = weights["text_encoder.shared.weight"].clone()
    weights["decoder.model.decoder.embed_positions.weights"] = torch.zeros(2048, 32)
    save_file(weights, folder / "model.safetensors")
    found, wanted = read_huggingface(folder), read_huggingface(published)
    for part, tensors in wanted.weights.items():
        assert found.weights[part].keys() == tensors.keys()
        assert all(torch.equal(found.weights[part][name], tensor) for name, tensor in tensors.items())
    found.assemble().lm.conditioning.conditioners["description"].encoder  # noqa: B018


def test_shards_and_pickles_are_the_same_model(published: Path, theirs: Any, tmp_path: Path) -> None:
    whole = read_huggingface(published)
    sharded = theirs.save(theirs.musicgen(), tmp_path / "sharded", max_shard_size="40KB")
    assert len(list(sharded.glob("model-*.safetensors"))) > 2
    found = read_huggingface(sharded)
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for name in ("config.json", "generation_config.json"):
        (pickled / name).write_bytes((published / name).read_bytes())
    torch.save(load_file(published / "model.safetensors"), pickled / "pytorch_model.bin")
    for other in (found, read_huggingface(pickled)):
        for part, weights in whole.weights.items():
            assert all(torch.equal(other.weights[part][name], tensor) for name, tensor in weights.items())
    conditioner = found.assemble().lm.conditioning.conditioners["description"]
    texts = conditioner.prepare(["warm piano"])
    first = whole.assemble().lm.conditioning.conditioners["description"]
    assert torch.equal(conditioner(texts).embedding, first(texts).embedding)


def test_an_index_that_does_not_fit_its_shards(theirs: Any, tmp_path: Path) -> None:
    folder = theirs.save(theirs.musicgen(), tmp_path, max_shard_size="40KB")
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    first = sorted(set(content["weight_map"].values()))[0]
    index.write_text(json.dumps({"weight_map": {**content["weight_map"], "absent": first}}))
    with pytest.raises(ValueError, match=r"promises \['absent'\]"):
        open_weights(folder)
    index.write_text(json.dumps({"weight_map": {**content["weight_map"], "stray": "../stray.safetensors"}}))
    with pytest.raises(ValueError, match="not beside it"):
        open_weights(folder)
    index.write_text(json.dumps(content))
    (folder / first).unlink()
    with pytest.raises(FileNotFoundError, match=first):
        open_weights(folder)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("executed",)


def test_a_pickle_is_never_executed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"decoder.weight": Bomb()}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot be read safely"):
        read_huggingface(folder)
    assert "executed" not in capsys.readouterr().out


def test_models_that_transformers_cannot_hold(published: Path, tmp_path: Path) -> None:
    def refused(message: str, *path: str, **changes: Any) -> None:
        stored = read_huggingface(published)
        node: Any = stored.config
        for key in path:
            node = node[key]
        node.update(changes)
        with pytest.raises(ValueError, match=message):
            write_huggingface(stored, tmp_path)

    refused("rotary=True, kv_repeat=2", "lm", rotary=True, kv_repeat=2)
    refused(r"'delays': \[0, 1, 2, 3\]", "lm", "pattern", delays=[0, 0, 1, 1])
    parallel = {"_target_": "lightning_audio.lm.patterns.ParallelPattern", "num_codebooks": 4}
    refused("not ParallelPattern", "lm", pattern=parallel)
    refused("this one takes nothing", "lm", "conditioning", conditioners={}, fuse={})
    words = {"_target_": "lightning_audio.conditioning.text.SubwordTextConditioner"}
    refused("not with a SubwordTextConditioner", "lm", "conditioning", "conditioners", description=words)
    with pytest.raises(ValueError, match=r"parts \['bands', 'codec'\]"):
        write_huggingface(StoredModel({"codec": {}, "bands": {}}, {}), tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_padding_that_is_attended_is_written_with_a_warning(published: Path, tmp_path: Path) -> None:
    stored = read_huggingface(published)
    stored.config["lm"]["conditioning"]["mask_padding"] = False
    with pytest.warns(UserWarning, match="attends to the padding"):
        write_huggingface(stored, tmp_path)
    assert read_huggingface(tmp_path).config["lm"]["conditioning"]["mask_padding"]
