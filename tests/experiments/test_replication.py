"""The verb `replication`: a generation that plays a training clip back is found, and can be heard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from eval.clip_table import ClipRow, save_clips
from experiments.replication import main
from lightning_audio.audio import write
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.codec.quantizer import ResidualVectorQuantizer
from lightning_audio.codec.seanet import SEANetDecoder, SEANetEncoder
from lightning_audio.hashing import weights_hash
from sharding.encoding.encode import encode
from sharding.sources import find_clips
from sharding.writing.write import write_shards

RATE = 1000


def _codec() -> EnCodec:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"dim": 8, "num_filters": 2, "ratios": (5, 4), "num_lstm_layers": 0}
    codec = EnCodec(
        encoder=SEANetEncoder(**shape),
        decoder=SEANetDecoder(**shape),
        quantizer=ResidualVectorQuantizer(dim=8, num_codebooks=2, cardinality=64),
        sample_rate=RATE,
    )
    latents = codec.encode_latent(torch.randn(1, 1, 64 * 20)).detach()[0].T
    codec.quantizer.codebooks.embed.copy_(latents[None, :64].expand(2, -1, -1))
    codec.quantizer.codebooks.inited.fill_(True)
    return codec.eval()


def test_a_training_clip_among_the_generations_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codec = _codec()
    generator = torch.Generator().manual_seed(1)
    clips = {
        f"clip{i}": 0.03 * 2.0**i * torch.randn(1, 3000, generator=generator).clamp(-1.9, 1.9)
        for i in range(5)
    }
    for name, wav in clips.items():
        write(tmp_path / f"in/train/{name}.wav", wav, RATE, subtype="FLOAT")
    write_shards(find_clips(tmp_path / "in"), tmp_path / "audio")
    encode(tmp_path / "audio", tmp_path / "codes", codec, weights_hash(codec), batch_size=2)
    folder = tmp_path / "evaluation"
    made = {"new": 0.5 * torch.randn(1, 2000, generator=generator), "copied": clips["clip3"][:, 400:2400]}
    for name, wav in made.items():
        write(folder / f"{name}.wav", wav, RATE, subtype="FLOAT")
    save_clips(folder, [ClipRow(name, name, f"{name}.wav") for name in made])
    monkeypatch.setattr("experiments.replication.load", lambda source: codec)
    arguments = [
        str(folder),
        "--codes",
        str(tmp_path / "codes"),
        "--codec",
        "x",
        "--out",
        str(tmp_path / "page.html"),
    ]
    main(arguments)
    found = json.loads((tmp_path / "page.json").read_text())
    copied = next(match for match in found["by_codes"] if match["generation"] == "copied")
    assert copied["training"].endswith("clip3")
    assert copied["training_start"] - copied["start"] == 20  # 400 samples of 20 a frame
    assert copied["longest"] > 80
    near = next(match for match in found["by_embedding"] if match["generation"] == "copied")
    assert near["training"].endswith("clip3")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<audio") >= 4
    assert "clip3" in page
    assert "copied: 1." in capsys.readouterr().out
    first = (tmp_path / "page.json").read_bytes()
    main(arguments)
    assert (tmp_path / "page.json").read_bytes() == first


def test_nothing_to_look_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.replication.load", lambda source: _codec())
    with pytest.raises(ValueError, match=r"has no clips\.json with audio"):
        main([str(tmp_path), "--codes", "x", "--codec", "y"])
