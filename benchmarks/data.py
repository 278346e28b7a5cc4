"""Reading shards beside AudioCraft's way of reading files, and beside the decoder alone.

    python benchmarks/data.py                  # all
    python benchmarks/data.py --only resume

audio: random segments of 10 s out of 200 FLAC files of 30 s (44.1 kHz stereo), as 32 kHz mono. The plain loader does
    what AudioCraft's does: per item it opens the file for its length, opens it again, seeks, decodes, resamples and
    mixes down, in as many worker processes. Ours reads the same files' shards, made by `write_shards`. The decoder
    alone reads the same segments of the same bytes and throws them away.
codes: segments of 10 s of 4 codebooks at 50 frames a second, out of as many clips.
workers: how the rate grows with processes, and what memory they take after the first and the last batches.
resume: from nothing to the first batch at the end of an epoch of 100,000 samples in 1,000 shards.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import julius
import measure
import numpy as np
import soundfile
import torch
from measure import in_turn, median
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.audio import AudioDataModule
from datamodules.tokens import TokenDataModule
from sharding.parallel import run_all
from sharding.schema import CODES_PART, CodesInfo
from sharding.sources import find_clips
from sharding.writing.shard import ShardWriter
from sharding.writing.write import describe, write_shards

FILES, DURATION, SEGMENT = 200, 30.0, 10.0
RATE, TARGET_RATE = 44_100, 32_000
BATCH = 8
MADE_AHEAD = 6  # batches: a loader makes two ahead for each worker


def make_file(path: Path) -> None:
    """Notes over noise, in stereo: about as hard for FLAC as music is."""
    rng = np.random.default_rng(int(path.stem))
    time_axis = np.arange(round(DURATION * RATE)) / RATE
    wav = 0.02 * rng.standard_normal((len(time_axis), 2)).cumsum(axis=0) / 40
    for start in np.arange(0, DURATION, 0.5):
        note = slice(round(start * RATE), round((start + 1) * RATE))
        local = time_axis[note] - start
        tone = 0.2 * np.exp(-3 * local) * np.sin(2 * np.pi * rng.uniform(80, 2000) * local)
        wav[note] += tone[:, None] * rng.uniform(0.3, 1, 2)
    wav += 0.003 * rng.standard_normal(wav.shape)
    soundfile.write(path, np.clip(wav, -1, 1), RATE, subtype="PCM_16")


class PlainFiles(Dataset[Tensor]):
    """AudioCraft's loading: a file drawn, opened, sought, decoded, resampled, mixed down."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, item: int) -> Tensor:
        rng = torch.Generator().manual_seed(item)
        file = self.files[int(torch.randint(len(self.files), (), generator=rng))]
        rate = soundfile.info(file).samplerate
        seek = float(torch.rand((), generator=rng)) * (DURATION - SEGMENT)
        samples, rate = soundfile.read(
            file, start=int(seek * rate), frames=int(SEGMENT * rate), dtype=np.float32, always_2d=True
        )
        wav = julius.resample_frac(torch.from_numpy(samples.T), rate, TARGET_RATE).mean(dim=0, keepdim=True)
        length = round(SEGMENT * TARGET_RATE)
        return torch.nn.functional.pad(wav[:, :length], (0, length - min(length, wav.shape[-1])))


def audio_module(shards: Path, workers: int) -> AudioDataModule:
    return AudioDataModule(
        shards,
        sample_rate=TARGET_RATE,
        segment_duration=SEGMENT,
        batch_size=BATCH,
        num_workers=workers,
        log_folder=shards.parent / "log",
    )


def per_second(batches_of: Callable[[], Iterator[Any]], number: int) -> Callable[[], list[float]]:
    """A contestant: `number` batches, as seconds for each clip.

    Each turn starts its own processes and first takes what they have made ahead: else a turn would begin with batches
    that were made, on the others' time, while it was theirs.
    """

    def run() -> list[float]:
        batches = batches_of()
        for _ in range(MADE_AHEAD):
            next(batches)
        start = time.perf_counter()
        for _ in range(number):
            next(batches)
        return [(time.perf_counter() - start) / (number * BATCH)]

    return run


def endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def decoder_alone(shards: Path) -> Iterator[None]:
    """The segments that the data module reads, decoded out of memory and thrown away."""
    source = audio_module(shards, 0).source("train", training=True)
    rng, count = np.random.default_rng(0), round(SEGMENT * TARGET_RATE)
    parts: dict[tuple[int, int], bytes] = {}
    while True:
        for _ in range(BATCH):
            shard = int(rng.integers(len(source.counts)))
            nth = int(rng.integers(source.counts[shard]))
            if (shard, nth) not in parts:
                index = source.index.shard(shard)
                parts[shard, nth] = source.reader.read(source.index.info.shards[shard], index, nth, "flac")
            with soundfile.SoundFile(io.BytesIO(parts[shard, nth])) as file:
                file.seek(int(rng.integers(file.frames - count + 1)))
                file.read(count, dtype="float32", always_2d=True)
        yield None


def make_audio(work: Path) -> tuple[list[Path], Path]:
    """The files, and the shards of them."""
    files = [work / "files/train" / f"{number:03d}.flac" for number in range(FILES)]
    files[0].parent.mkdir(parents=True)
    list(run_all(make_file, files, workers=2))
    write_shards(
        find_clips(work / "files"), work / "shards", sample_rate=TARGET_RATE, channels=1, samples_per_shard=20
    )
    return files, work / "shards"


def make_codes(out: Path, *, shards: int, per_shard: int, frames: int) -> Path:
    """Shards of random codes with a caption each."""
    about = CodesInfo(codec_hash="none", frame_rate=50.0, num_codebooks=4, cardinality=2048)
    rng, paths, written = np.random.default_rng(0), [], []
    (out / "train").mkdir(parents=True)
    for number in range(shards):
        path = out / "train" / f"{number:06d}.tar"
        with ShardWriter(path) as writer:
            for sample in range(per_shard):
                buffer = io.BytesIO()
                np.save(buffer, rng.integers(2048, size=(4, frames), dtype=np.uint16))
                about_it = json.dumps({"description": f"clip {number} {sample}"}).encode()
                parts = {CODES_PART: buffer.getvalue(), "json": about_it}
                writer.add(f"{number}-{sample}", parts, frames * 640, TARGET_RATE, 1)
        paths.append(path)
        written.append(writer.finish([]))
    describe(paths, written, about)
    return out


def token_module(codes: Path, workers: int = 0) -> TokenDataModule:
    return TokenDataModule(
        codes,
        segment_duration=SEGMENT,
        batch_size=BATCH,
        num_workers=workers,
        log_folder=codes.parent / "log",
    )


def speed(work: Path, repeats: int) -> list[dict[str, Any]]:
    """Clips per second of each way, all in turn."""
    files, shards = make_audio(work)
    codes = make_codes(work / "codes", shards=10, per_shard=20, frames=round(DURATION * 50))

    def plain(workers: int) -> Callable[[], Iterator[Any]]:
        return lambda: iter(DataLoader(PlainFiles(files), batch_size=BATCH, num_workers=workers))

    def ours(module: Callable[[Path, int], Any], folder: Path, workers: int) -> Callable[[], Iterator[Any]]:
        return lambda: endless(module(folder, workers).train_dataloader())

    contestants = {
        "AudioCraft's way, 2 workers": per_second(plain(2), 12),
        "shards, 2 workers": per_second(ours(audio_module, shards, 2), 60),
        "AudioCraft's way, no worker": per_second(plain(0), 8),
        "shards, no worker": per_second(ours(audio_module, shards, 0), 30),
        "the decoder alone, no worker": per_second(lambda: decoder_alone(shards), 30),
        "codes, no worker": per_second(ours(token_module, codes, 0), 500),
    }
    seconds = in_turn(contestants, repeats=repeats)
    rates = {name: 1 / median(times) for name, times in seconds.items()}
    against = {
        "shards, 2 workers": "AudioCraft's way, 2 workers",
        "shards, no worker": "the decoder alone, no worker",
        "codes, no worker": "shards, no worker",
    }
    rows = [
        {
            "what": name,
            "clips per second": rates[name],
            "beside": other,
            "ratio": rates[name] / rates[other],
        }
        for name, other in against.items()
    ]
    rows.insert(
        1,
        {
            "what": "shards, no worker",
            "clips per second": rates["shards, no worker"],
            "beside": "AudioCraft's way, no worker",
            "ratio": rates["shards, no worker"] / rates["AudioCraft's way, no worker"],
        },
    )
    return rows


