"""Taggers: the rule of segments, AST on a tiny folder, and PaSST where its package is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from eval.embedders.ast import Ast
from eval.embedders.passt import Passt
from eval.embedders.segments import num_segments, segments_of

RATE = 16_000


def _wav(*shape: int) -> Tensor:
    return 0.2 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (10.0, [10.0]),
        (10.15, [10.0]),
        (10.2, [10.0, 0.2]),
        (25.0, [10.0, 10.0, 5.0]),
        (0.15, []),
        (0.16, [0.16]),
    ],
)
def test_whole_segments_then_what_is_left(seconds: float, expected: list[float]) -> None:
    clip = _wav(1, round(seconds * RATE))
    parts = segments_of(clip, RATE, 10.0)
    assert [part.shape[-1] / RATE for part in parts] == expected
    assert torch.equal(torch.cat([*parts, clip[:, :0]], -1), clip[:, : round(sum(expected) * RATE)])
    counted = num_segments(torch.tensor([clip.shape[-1]]), RATE, RATE, 10.0)
    assert counted.tolist() == [len(expected)]


@pytest.fixture(scope="module")
def ast_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("ast")
    config = ASTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=7,
        max_length=64,
        initializer_range=0.3,
    )
    ASTForAudioClassification(config).save_pretrained(folder)
    ASTFeatureExtractor(max_length=64).save_pretrained(folder)
    return folder


def test_ast_gives_a_row_a_segment(ast_folder: Path) -> None:
    from transformers import ASTFeatureExtractor, ASTForAudioClassification

    ast = Ast(ast_folder, device="cpu", batch_size=2)
    wav, lengths = _wav(2, 1, 25 * RATE), torch.tensor([25 * RATE, 3 * RATE])
    found = ast.logits(wav, RATE, lengths)
    parts = [wav[0, 0, :160_000], wav[0, 0, 160_000:320_000], wav[0, 0, 320_000:], wav[1, 0, : 3 * RATE]]
    extractor: Any = ASTFeatureExtractor.from_pretrained(ast_folder)
    net = ASTForAudioClassification.from_pretrained(ast_folder).eval()
    for row, part in zip(found, parts, strict=True):
        heard = extractor(part.numpy(), sampling_rate=RATE, return_tensors="pt")
        with torch.no_grad():
            assert torch.allclose(row, net(**heard).logits[0], atol=1e-4)
    assert (found[0] - found[3]).abs().max() > 1e-3
    assert ast.num_segments(lengths, RATE).tolist() == [3, 1]
    assert (ast.name, ast.sample_rate, ast.segment) == ("ast", RATE, 10.0)


def test_an_absent_ast_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.json.*weights fetch ast"):
        Ast(tmp_path)


def test_passt_without_its_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("hear21passt", "hear21passt.models", "hear21passt.models.passt"):
        monkeypatch.setitem(sys.modules, name, None)
    torch.save({}, tmp_path / "passt-s-f128-20sec-p16-s10-ap.474-swa.pt")
    with pytest.raises(ValueError, match=r"lightning-audio\[kl\]"):
        Passt(tmp_path, device="cpu")


def test_passt_absent_or_of_another_segment(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not of 30\.0 s"):
        Passt(segment=30.0)
    with pytest.raises(
        FileNotFoundError, match=r"passt-s-f128-p16-s10-ap\.476-swa\.pt.*weights fetch passt-10s"
    ):
        Passt(tmp_path, segment=10.0)


@pytest.mark.slow
def test_passt_equals_its_package(tmp_path: Path) -> None:
    pytest.importorskip("hear21passt.models.preprocess", reason="needs hear21passt, torchaudio and timm")
    from hear21passt.base20sec import get_model_passt
    from hear21passt.models.preprocess import AugmentMelSTFT
    from hear21passt.wrapper import PasstBasicWrapper

    torch.manual_seed(0)
    net = get_model_passt(arch="passt_20sec", pretrained=False, input_tdim=2000)
    mel = AugmentMelSTFT(n_mels=128, sr=32_000, win_length=800, hopsize=320, n_fft=1024, fmin_aug_range=10, fmax_aug_range=2000)  # fmt: skip  # noqa: E501
    package = PasstBasicWrapper(mel=mel, net=net, max_model_window=20_000, mode="logits").eval()
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    passt = Passt(tmp_path / "weights.pt", device="cpu", any_weights=True)
    wav = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 1, 32_000 * 22))).float() * 0.1
    with torch.no_grad():
        expected = torch.cat([package(wav[:, 0, :640_000]), package(wav[:, 0, 640_000:])])
    assert torch.allclose(passt.logits(wav, 32_000), expected, atol=1e-4)
