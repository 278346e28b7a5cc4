"""The published weights that metrics need: what is known, what is here, and fetching it."""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.weights import FOLDER_VARIABLE, KNOWN, HubFolder, WeightsFile, weights_folder
from experiments.progress import progress_report

EXAMPLE = f"""\
examples:
  lightning-audio weights                             what is known, and what of it is on this machine
  lightning-audio weights --check                     the same, and read every byte of it to check its hash
  lightning-audio weights fetch vggish passt-20s      download, resume, check
  lightning-audio weights fetch clap-music roberta-tokenizer --to /data/weights

Files go to {FOLDER_VARIABLE}, or to the user's cache. Without internet, copy them there."""


def main(arguments: list[str]) -> None:
    """The verb `weights`."""
    parser = argparse.ArgumentParser(
        prog="lightning-audio weights",
        description="List the published weights that metrics need, or fetch some.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", nargs="?", choices=("list", "fetch"), default="list")
    parser.add_argument("names", nargs="*", metavar="NAME", help="of what to list or fetch")
    parser.add_argument("--to", type=Path, help=f"folder to fetch into (default: {weights_folder()})")
    parser.add_argument("--check", action="store_true", help="when listing: hash what is present")
    options = parser.parse_args(arguments)
    wanted = [_known(name) for name in options.names]
    if options.action == "fetch":
        if not wanted:
            raise ValueError(f"name what to fetch; known are {', '.join(KNOWN)}")
        for weights in wanted:
            fetch(weights, options.to or weights_folder())
        return
    for weights in wanted or KNOWN.values():
        print(described(weights, check=options.check))


def fetch(weights: WeightsFile | HubFolder, folder: Path) -> None:
    """Download into `folder`, and say where it lies; what is here already is only checked."""
    with progress_report(weights.name) as report:
        path = weights.fetch(folder, report)
    print(f"{weights.name}: {path}")


def described(weights: WeightsFile | HubFolder, *, check: bool = False) -> str:
    """Two lines: whether it is here and where, and what it is."""
    path = weights.present()
    state = "absent" if path is None else f"present, {path}"
    if path is not None and check:
        try:
            weights.find()
        except ValueError as error:
            state = f"WRONG, {error}"
    return f"{weights.name}: {state}\n    {weights.facts()}"


def _known(name: str) -> WeightsFile | HubFolder:
    if name not in KNOWN:
        raise ValueError(f"there are no weights {name!r}; known are {', '.join(KNOWN)}")
    return KNOWN[name]