def memory_of_workers(apart_from: set[int | None]) -> float:
    """MiB of this process's children, but for those, shared pages in their share."""
    total = 0
    for child in multiprocessing.active_children():
        if child.pid in apart_from:
            continue
        lines = Path(f"/proc/{child.pid}/smaps_rollup").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def growth(work: Path, repeats: int) -> list[dict[str, Any]]:
    """Rate and memory by the number of workers."""
    rows = []
    for workers in (0, 1, 2, 4):
        others = {child.pid for child in multiprocessing.active_children()}
        module = audio_module(work / "shards", workers)
        batches = endless(module.train_dataloader())
        for _ in range(MADE_AHEAD * max(workers, 1)):
            next(batches)
        first, start, number = memory_of_workers(others), time.perf_counter(), 90 * repeats
        for _ in range(number):
            next(batches)
        rate = number * BATCH / (time.perf_counter() - start)
        rows.append(
            {
                "workers": workers,
                "clips per second": rate,
                "MiB of the workers, first": first,
                "MiB, last": memory_of_workers(others),
            }
        )
        module.teardown()
    return rows


def resume(work: Path, repeats: int) -> list[dict[str, Any]]:
    """Seconds from a new data module to its first batch, near the end of a large epoch."""
    codes = make_codes(work / "many", shards=1000, per_shard=100, frames=60)
    length = 100_000

    def first_batch(position: int, min_duration: float) -> Callable[[], list[float]]:
        def run() -> list[float]:
            start = time.perf_counter()
            module = TokenDataModule(
                codes,
                num_frames=50,
                min_segment_ratio=min_duration,
                batch_size=BATCH,
                log_folder=work / "log",
            )
            loader = module.train_dataloader()
            state = loader.state_dict() | {"position": position}
            loader.load_state_dict(state)
            next(iter(loader))
            return [time.perf_counter() - start]

        return run

    seconds = in_turn(
        {"the beginning": first_batch(0, 0.01), "the end": first_batch(length - 2 * BATCH, 0.01)},
        repeats=repeats,
    )
    return [
        {"resumed at": name, "seconds to the first batch": median(times)} for name, times in seconds.items()
    ]


def main() -> None:
    arguments = measure.parser(__doc__)
    arguments.add_argument("--only", choices=("speed", "resume"), help="a part of it")
    options = arguments.parse_args()
    torch.set_num_threads(1)  # as in a worker
    repeats = options.repeats or 5
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if options.only != "resume":
            measure.save(
                options.out,
                "data",
                about="Segments of 10 s out of 200 FLAC files of 30 s, or of their codes, in batches of 8.",
                rows=speed(work, repeats),
            )
            measure.save(
                options.out,
                "data_workers",
                about="The same segments by the number of worker processes, and the memory that these take.",
                rows=growth(work, repeats),
            )
        if options.only != "speed":
            measure.save(
                options.out,
                "data_resume",
                about="An epoch of 100,000 samples in 1,000 shards: time to the first batch of a new process.",
                rows=resume(work, repeats),
            )


if __name__ == "__main__":
    main()
