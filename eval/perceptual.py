"""What listeners would say of a codec's output, by models of hearing: PESQ, STOI and ViSQOL.

They are programs of others, in the extra `metrics`. One that is absent is an error when the metric is made, before any
work. They judge mono, so channels are mixed down. A silent output of a target that is not silent counts as the lowest
score there is; the programs themselves would crash, or give NaN.
"""

from __future__ import annotations

import csv
import importlib
import importlib.metadata
import os
import subprocess
import tempfile
import warnings
from abc import abstractmethod
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from eval.clip_scores import SingleClipScores, is_silent
from lightning_audio.audio import convert, write


class PerceptualScore(SingleClipScores):
    """A score of mono clips at `rate` Hz; a subclass gives `judge`."""

    higher_is_better = True
    lowest: ClassVar[float]

    def __init__(self, *, sample_rate: int, rate: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sample_rate, self.rate = sample_rate, rate

    @abstractmethod
    def judge(self, estimate: np.ndarray, target: np.ndarray) -> float:
        """NaN for a clip that is too short.  [L] float32 twice, neither of them silent"""

    def score_clip(self, estimate: Tensor, target: Tensor) -> float:
        pair = [convert(wav.cpu(), self.sample_rate, self.rate, 1) for wav in (estimate, target)]
        if is_silent(pair[1]):
            return torch.nan
        return self.lowest if is_silent(pair[0]) else self.judge(pair[0][0].numpy(), pair[1][0].numpy())


class PESQ(PerceptualScore):
    """Mean PESQ (ITU-T P.862) of speech, from 1 to 4.64: `rate` 16 kHz is the wide band, 8 kHz the narrow one.

    A clip of less than a quarter second, or in which it finds no utterance, has none.
    """

    lowest = 1.0

    def __init__(self, *, sample_rate: int, rate: int = 16_000, **kwargs: Any) -> None:
        super().__init__(sample_rate=sample_rate, rate=rate, **kwargs)
        if rate not in (8_000, 16_000):
            raise ValueError(f"PESQ is defined at 8000 Hz and 16000 Hz, got {rate} Hz")
        _package("pesq", "PESQ")

    def judge(self, estimate: np.ndarray, target: np.ndarray) -> float:
        program = _package("pesq", "PESQ")
        try:
            return float(program.pesq(self.rate, target, estimate, "wb" if self.rate == 16_000 else "nb"))
        except (program.BufferTooShortError, program.NoUtterancesError):
            return torch.nan


class STOI(PerceptualScore):
    """Mean short-time objective intelligibility of speech (Taal et al. 2011), from 0 to 1.

    A clip of which less than 0.4 s is left without its silent frames has none.
    """

    lowest = 0.0

    def __init__(self, *, sample_rate: int, **kwargs: Any) -> None:
        super().__init__(sample_rate=sample_rate, rate=sample_rate, **kwargs)
        _package("pystoi", "STOI")

    def judge(self, estimate: np.ndarray, target: np.ndarray) -> float:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            score = float(_package("pystoi", "STOI").stoi(target, estimate, self.sample_rate))
        # Too few frames give 1e-5 and a warning.
        return torch.nan if any("STFT frames" in str(warning.message) for warning in caught) else score


class ViSQOL(PerceptualScore):
    """Mean ViSQOL v3 (Chinen et al. 2020) in audio mode, at 48 kHz, from 1 to 4.73.

    folder: of a checkout in which `visqol` was built with bazel; without it the environment's VISQOL, and where that is
        not set, the Python port. `program` says which it was, for a card.

    A clip of less than 1 s has none.
    """

    lowest = 1.0
    min_samples = 48_000

    def __init__(self, *, sample_rate: int, folder: str | Path | None = None, **kwargs: Any) -> None:
        super().__init__(sample_rate=sample_rate, rate=48_000, **kwargs)
        self.measure: Callable[[np.ndarray, np.ndarray], float]
        if place := folder or os.environ.get("VISQOL"):
            self.program = f"visqol at {_visqol_binary(Path(place))}"
            self.measure = partial(_by_binary, Path(place))
        else:
            _visqol_port()
            self.program = f"visqol-python {importlib.metadata.version('visqol-python')}"
            self.measure = _by_port

    def judge(self, estimate: np.ndarray, target: np.ndarray) -> float:
        return self.measure(estimate, target) if len(target) >= self.min_samples else torch.nan


VISQOL_MODEL = "model/libsvm_nu_svr_model.txt"
"""The default, the same as tcdaudio14_aacvopus_coresv_svrnsim_n.68_g.01_c1.model, which AudioCraft names."""


def _visqol_binary(folder: Path) -> Path:
    for path in (folder / "bazel-bin/visqol", folder / VISQOL_MODEL):
        if not path.is_file():
            raise ValueError(
                f"ViSQOL: {path} is absent; build it in {folder} as github.com/google/visqol says, or leave "
                "VISQOL unset and install the extra: pip install lightning-audio[metrics]"
            )
    return folder / "bazel-bin/visqol"


def _by_binary(folder: Path, estimate: np.ndarray, target: np.ndarray) -> float:
    with tempfile.TemporaryDirectory() as name:
        pair = [Path(name) / "target.wav", Path(name) / "estimate.wav"]
        for path, wav in zip(pair, (target, estimate), strict=True):
            write(path, torch.from_numpy(wav)[None], 48_000, subtype="PCM_16")
        results = Path(name) / "results.csv"
        command: list[str | Path] = [
            folder / "bazel-bin/visqol",
            "--reference_file",
            pair[0],
            "--degraded_file",
            pair[1],
        ]
        command += ["--similarity_to_quality_model", folder / VISQOL_MODEL, "--results_csv", results]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not results.exists():
            raise RuntimeError(f"{command[0]} failed ({done.returncode}): {done.stderr[-500:]}")
        with results.open(newline="") as file:
            return float(next(csv.DictReader(file))["moslqo"])


@lru_cache(maxsize=1)
def _visqol_port() -> Any:
    alternative = ", or set VISQOL to a folder in which its binary was built"
    api = _package("visqol", "ViSQOL", alternative).VisqolApi()
    api.create(mode="audio")
    return api


def _by_port(estimate: np.ndarray, target: np.ndarray) -> float:
    pair = target.astype(np.float64), estimate.astype(np.float64)
    return float(_visqol_port().measure_from_arrays(*pair, 48_000).moslqo)


def _package(name: str, metric: str, alternative: str = "") -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{metric} needs the package {name}: pip install lightning-audio[metrics]{alternative}"
        ) from error
