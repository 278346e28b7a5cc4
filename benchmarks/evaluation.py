"""Scoring beside the packages that others score with.

    python benchmarks/evaluation.py                    # all
    python benchmarks/evaluation.py --only vggish --clips 1000

frechet: the distance alone, from means and covariances of 2,048 dimensions (PANN's) as they come out of 10,000
    embeddings. The frechet-audio-distance package takes SciPy's `sqrtm` of the complex product of the covariances.
vggish: from two folders of clips of 10 s (44.1 kHz stereo) to their distance, with the same random weights. The package
    gets its network by torch.hub; offline, one that does the same stands in for it here: log-mel by NumPy, one clip at
    a time, gradients on, as there. Reading, resampling (resampy), batching and the distance are the package's own.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import measure
import numpy as np
import soundfile
import torch
from measure import in_turn, median, timed
from torch import Tensor, nn

from eval.embedders import Hearing, KaiserBest, VGGish, embed_files
from eval.embedders.vggish import VGGishFrontEnd, VGGishNet
from eval.fad import FrechetDistance, frechet_distance

DIM, EMBEDDINGS = 2048, 10_000
CLIPS, DURATION, RATE = 100, 10.0, 44_100


def frechet_package() -> Any:
    """The package's class, unconstructed; what it imports for other embedders need not be there."""
    stand_ins = {
        "laion_clap": (),
        "resampy": (),
        "encodec": ("EncodecModel",),
        "torchlibrosa": (),
        "torchlibrosa.stft": ("Spectrogram", "LogmelFilterBank"),
        "torchlibrosa.augmentation": ("SpecAugmentation",),
    }
    for name, attributes in stand_ins.items():
        try:
            importlib.import_module(name)
        except ImportError:
            module = ModuleType(name)
            for attribute in attributes:
                setattr(module, attribute, None)
            sys.modules[name] = module
    from frechet_audio_distance import FrechetAudioDistance

    return FrechetAudioDistance.__new__(FrechetAudioDistance)


def moments(seed: int) -> tuple[Tensor, Tensor]:
    """Mean [D] and covariance [D, D] of embeddings whose dimensions hang together."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(DIM, DIM, generator=generator, dtype=torch.float64) / DIM**0.5
    rows = torch.randn(EMBEDDINGS, DIM, generator=generator, dtype=torch.float64) @ mix
    return rows.mean(0), torch.cov(rows.T)


def frechet(repeats: int) -> tuple[list[dict[str, Any]], float]:
    """Seconds of each, and by how much their values differ, relative to the package's."""
    package = frechet_package()
    ours = (*moments(0), *moments(1))
    theirs = [part.numpy() for part in ours]
    found: dict[str, float] = {}

    def contestant(
        name: str, distance: Callable[..., Any], parts: Sequence[Any]
    ) -> Callable[[], list[float]]:
        def run() -> None:
            found[name] = float(distance(*parts))

        return timed(run)

    seconds = in_turn(
        {
            "this project": contestant("this project", frechet_distance, ours),
            "frechet-audio-distance": contestant(
                "frechet-audio-distance", package.calculate_frechet_distance, theirs
            ),
        },
        repeats=repeats,
    )
    slow = median(seconds["frechet-audio-distance"])
    rows = [
        {"what": name, "seconds": median(times), "value": found[name], "ratio": slow / median(times)}
        for name, times in seconds.items()
    ]
    reference = found["frechet-audio-distance"]
    return rows, abs(found["this project"] - reference) / reference


