"""Cut audio into tar shards."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path

from experiments.progress import progress_report
from sharding.schema import SKIPPED_FILE, SPLITS
from sharding.sources import LAYOUTS, find_clips
from sharding.writing.prepare import Settings
from sharding.writing.write import ShardReport, write_shards

EXAMPLE = """\
examples:
  lightning-audio shard my_music shards                          # sidecar .json files are read where there are any
  lightning-audio shard my_music shards --captions captions.csv  # columns: file, description, anything else
  lightning-audio shard data.jsonl.gz shards --sample-rate 32000 --channels 1
  lightning-audio shard sounds shards --caption-from folder --group-pattern '^[0-9]+-[0-9]+'
  lightning-audio shard tracks shards --chunk 30 --min-duration 5 --sample-rate 32000 --channels 1 --loudness -16
  lightning-audio shard fma shards --layout fma --part $SLURM_ARRAY_TASK_ID/8     # one of 8 jobs, --array=0-7

An interrupted run goes on where it was when it is started again."""


def _fractions(text: str) -> dict[str, float]:
    values = [float(part) for part in text.split(",")]
    if len(values) != len(SPLITS) or abs(sum(values) - 1) > 1e-6:
        raise argparse.ArgumentTypeError(f"give {len(SPLITS)} fractions that sum to 1, as in 0.9,0.05,0.05")
    return dict(zip(SPLITS, values, strict=True))


def part_of_whole(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is no part: give I/N with I from 0 to N - 1, as in 0/8")
    return int(number), int(count)


def print_report(report: ShardReport) -> None:
    """What was written, split by split, and what was left out with its reason."""
    if report.num_found:
        print(f"{report.num_found} shards were there from an interrupted run")
    for name, info in report.splits.items():
        rates = ", ".join(f"{rate} Hz" for rate in info.sample_rates)
        print(
            f"{name}: {info.num_samples} clips, {info.duration / 60:.1f} min, {len(info.shards)} shards, {rates}"
        )
    for skipped in report.skipped[:10]:
        print(f"skipped {skipped.name}: {skipped.reason}")
    if len(report.skipped) > 10:
        print(f"... and {len(report.skipped) - 10} more")
    if report.num_clipped:
        print(f'{report.num_clipped} clips are of clipped audio, see their attribute "clipped"')
    if report.num_missing:
        print(f"this part is done; {report.num_missing} shards are still to come from other parts")
        return
    if report.skipped:
        print(f"{len(report.skipped)} files skipped; all are listed in {report.folder}/*/{SKIPPED_FILE}")
    print(f"written: {report.folder}")


def main(arguments: list[str]) -> None:
    """The verb `shard`."""
    parser = argparse.ArgumentParser(
        prog="lightning-audio shard",
        description="Cut audio into tar shards with an index, split into train, valid and test.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source", type=Path, help="a folder of audio, a captions table, or an AudioCraft manifest"
    )
    parser.add_argument("out", type=Path, help="folder for the dataset")
    parser.add_argument(
        "--layout",
        choices=sorted(LAYOUTS),
        metavar="NAME",
        help=f"how the source is laid out: {', '.join(LAYOUTS)}",
    )
    parser.add_argument(
        "--captions", type=Path, help="a .csv, .tsv or .jsonl table that names files in the folder"
    )
    parser.add_argument(
        "--sidecars", type=Path, help="a folder with the sidecar .json files, if not beside the audio"
    )
    parser.add_argument(
        "--caption-from", choices=["folder", "file"], help="captions out of names, if there are none"
    )
    parser.add_argument(
        "--sample-rate", type=int, metavar="HZ", help="re-encode to this rate as FLAC (default: keep)"
    )
    parser.add_argument(
        "--channels", type=int, help="re-encode to this many channels as FLAC (default: keep)"
    )
    parser.add_argument(
        "--loudness", type=float, metavar="LUFS", help="re-encode at this loudness, peaks at most -1 dBFS"
    )
    parser.add_argument("--flac-level", type=int, default=5, metavar="0-8", help="fast to small (5)")
    parser.add_argument("--chunk", type=float, metavar="SECONDS", help="cut longer clips into pieces of it")
    parser.add_argument(
        "--min-duration", type=float, default=0.0, metavar="SECONDS", help="leave out what is shorter"
    )
    parser.add_argument(
        "--keep-duplicates", action="store_true", help="also what is byte for byte another clip's audio"
    )
    parser.add_argument(
        "--fractions", type=_fractions, metavar="T,V,E", help="of train, valid, test (0.9,0.05,0.05)"
    )
    parser.add_argument("--group", help="attribute that must not be in two splits, such as artist")
    parser.add_argument("--group-pattern", help="the same, by a regular expression on the file's name")
    parser.add_argument("--samples-per-shard", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--part",
        type=part_of_whole,
        default=(0, 1),
        metavar="I/N",
        help="write the I-th of N parts, I from 0 to N - 1",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset that is already there")
    options = parser.parse_args(arguments)
    settings = Settings(  # before the source is looked through, which may take long
        sample_rate=options.sample_rate,
        channels=options.channels,
        loudness=options.loudness,
        flac_level=options.flac_level,
        chunk_duration=options.chunk,
        min_duration=options.min_duration,
    )
    clips = find_clips(
        options.source,
        captions=options.captions,
        caption_from=options.caption_from,
        sidecars=options.sidecars,
        layout=options.layout,
    )
    with progress_report("sharding") as progress:
        report = write_shards(
            clips,
            options.out,
            **asdict(settings),
            keep_duplicates=options.keep_duplicates,
            fractions=options.fractions,
            group=options.group,
            group_pattern=options.group_pattern,
            samples_per_shard=options.samples_per_shard,
            workers=options.workers,
            part=options.part,
            overwrite=options.overwrite,
            progress=progress,
        )
    print_report(report)
