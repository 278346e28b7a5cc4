"""Verify a dataset of shards, and mend it."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path

from experiments.progress import progress_report
from sharding.checking.check import GROUPS, check
from sharding.checking.repair import RepairReport, repair

EXAMPLE = """\
examples:
  lightning-audio check shards
  lightning-audio check shards --group artist     # nor may an artist be in two splits
  lightning-audio check shards --json > found.json
  lightning-audio check shards --repair           # drops what is broken, and lists it in quarantine.jsonl"""

_MOST_LINES = 50


def main(arguments: list[str]) -> None:
    """The verb `check`."""
    parser = argparse.ArgumentParser(
        prog="lightning-audio check",
        description="Read a dataset through: schema, counts, hashes, indexes, every sample's parts, and whether "
        "a track is in two splits.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", type=Path)
    parser.add_argument(
        "--repair", action="store_true", help="drop what is broken; sound shards stay as they are"
    )
    parser.add_argument(
        "--max-dropped",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="do not repair where more than this share of a split is broken (0.5)",
    )
    parser.add_argument("--no-decode", action="store_true", help="do not decode audio and read arrays")
    parser.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="ATTRIBUTE",
        help=f"an attribute of which no value may be in two splits, besides {' and '.join(GROUPS)}",
    )
    parser.add_argument("--json", action="store_true", help="print everything that was found as JSON")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    if options.repair and options.no_decode:
        raise ValueError("--repair has to decode: without, nothing tells which samples are broken")
    groups = tuple(dict.fromkeys((*GROUPS, *options.group)))
    with progress_report("checking") as shown:
        progress = None if options.json else shown
        mended: RepairReport | None = None
        if options.repair:
            mended = repair(
                options.dataset,
                groups=groups,
                max_dropped=options.max_dropped,
                workers=options.workers,
                progress=progress,
            )
            report = mended.after
        else:
            report = check(
                options.dataset,
                decode=not options.no_decode,
                groups=groups,
                workers=options.workers,
                progress=progress,
            )
    if options.json:
        values = report.values()
        if mended is not None:
            values["dropped"] = [asdict(finding) for finding in mended.dropped]
            values["changed"] = mended.changed
        print(json.dumps(values, indent=1))
    else:
        print(
            "\n".join([*(mended.lines(most=_MOST_LINES) if mended else []), *report.lines(most=_MOST_LINES)])
        )
    if not report.ok:
        raise ValueError(f"{options.dataset} has {len(report.problems)} problems, listed above")
