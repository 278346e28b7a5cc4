"""Write a model as one folder that loads anywhere."""

from __future__ import annotations

import argparse
from pathlib import Path

from lightning_audio import export, load


def main(arguments: list[str]) -> None:
    """The verb `export`."""
    parser = argparse.ArgumentParser(
        prog="lightning-audio export",
        description="Write the model of a run as one folder of plain weights and its config.",
        epilog="example:\n  lightning-audio export runs/musicgen_small my_model",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, help="a run folder, a checkpoint or a packaged model")
    parser.add_argument("out", type=Path, help="folder for the packaged model")
    options = parser.parse_args(arguments)
    if options.out.exists() and any(options.out.iterdir()):
        raise FileExistsError(f"{options.out} exists already and is not empty")
    print(f"written: {export(load(options.model, device='cpu'), options.out)}")
