"""Verify a dataset of shards."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from experiments.progress import progress_report
from sharding.check import check


def main(arguments: list[str]) -> None:
    """The verb `check`."""
    parser = argparse.ArgumentParser(
        prog="lightning-audio check",
        description="Read a dataset through: schema, counts, hashes, indexes, and every sample's audio or codes.",
        epilog="example:\n  lightning-audio check shards",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--no-decode", action="store_true", help="compare hashes and indexes only")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    with progress_report("checking") as progress:
        report = check(
            options.dataset, decode=not options.no_decode, workers=options.workers, progress=progress
        )
    print("\n".join(report.lines()))
    if not report.ok:
        raise ValueError(f"{options.dataset} has {len(report.problems)} problems, listed above")
