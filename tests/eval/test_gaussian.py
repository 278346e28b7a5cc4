"""Reference statistics on disk: whole, of the right embedder, or an error."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from eval.gaussian import gaussian_of, load_gaussian, save_gaussian


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    rows = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "reference.safetensors"
    save_gaussian(path, gaussian_of(rows), embedder="vggish", weights_hash="abc", about="a set, test split")
    return path


def test_there_and_back(saved: Path) -> None:
    rows = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    found, wanted = load_gaussian(saved, embedder="vggish", weights_hash="abc"), gaussian_of(rows)
    assert found.count == 30
    assert torch.equal(found.mean, wanted.mean)
    assert torch.equal(found.covariance, wanted.covariance)
    assert found.content_hash() == wanted.content_hash()
    with safe_open(saved, framework="pt") as file:
        assert file.metadata()["about"] == "a set, test split"


@pytest.mark.parametrize(("embedder", "weights_hash"), [("clap", "abc"), ("vggish", "abd"), ("vggish", None)])
def test_another_embedder_is_refused(saved: Path, embedder: str, weights_hash: str | None) -> None:
    with pytest.raises(ValueError, match=rf"made by the embedder vggish .*abc.* by {embedder}"):
        load_gaussian(saved, embedder=embedder, weights_hash=weights_hash)


def test_damage_is_found(saved: Path, tmp_path: Path) -> None:
    blob = bytearray(saved.read_bytes())
    blob[-3] ^= 1
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(blob)
    with pytest.raises(ValueError, match="damaged"):
        load_gaussian(damaged, embedder="vggish", weights_hash="abc")
    damaged.write_bytes(blob[:100])
    with pytest.raises(ValueError, match="holds no reference statistics"):
        load_gaussian(damaged, embedder="vggish", weights_hash="abc")
    save_file({"mean": torch.zeros(2)}, damaged)
    with pytest.raises(ValueError, match="is in the format None"):
        load_gaussian(damaged, embedder="vggish", weights_hash="abc")


def test_one_embedding_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="1 embeddings have no covariance"):
        gaussian_of(torch.zeros(1, 3))
