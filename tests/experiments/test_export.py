"""The verb `export`, from a trained run to each form and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import lightning_audio
from experiments import cli
from lightning_audio.checkpoints.native import write_native
from lightning_audio.checkpoints.stored import StoredModel, build, node_of
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.codec.quantizer import ResidualVectorQuantizer
from lightning_audio.codec.seanet import SEANetDecoder, SEANetEncoder


@pytest.fixture
def package(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    seanet = {"dim": 8, "num_filters": 2, "ratios": [4, 2]}
    node = node_of(
        EnCodec,
        encoder=node_of(SEANetEncoder, **seanet),
        decoder=node_of(SEANetDecoder, **seanet),
        quantizer=node_of(ResidualVectorQuantizer, dim=8, num_codebooks=2, cardinality=16),
        sample_rate=400,
    )
    stored = StoredModel({"codec": node}, {"codec": build(node).state_dict()})
    return write_native(stored, tmp_path / "package")


@pytest.mark.parametrize("form", ["native", "audiocraft", "transformers"])
def test_each_form_says_what_it_checked(
    form: str, package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / form
    assert cli.main(["export", str(package), str(out), "--format", form]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2
    assert "codes equal" in printed[0]
    assert printed[1] == f"written: {out}"
    codec = lightning_audio.load(out, device="cpu")
    wav = torch.randn(1, 1, 80)
    original = lightning_audio.load(package, device="cpu")
    assert torch.equal(codec.encode(wav).codes, original.encode(wav).codes)


def test_what_is_wrong_is_one_line_and_exit_code_2(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: str, match: str) -> None:
        assert cli.main(["export", *arguments]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert match in lines[0]

    refused(str(package), str(package), match="exists already and is not empty")
    refused(str(tmp_path / "nothing"), str(tmp_path / "out"), match="there is no model at")
    refused("no-such/model", str(tmp_path / "out"), match="AUDIOCRAFT_CACHE_DIR")
    refused(str(package), str(tmp_path / "out"), "--dtype", "float16", match="dtype is for 'audiocraft'")
    assert not (tmp_path / "out").exists()
