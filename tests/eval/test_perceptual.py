"""PESQ, STOI and ViSQOL: as their packages have them, on clips of any length, and absent ones named."""

from __future__ import annotations

import copy
import importlib
import pickle
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from eval.perceptual import PESQ, STOI, VISQOL_MODEL, PerceptualScore, ViSQOL

RATE = 16_000


def _speech(duration: float, rate: int = RATE) -> Tensor:
    """Syllables of a sort: harmonics in bursts.  [1, 1, L]"""
    time = torch.arange(int(duration * rate)) / rate
    tone = sum(torch.sin(2 * torch.pi * 150 * k * time) / k for k in (1, 2, 4, 7, 12))
    bursts = (torch.sin(2 * torch.pi * 3 * time) > 0).float()
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(0))
    return (0.2 * tone * bursts + 1e-3 * noise)[None, None]


def _noise(like: Tensor, level: float) -> Tensor:
    return level * torch.randn(like.shape, generator=torch.Generator().manual_seed(1))


def test_pesq_is_the_packages() -> None:
    package = pytest.importorskip("pesq")
    target = _speech(1.5)
    estimate = target + _noise(target, 0.01)
    pair = target[0, 0].numpy(), estimate[0, 0].numpy()
    wide = float(PESQ(sample_rate=RATE).score(estimate, target, None))
    assert wide == pytest.approx(package.pesq(RATE, *pair, "wb"), rel=1e-6)
    assert float(PESQ(sample_rate=RATE).score(target, target, None)) > 4.6
    narrow = PESQ(sample_rate=8_000, rate=8_000).score(estimate[..., ::2], target[..., ::2], None)
    assert float(narrow) == pytest.approx(package.pesq(8_000, *(wav[::2] for wav in pair), "nb"), rel=1e-6)
    with pytest.raises(ValueError, match="got 44100 Hz"):
        PESQ(sample_rate=RATE, rate=44_100)


def test_stoi_is_the_packages() -> None:
    package = pytest.importorskip("pystoi")
    target = _speech(1.5)
    estimate = target + _noise(target, 0.05)
    found = float(STOI(sample_rate=RATE).score(estimate, target, None))
    assert found == pytest.approx(package.stoi(target[0, 0].numpy(), estimate[0, 0].numpy(), RATE), rel=1e-6)
    assert 0.1 < found < float(STOI(sample_rate=RATE).score(target, target, None))


@pytest.mark.parametrize(("make", "lowest"), [(PESQ, 1.0), (STOI, 0.0)])
def test_no_clip_vanishes(make: type[PerceptualScore], lowest: float) -> None:
    pytest.importorskip({"PESQ": "pesq", "STOI": "pystoi"}[make.__name__])
    metric = make(sample_rate=RATE)  # type: ignore[call-arg]
    target = _speech(1.5).expand(5, 2, -1).clone()
    estimate = target.clone()
    estimate[1] = 0.0  # silent output
    target[2] = 0.0  # silent target
    estimate[3, 0, 9] = torch.nan
    lengths = torch.tensor([24_000, 24_000, 24_000, 24_000, 2_000])  # the last is too short
    metric.update(estimate, target, lengths, keys=["good", "silent", "nothing", "broken", "short"])
    found = metric.scores_of(["good", "silent", "nothing", "broken", "short"])
    assert float(found[0]) > 0.9
    assert float(found[1]) == lowest
    assert found[2:].isnan().all()
    assert int(metric.num_excluded) == 3


@pytest.mark.slow
def test_visqol_by_its_port(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("visqol")
    monkeypatch.delenv("VISQOL", raising=False)
    metric = ViSQOL(sample_rate=RATE)
    assert metric.program.startswith("visqol-python ")
    target = _speech(1.2)
    best, worse = (float(metric.score(target + noise, target, None)) for noise in (0.0, _noise(target, 0.02)))
    assert 1.0 < worse < best < 4.8
    assert metric.score(target[..., :9000], target[..., :9000], None).isnan()
    assert float(metric.score(0 * target, target, None)) == 1.0


STAND_IN = """#!{python}
import csv, sys, wave
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert given["--similarity_to_quality_model"].endswith(".txt")
wavs = [wave.open(given[name]) for name in ("--reference_file", "--degraded_file")]
assert [(w.getframerate(), w.getnchannels(), w.getsampwidth()) for w in wavs] == [(48000, 1, 2)] * 2
if wavs[0].getnframes() > 90000:
    sys.exit("too long for me")
with open(given["--results_csv"], "w") as file:
    csv.writer(file).writerows([["reference", "degraded", "moslqo"], ["r", "d", wavs[1].getnframes() / 48000]])
"""


def test_visqol_by_its_binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line and the files of the real one, by a stand-in that answers with the length in seconds."""
    binary = tmp_path / "bazel-bin/visqol"
    with pytest.raises(ValueError, match=r"bazel-bin/visqol is absent; build it"):
        ViSQOL(sample_rate=RATE, folder=tmp_path)
    binary.parent.mkdir()
    binary.write_text(STAND_IN.format(python=sys.executable))
    binary.chmod(0o755)
    with pytest.raises(ValueError, match=r"libsvm_nu_svr_model.txt is absent"):
        ViSQOL(sample_rate=RATE, folder=tmp_path)
    (tmp_path / VISQOL_MODEL).parent.mkdir()
    (tmp_path / VISQOL_MODEL).touch()
    monkeypatch.setenv("VISQOL", str(tmp_path))
    metric = ViSQOL(sample_rate=RATE)
    assert metric.program == f"visqol at {binary}"
    target = _speech(1.5)
    assert float(metric.score(target, target, None)) == pytest.approx(1.5)
    with pytest.raises(RuntimeError, match="too long for me"):
        metric.score(_speech(2.0), _speech(2.0), None)


@pytest.mark.parametrize(("make", "package"), [(PESQ, "pesq"), (STOI, "pystoi"), (ViSQOL, "visqol")])
def test_absent_packages_are_named_before_any_work(
    make: type[PerceptualScore], package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delenv("VISQOL", raising=False)
    importlib.import_module("eval.perceptual")._visqol_port.cache_clear()
    with pytest.raises(ValueError, match=rf"package {package}: pip install lightning-audio\[metrics\]"):
        make(sample_rate=RATE)  # type: ignore[call-arg]


def test_can_be_copied_and_sent() -> None:
    pytest.importorskip("pesq")
    metric = PESQ(sample_rate=RATE)
    metric.update(_speech(0.5), _speech(0.5))
    for twin in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        assert float(twin.compute()) == float(metric.compute())
