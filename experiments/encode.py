"""Turn shards of audio into shards of codes."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from experiments.progress import progress_report
from experiments.shard import print_report
from lightning_audio import EnCodec, TextToAudio, load
from lightning_audio.codec.stereo import StereoFromMono
from lightning_audio.hashing import weights_hash
from sharding.encode import encode
from sharding.write import ShardReport

EXAMPLE = """\
example:
  lightning-audio encode shards codes --codec runs/encodec_32khz"""


def encode_dataset(
    dataset: Path, out: Path, codec_source: Path, *, batch_size: int, keep_audio: bool, overwrite: bool
) -> ShardReport:
    """Codes of every clip of `dataset` in `out`, made by the codec at `codec_source`, whose hash goes with them."""
    model = load(codec_source)
    codec = model.codec if isinstance(model, TextToAudio) else model
    assert isinstance(codec, EnCodec | StereoFromMono)
    digest = weights_hash(codec)
    device = next(codec.parameters()).device if any(True for _ in codec.parameters()) else torch.device("cpu")
    with progress_report("encoding") as progress:
        return encode(
            dataset,
            out,
            codec,
            digest,
            batch_size=batch_size,
            device=device,
            keep_audio=keep_audio,
            overwrite=overwrite,
            progress=progress,
        )


def main(arguments: list[str]) -> None:
    """The verb `encode`."""
    parser = argparse.ArgumentParser(
        prog="lightning-audio encode",
        description="Encode every clip of a dataset once, so that language-model training never waits for a codec.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", type=Path, help="a dataset of audio, made by lightning-audio shard")
    parser.add_argument("out", type=Path, help="folder for the dataset of codes")
    parser.add_argument(
        "--codec", type=Path, required=True, help="run folder, checkpoint or package of the codec"
    )
    parser.add_argument("--batch-size", type=int, default=16, help="clips of equal length per batch")
    parser.add_argument("--keep-audio", action="store_true", help="put the audio beside its codes")
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset that is already there")
    options = parser.parse_args(arguments)
    report = encode_dataset(
        options.dataset,
        options.out,
        options.codec,
        batch_size=options.batch_size,
        keep_audio=options.keep_audio,
        overwrite=options.overwrite,
    )
    print_report(report)
