"""The frozen T5 against the original's numbers; the built-in encoder's promises."""

from __future__ import annotations

import copy
import json
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_audio.conditioning.base import Precomputed
from lightning_audio.conditioning.conditioning import Conditioning
from lightning_audio.conditioning.text import SubwordTextConditioner, T5Conditioner, split_words, word_pieces


@pytest.fixture
def t5(reference_path: Callable[..., Path]) -> T5Conditioner:
    return T5Conditioner(name="t5-small", path=str(reference_path("t5", "t5-small")))


@pytest.fixture(scope="module")
def stub(reference_path: Callable[..., Path]) -> dict[str, Any]:
    return torch.load(reference_path("t5_stub.pt"), weights_only=True)


def test_t5_equals_reference(t5: T5Conditioner, stub: dict[str, Any]) -> None:
    prepared = t5.prepare(stub["config"]["texts"])
    assert torch.equal(prepared["ids"], stub["inputs"]["input_ids"])
    mask = stub["inputs"]["attention_mask"].bool()
    mask[-1] = False  # the empty text
    assert torch.equal(prepared["mask"], mask)
    for _ in range(2):  # computed, then remembered
        condition = t5(prepared)
        torch.testing.assert_close(
            condition.embedding[mask], stub["outputs"]["last_hidden_state"][mask], rtol=1e-5, atol=1e-5
        )
    assert condition.embedding[-1].abs().sum() == 0


def test_t5_in_a_model_equals_reference(t5: T5Conditioner, reference_path: Callable[..., Path]) -> None:
    vector = torch.load(reference_path("lm", "text.pt"), weights_only=True)
    conditioning = Conditioning(
        conditioners={"description": t5}, dim=64, fuse={"cross": ["description"]}, mask_padding=False
    )
    prefix = "condition_provider.conditioners.description.output_proj."
    projection = {k.removeprefix(prefix): v for k, v in vector["state_dict"].items() if k.startswith(prefix)}
    conditioning.output_proj["description"].load_state_dict(projection)
    fused = conditioning([{"description": text} for text in vector["inputs"]["texts"]])
    expected = vector["outputs"]["condition_tensors"]["description"]["cond"]
    torch.testing.assert_close(fused.cross, expected, rtol=1e-5, atol=1e-5)


def test_precomputed_encodings_equal_live_ones(t5: T5Conditioner) -> None:
    texts = ["a slow warm bell", None, "rain", ""]
    live = t5(t5.prepare(texts))
    ahead = [
        Precomputed(row[mask]) if mask.any() else None
        for row, mask in zip(live.embedding, live.mask, strict=True)
    ]
    absent = T5Conditioner(name="t5-small", path="/absent")  # never loaded, where all is there already
    for values, conditioner in (
        (ahead, absent),
        ([*ahead[:2], "rain", None], t5),
        ([texts[0], None, *ahead[2:]], t5),
    ):
        condition = conditioner(conditioner.prepare(values))
        assert torch.equal(condition.mask, live.mask)
        torch.testing.assert_close(condition.embedding[live.mask], live.embedding[live.mask])
        assert not condition.embedding[~live.mask].any()
    assert not absent(absent.prepare([None, ""])).mask.any()
    with pytest.raises(ValueError, match="3 wide, 't5-small' is 512"):
        t5.prepare([Precomputed(torch.zeros(2, 3))])
    with pytest.raises(ValueError, match=r"\[S, D\] of floats"):
        Precomputed(torch.zeros(3))


def test_t5_stays_out_of_the_model(t5: T5Conditioner) -> None:
    before = list(t5.state_dict())
    t5.train()
    assert not t5.encoder.training
    assert len(t5.encoder_hash) == 64
    assert (before, list(t5.state_dict()), list(t5.parameters())) == ([], [], [])
    assert t5(t5.prepare(["happy rock"])).embedding.requires_grad is False
    for other in (copy.deepcopy(t5), pickle.loads(pickle.dumps(t5))):
        assert not other._encoder
        assert torch.equal(other(other.prepare(["rock"])).embedding, t5(t5.prepare(["rock"])).embedding)


