"""Measures of a set of clips: what a broken clip does to them, what canaries show, and on how many ranks."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from eval.clap_score import ClapScore
from eval.divergence import TaggerDivergence
from eval.embedders import Hearing, LogMelEmbedder
from eval.extrapolation import ExtrapolatedFrechetDistance
from eval.fad import FrechetDistance, bootstrap_frechet
from eval.kad import KernelDistance, kernel_distance
from eval.protocols.intervals import frechet_interval, kernel_interval
from eval.protocols.judged import Judged, canaries
from eval.protocols.measures import CaptionScores, PairedScores, SetDistances, TaggerScores, joined
from eval.protocols.scoring import Tally, score
from eval.protocols.set_distance import Distance
from eval.reconstruction import SiSDR

RATE = 8000


class Tones:
    """Clips of a tone each, judged with some noise; `judged` and `targets` replace them."""

    sample_rate = RATE

    def __init__(self, number: int, **replaced: dict[int, Any]) -> None:
        self.number = number
        self.judged: dict[int, Any] = replaced.get("judged", {})
        self.targets: dict[int, Any] = replaced.get("targets", {})

    def __len__(self) -> int:
        return self.number

    def key(self, place: int) -> str:
        return f"tone {place}"

    def caption(self, place: int) -> str:
        return f"{place % 3} beeps"

    def target(self, place: int) -> Tensor | None:
        if place in self.targets:
            return raised(self.targets[place])
        return 0.3 * torch.sin(torch.arange(3000 + 50 * place) * 0.02 * (1 + place))[None]

    def wav(self, place: int) -> Tensor | None:
        if place in self.judged:
            return raised(self.judged[place])
        noise = torch.randn(1, 3000 + 50 * place, generator=torch.Generator().manual_seed(place))
        return Tones(self.number).target(place) + 0.003 * noise


def raised(value: Any) -> Any:
    if isinstance(value, Exception):
        raise value
    return value


class Spectrum:
    """Tagger and text embedder of a few numbers of a clip; texts are their first letter's."""

    name, sample_rate, weights_hash, hearing, segment = "spectrum", RATE, "abc", Hearing(), 1.0

    def logits(self, wav: Tensor, sample_rate: int, num_samples: Tensor | None = None) -> Tensor:
        return torch.fft.rfft(wav[:, 0], 512).abs()[:, :6].double().log1p()

    def embed(self, wav: Tensor, sample_rate: int, num_samples: Tensor | None = None) -> Tensor:
        return self.logits(wav, sample_rate)

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([torch.eye(6)[int(text[0])] + 0.1 for text in texts])


def measures() -> list[Any]:
    distances = {
        "FD": Distance(FrechetDistance, "far", interval=partial(frechet_interval, num_resamples=20)),
        "KD": Distance(KernelDistance, "far", interval=partial(kernel_interval, num_resamples=20)),
        "FD∞": Distance(
            partial(ExtrapolatedFrechetDistance, num_points=3, min_count=3), "far", canaries=False
        ),
    }
    embedder = LogMelEmbedder(sample_rate=RATE, num_mels=4, spread=False)
    names = ["KL", "KL reversed", "both"]
    return [
        SetDistances(embedder=embedder, distances=distances),
        PairedScores(names=["SI-SDR"], metric=SiSDR, meaning="kept"),
        TaggerScores(tagger=Spectrum(), names=names, metric=TaggerDivergence, meaning="heard"),
        CaptionScores(embedder=Spectrum(), names=["CLAP"], metric=ClapScore, meaning="fits"),
    ]


def evaluated(clips: Tones, **ranks: int) -> tuple[dict[str, float], Tally, Any]:
    chosen = measures()
    tally = score(clips, chosen, canaries(lambda wav: 0.9 * wav), **ranks)
    results = joined([measure.results() for measure in chosen])
    values = {m.name: m.value for m in [*results.measurements, *results.canaries]}
    values |= {
        f"{m.name} {end}": getattr(m.interval, end)
        for m in results.measurements
        if m.interval
        for end in ("low", "high")
    }
    scores = {name: of(list(tally.durations)).tolist() for name, of in results.scores_of.items()}
    values |= {f"{name} of {i}": v for name, column in scores.items() for i, v in enumerate(column)}
    return values, tally, results


def test_values_are_the_metrics_own_and_canaries_are_worse() -> None:
    clips = Tones(8)
    values, tally, results = evaluated(clips)
    embedder = LogMelEmbedder(sample_rate=RATE, num_mels=4, spread=False)
    pairs = [(clips.wav(place), clips.target(place)) for place in range(8)]
    ours, theirs = (torch.cat([embedder.embed(pair[side][None], RATE) for pair in pairs]) for side in (0, 1))
    direct = FrechetDistance(4)
    direct.update(ours, reference=False)
    direct.update(theirs, reference=True)
    assert values["FD"] == float(direct.compute())
    assert values["KD"] == pytest.approx(kernel_distance(ours, theirs), rel=1e-9)
    sdr = SiSDR()
    for wav, target in pairs:
        sdr.update(wav[None], target[None])
    assert values["SI-SDR"] == float(sdr.compute())
    assert list(tally.durations) == [f"tone {place}" for place in range(8)]
    assert (tally.missing, tally.faults) == ({}, {})
    for canary in ("silence", "white noise"):
        assert values[f"FD: {canary}"] > values["FD"] > values["FD: codec reconstruction"]
        assert values[f"SI-SDR: {canary}"] < values["SI-SDR"] < values["SI-SDR: codec reconstruction"]
    assert values["KL: shuffled captions"] > values["KL"]
    assert "FD: shuffled captions" not in values  # a set has no captions
    assert {"FD: the reference's own halves", "CLAP: the reference clips"} <= set(values)
    assert values["FD low"] < values["FD"] < values["FD high"]
    assert results.size_curves["FD∞"].points[-1][0] == 8
    assert results.size_curves["FD∞"].limit == values["FD∞"]