class HubVGGish(nn.Module):
    """What torch.hub gives the package: NumPy arrays of one clip at 16 kHz in, rows out."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        net = VGGishNet()
        net.load_state_dict(state)
        self.features, self.embeddings = net.features, net.embeddings
        self.filters = VGGishFrontEnd().filters.double().numpy()
        self.taper = 0.5 - 0.5 * np.cos(2 * np.pi / 400 * np.arange(400))

    def forward(self, samples: np.ndarray, sample_rate: int) -> Tensor:
        frames = np.lib.stride_tricks.sliding_window_view(samples, 400)[::160]
        logs = np.log(np.abs(np.fft.rfft(frames * self.taper, 512)) @ self.filters + 0.01)
        examples = logs[: len(logs) // 96 * 96].reshape(-1, 1, 96, 64)
        x = self.features(torch.tensor(examples, requires_grad=True).float())
        return self.embeddings(x.transpose(1, 3).transpose(1, 2).contiguous().flatten(1))


def make_clips(folder: Path, number: int, seed: int) -> None:
    """Noise that is coloured and swells differently in each clip, in stereo."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    for index in range(number):
        noise = rng.standard_normal((round(DURATION * RATE), 2)).astype(np.float32)
        coloured = noise[1:] + rng.uniform(-0.9, 0.9) * noise[:-1]
        swell = 0.5 + 0.5 * np.sin(np.linspace(0, rng.uniform(1, 40), len(coloured)))
        soundfile.write(folder / f"{index}.wav", 0.1 * coloured * swell[:, None], RATE)


def random_vggish(path: Path) -> dict[str, Tensor]:
    """Weights of a size that lets the audio through, also written to `path` as torchvggish's file."""
    torch.manual_seed(0)
    state = VGGishNet().state_dict()
    for key, value in state.items():
        fan_in = value[0].numel()
        value.normal_(0.0, (2.0 / fan_in) ** 0.5 if key.endswith("weight") else 0.05)
    torch.save(state, path)
    return state


def our_distance(vggish: VGGish, folders: Sequence[Path]) -> float:
    """Of two folders."""
    metric = FrechetDistance(vggish.dim)
    for folder, reference in zip(folders, (True, False), strict=True):
        rows = [file.rows for file in embed_files(vggish, sorted(folder.iterdir()))]
        metric.update(torch.cat(rows), reference=reference)
    return float(metric.compute())


def vggish(clips: int, repeats: int) -> tuple[list[dict[str, Any]], float]:
    """Seconds of each for `clips` clips against 32 others, and by how much their values differ, relatively."""
    package = frechet_package()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        folders = [work / "reference", work / "clips"]
        make_clips(folders[0], 32, 0)
        make_clips(folders[1], clips, 1)
        weights = work / "vggish-10086976.pth"
        state = random_vggish(weights)
        ours = VGGish(weights, hearing=Hearing(resampler=KaiserBest()))
        # As its constructor would, without torch.hub.
        vars(package).update(model_name="vggish", sample_rate=16_000, channels=1, verbose=False)
        package.audio_load_worker, package.model = 8, HubVGGish(state).to(ours.device).eval()
        # resampy compiles when first called. An error inside the package comes out as -1.
        if package.score(str(folders[0]), str(folders[0])) < 0:
            raise SystemExit("the package gives no value: is resampy there?")
        found: dict[str, float] = {}

        def theirs() -> None:
            found["frechet-audio-distance"] = float(package.score(*map(str, folders)))

        def this() -> None:
            found["this project"] = our_distance(ours, folders)

        seconds = in_turn(
            {"this project": timed(this), "frechet-audio-distance": timed(theirs)}, repeats=repeats
        )
    slow = median(seconds["frechet-audio-distance"])
    rows = [
        {"what": name, "seconds": median(times), "value": found[name], "ratio": slow / median(times)}
        for name, times in seconds.items()
    ]
    reference = found["frechet-audio-distance"]
    return rows, abs(found["this project"] - reference) / reference


def main() -> None:
    arguments = measure.parser(__doc__)
    arguments.add_argument("--only", choices=("frechet", "vggish"), help="a part of it")
    arguments.add_argument("--clips", type=int, default=CLIPS, help="of vggish")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    if options.only in (None, "frechet"):
        rows, difference = frechet(options.repeats or 3)
        measure.save(
            options.out,
            "evaluation_frechet",
            about=f"The Fréchet distance of two Gaussians of {DIM} dimensions, from their means and covariances.",
            rows=rows,
            relative_difference_of_the_values=difference,
        )
    if options.only in (None, "vggish"):
        rows, difference = vggish(options.clips, options.repeats or 1)
        measure.save(
            options.out,
            "evaluation_vggish",
            about=f"Fréchet audio distance by VGGish of {options.clips} files of {DURATION:g} s, stereo at {RATE} Hz, "
            "against 32 others.",
            rows=rows,
            relative_difference_of_the_values=difference,
        )


if __name__ == "__main__":
    main()
