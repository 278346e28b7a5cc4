"""Put separately trained bands of a multi-band diffusion together as one model."""

from __future__ import annotations

import argparse
from pathlib import Path

from lightning_audio import export
from lightning_audio.checkpoints.bands import join_bands


def main(arguments: list[str]) -> None:
    """The verb `join`."""
    parser = argparse.ArgumentParser(
        prog="lightning-audio join",
        description="Write one decoder out of the runs of its bands (experiment=mbd_32khz band=0, 1, 2, 3).",
        epilog=(
            "example:\n  lightning-audio join runs/mbd_32khz_band0 runs/mbd_32khz_band1 "
            "runs/mbd_32khz_band2 runs/mbd_32khz_band3 --out my_mbd"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, help="a run folder or checkpoint of each band")
    parser.add_argument("--out", type=Path, required=True, help="folder for the decoder")
    parser.add_argument("--codec", help="where the codec lies; by default where the bands found it")
    parser.add_argument("--format", default="native", help="native, or audiocraft")
    options = parser.parse_args(arguments)
    if options.out.exists() and any(options.out.iterdir()):
        raise FileExistsError(f"{options.out} exists already and is not empty")
    model = join_bands(options.runs, codec=options.codec)
    print(f"written: {export(model, options.out, options.format)}")