def test_a_broken_or_silent_clip_changes_the_numbers_and_is_named() -> None:
    whole, _, _ = evaluated(Tones(8))
    broken = Tones(
        8,
        judged={
            0: torch.full((1, 3000), torch.nan),
            1: torch.zeros(1, 3050),
            2: ValueError("there is no file"),
            3: torch.ones(1, 900) * torch.arange(900) / 900,
        },
        targets={5: OSError("cut")},
    )
    values, tally, _ = evaluated(broken)
    assert tally.missing == {"reference tone 5": "cut", "tone 0": "not finite", "tone 2": "there is no file"}
    assert tally.faults == {"tone 1": "silent", "tone 3": "short: 0.11 s, its reference 0.39 s"}
    assert set(tally.durations) == {f"tone {place}" for place in (1, 3, 4, 6, 7)}
    assert all(values[name] != whole[name] for name in ("FD", "KD", "SI-SDR", "KL", "CLAP"))
    assert values["FD"] > whole["FD"]


def test_where_nothing_can_be_taken_the_card_has_nan_and_says_why() -> None:
    values, _, results = evaluated(Tones(2, judged={0: ValueError("gone")}))
    assert math.isnan(values["FD"])
    assert any("FD of judged" in warning for warning in results.warnings)
    assert any("FD∞ of judged" in warning for warning in results.warnings)


def test_few_clips_are_a_warning() -> None:
    _, _, results = evaluated(Tones(3))
    assert any(warning.startswith("FD: ") and "3 embeddings for 4" in warning for warning in results.warnings)


def _work(rank: int, number: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    values, tally, _ = evaluated(Tones(number, judged={2: ValueError("gone")}), rank=rank, world_size=2)
    torch.save((values, tally.missing, list(tally.durations)), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("number", [7, 1], ids=["uneven", "one has none"])
def test_two_processes_equal_one_to_the_last_bit(number: int, tmp_path: Path) -> None:
    values, tally, _ = evaluated(Tones(number, judged={2: ValueError("gone")}))
    run(_work, number, str(tmp_path))
    for rank in range(2):
        found, missing, keys = torch.load(tmp_path / f"{rank}.pt")
        assert (missing, keys) == (tally.missing, list(tally.durations))
        assert found.keys() == values.keys()
        apart = [name for name, value in found.items() if value != values[name]]
        assert [name for name in apart if not (math.isnan(found[name]) and math.isnan(values[name]))] == []


def run(work: Callable[..., None], *args: Any) -> None:
    # fork, since a spawned process could not import this file under --import-mode=importlib
    mp.start_processes(work, args=args, nprocs=2, start_method="fork")


def test_few_clips_are_held_at_a_time() -> None:
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0

    class Counted(Tones):
        def target(self, place: int) -> Tensor | None:
            nonlocal most
            wav = super().target(place)
            assert wav is not None
            alive.add(wav)
            most = max(most, len(alive))
            return wav

    embedder = LogMelEmbedder(sample_rate=RATE, num_mels=4)
    distances = {"FD": Distance(FrechetDistance, "far"), "KD": Distance(KernelDistance, "far")}
    score(Counted(100), [SetDistances(embedder=embedder, distances=distances)], canaries(None))
    assert (
        2 <= most < 30
    )  # a clip, its judged one and another item's, of those being read and the one being scored


def test_intervals_draw_whole_clips() -> None:
    generator = torch.Generator().manual_seed(1)
    rows, reference = torch.randn(60, 3, generator=generator), torch.randn(80, 3, generator=generator)
    apart = torch.arange(60)
    ours = frechet_interval(rows, apart, reference, num_resamples=100)
    theirs = bootstrap_frechet(rows, reference, num_resamples=100)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-6)
    # Ten rows of a clip that are all alike say no more than one: the interval is that much wider.
    alike = rows[:6].repeat_interleave(10, 0) + 0.01 * rows
    clips = torch.arange(6).repeat_interleave(10)
    by_clip = frechet_interval(alike, clips, reference, num_resamples=100)
    by_row = frechet_interval(alike, apart, reference, num_resamples=100)
    assert by_clip.high - by_clip.low > 2 * (by_row.high - by_row.low)
    kernel = kernel_interval(rows, apart, reference, num_resamples=100)
    assert kernel is not None
    assert kernel.low < kernel_distance(rows, reference) < kernel.high
    assert kernel_interval(rows, apart, reference, max_rows=50) is None


def test_a_pair_is_cut_to_its_common_length() -> None:
    judged = Judged("a", 0, torch.zeros(1, 5), torch.ones(1, 3), RATE)
    assert [wav.shape[-1] for wav in judged.pair] == [3, 3]
