from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from experiments.check import main
from lightning_audio import audio
from sharding.schema import ShardIndex
from sharding.sources import find_clips
from sharding.writing.write import write_shards


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    for i in range(4):
        file = tmp_path / "in" / ("train" if i < 3 else "test") / f"{i}.flac"
        audio.write(file, torch.rand(1, 2000) - 0.5, 16000)
        file.with_suffix(".json").write_text(json.dumps({"artist": f"artist {i % 2}"}))
    write_shards(find_clips(tmp_path / "in"), tmp_path / "out")
    return tmp_path / "out"


def damage(dataset: Path) -> str:
    """Breaks a clip of the training set, and gives its key."""
    index = ShardIndex.load(dataset / "train/000000.index.json")
    with (dataset / "train/000000.tar").open("r+b") as file:
        file.seek(int(index.parts["flac"][1, 0]))
        file.write(b"JUNK")
    return index.keys[1]


def test_a_broken_dataset_is_told_and_mended(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(dataset), "--workers", "1"])
    assert capsys.readouterr().out.splitlines()[-1] == "sound"
    key = damage(dataset)
    with pytest.raises(ValueError, match="2 problems, listed above"):
        main([str(dataset), "--workers", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "2 problems"
    assert any(line.startswith(f"train/000000.tar: {key}: .flac: ") for line in lines)
    main([str(dataset), "--workers", "1", "--repair"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "sound"
    assert lines[0].startswith(f"dropped train/000000.tar: {key}: .flac: ")
    assert key in (dataset / "train/quarantine.jsonl").read_text()
    main([str(dataset), "--workers", "1"])


def test_json_is_all_that_is_printed(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(dataset), "--workers", "1", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["sound"] is True
    assert {name: split["num_samples"] for name, split in found["splits"].items()} == {"train": 3, "test": 1}
    with pytest.raises(ValueError, match="1 problems"):
        main([str(dataset), "--workers", "1", "--json", "--group", "artist"])
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem["split"] == "train"
    assert problem["reason"].startswith("its artist is also in another split, test/000000.tar: ")
    key = damage(dataset)
    main([str(dataset), "--workers", "1", "--json", "--repair"])
    mended = json.loads(capsys.readouterr().out)
    assert [finding["key"] for finding in mended["dropped"]] == [key]
    assert "train/000000.tar" in mended["changed"]


def test_repair_has_to_decode(dataset: Path) -> None:
    with pytest.raises(ValueError, match="--repair has to decode"):
        main([str(dataset), "--repair", "--no-decode"])