def test_t5_runs_in_float32_under_autocast(t5: T5Conditioner) -> None:
    prepared = t5.prepare(["happy rock"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = t5(prepared).embedding
    fresh = T5Conditioner(name="t5-small", path=t5.path, cache_size=0)
    assert torch.equal(under, fresh(prepared).embedding)
    assert not fresh._encodings


def test_t5_memory_is_bounded(t5: T5Conditioner) -> None:
    t5.eval().cache_size = 2
    for text in ("happy", "sad", "rain"):
        t5(t5.prepare([text]))
    assert len(t5._encodings) == 2


def test_t5_remembers_nothing_in_training(t5: T5Conditioner) -> None:
    t5.train()(t5.prepare(["happy", "a song of rain"]))
    assert not t5._encodings
    alone = t5(t5.prepare(["happy"])).embedding
    fresh = T5Conditioner(name="t5-small", path=t5.path).train()
    assert torch.equal(alone, fresh(fresh.prepare(["happy"])).embedding)


def test_loading_t5_leaves_the_random_state_as_it_was(t5: T5Conditioner) -> None:
    before = torch.get_rng_state()
    assert T5Conditioner(name="t5-small", path=t5.path).encoder
    assert torch.equal(torch.get_rng_state(), before)


def test_t5_builds_without_its_weights_and_says_what_is_missing(tmp_path: Path) -> None:
    assert T5Conditioner(name="t5-large").dim == 1024
    with pytest.raises(ValueError, match="'my-t5'"):
        T5Conditioner(name="my-t5")
    assert T5Conditioner(name="my-t5", dim=12).dim == 12
    absent = T5Conditioner(name="t5-base", path=str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"'t5-base'.*text_encoder="):
        absent.prepare(["rain"])
    with pytest.raises(FileNotFoundError, match=r"'t5-base'.*text_encoder="):
        _ = absent.encoder


def test_t5_of_another_width_or_without_its_vocabulary_is_refused(
    reference_path: Callable[..., Path], tmp_path: Path
) -> None:
    source = reference_path("t5")
    with pytest.raises(ValueError, match=r"512 wide.*768"):
        _ = T5Conditioner(name="t5-base", path=str(source / "t5-small")).encoder
    assert T5Conditioner(name="t5-small", path=str(source)).encoder is not None  # the folder that holds it
    folder = Path(shutil.copytree(source / "t5-small", tmp_path / "t5"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = {w: i for w, i in tokenizer["model"]["vocab"].items() if i < 104}
    (folder / "tokenizer.json").chmod(0o644)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match=r"104 words.*256"):
        _ = T5Conditioner(name="t5-small", path=str(folder)).encoder


def test_words_are_left_out_in_training_only() -> None:
    conditioner = SubwordTextConditioner(dim=16, num_heads=2, word_dropout=0.5)
    text = ["one two three four five six seven eight"]
    assert conditioner.prepare(text, rng=random.Random(0))["mask"].sum() < 8
    random.seed(0)
    again = conditioner.prepare(text)["pieces"]
    assert torch.equal(again, conditioner.prepare(text, rng=random.Random(0))["pieces"])
    assert conditioner.eval().prepare(text)["mask"].sum() == 8


def test_subwords_are_the_same_everywhere() -> None:
    assert split_words("A Lo-Fi  piano, ｆａｓｔ!") == ["a", "lo", "-", "fi", "piano", ",", "fast", "!"]
    assert word_pieces("piano", 8192)[:3] == (5162, 1516, 4469)
    shared = set(word_pieces("pianist", 8192)) & set(word_pieces("piano", 8192))
    assert len(shared) >= 4


def test_subword_encoder_handles_any_text() -> None:
    torch.manual_seed(0)
    conditioner = SubwordTextConditioner(dim=16, num_heads=2, max_words=6).eval()
    texts = [
        None,
        "",
        "  ",
        "雨の音",
        "Émotion 🎹",
        "x" * 5000,
        "one two three four five six seven",
        ["sad", 3],
        120,
    ]
    condition = conditioner(conditioner.prepare(texts))
    assert condition.embedding.shape == (9, 6, 16)
    assert condition.embedding.isfinite().all()
    assert condition.mask.sum(1).tolist() == [0, 0, 0, 1, 2, 1, 6, 3, 1]
    alone = conditioner(conditioner.prepare([texts[4]]))
    torch.testing.assert_close(alone.embedding[0], condition.embedding[4, :2], rtol=1e-4, atol=1e-5)
    with torch.no_grad():  # the fused inference path of torch
        torch.testing.assert_close(
            conditioner(conditioner.prepare(texts)).embedding[condition.mask],
            condition.embedding[condition.mask],
            rtol=1e-4,
            atol=1e-5,
        )


def test_subword_encoder_learns_word_order_and_words() -> None:
    torch.manual_seed(0)
    conditioner = SubwordTextConditioner(dim=16, num_layers=1, num_heads=2, num_buckets=256)
    head = torch.nn.Linear(16, 2)
    texts = ["drum then flute", "flute then drum"] * 4
    target = torch.tensor([0, 1] * 4)
    optimizer = torch.optim.Adam([*conditioner.parameters(), *head.parameters()], lr=1e-2)
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(
            head(conditioner(conditioner.prepare(texts)).embedding[:, 0] * 0.5), target
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    assert all(p.grad is not None for p in conditioner.parameters())


def test_subword_encoder_builds_on_meta() -> None:
    with torch.device("meta"):
        conditioner = SubwordTextConditioner()
    assert all(p.is_meta for p in conditioner.parameters())
    assert not list(conditioner.buffers())
