"""Add codes and features to shards."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from experiments.progress import progress_report
from experiments.shard import part_of_whole, print_report
from lightning_audio import EnCodec, TextToAudio, load
from lightning_audio.codec.stereo import StereoFromMono
from lightning_audio.conditioning.clap import ClapConditioner
from lightning_audio.conditioning.separation import StemSeparator
from lightning_audio.conditioning.text import T5Conditioner
from lightning_audio.hashing import weights_hash
from sharding.encoding.encode import encode
from sharding.encoding.features import ChromaFeature, ClapFeature, Feature, TextFeature
from sharding.schema import DatasetInfo, split_folders
from sharding.writing.write import ShardReport

EXAMPLE = """\
examples:
  lightning-audio encode shards codes --codec runs/encodec_32khz                  # on all GPUs of this machine
  lightning-audio encode shards codes --codec runs/encodec_32khz --crops 8 --t5   # codes of 8 crops, and the text
  lightning-audio encode codes more --clap folders/clap --chroma                  # features beside codes that are there
  lightning-audio encode shards codes --codec runs/codec --part $SLURM_ARRAY_TASK_ID/8   # one of 8 jobs, --array=0-7
  srun lightning-audio encode shards codes --codec runs/codec --nodes 2 --devices 8      # 16 GPUs as one job"""


def encode_dataset(
    dataset: Path,
    out: Path,
    codec_source: Path | None,
    *,
    batch_size: int,
    keep_audio: bool,
    overwrite: bool,
    features: Sequence[Feature] = (),
    crops: int = 1,
    num_workers: int = 0,
    devices: int | str = 1,
    num_nodes: int = 1,
    part: tuple[int, int] = (0, 1),
) -> ShardReport:
    """Codes of every clip of `dataset` in `out`, made by the codec at `codec_source`, whose hash goes with them.

    codec_source: None: no codes.   Other arguments: `sharding.encoding.encode.encode`.
    """
    codec = None if codec_source is None else _codec(codec_source)
    with progress_report("encoding") as progress:
        return encode(
            dataset,
            out,
            codec,
            None if codec is None else weights_hash(codec),
            features=features,
            crops=crops,
            keep_audio=keep_audio,
            batch_size=batch_size,
            num_workers=num_workers,
            devices=devices,
            num_nodes=num_nodes,
            part=part,
            overwrite=overwrite,
            progress=progress,
        )


def _codec(source: Path) -> EnCodec | StereoFromMono:
    model = load(source, device="cpu")  # each rank then brings it to its own device
    codec = model.codec if isinstance(model, TextToAudio) else model
    if not isinstance(codec, EnCodec | StereoFromMono):
        raise ValueError(f"{source} is a {type(model).__name__}: codes are made by a codec")
    return codec


def _features(options: argparse.Namespace) -> list[Feature]:
    """The frozen encoders that were asked for."""
    chosen: list[Feature] = []
    if options.t5 is not None:
        encoder = T5Conditioner(name=options.t5_name, path=options.t5 or None)
        chosen.append(TextFeature(encoder, dtype=options.feature_dtype))
    if options.clap is not None:
        clap = ClapConditioner(quantizer=None, path=options.clap or None, normalize=False)
        chosen.append(ClapFeature(clap, dtype=options.feature_dtype))
    if options.chroma:
        separator = StemSeparator(required=True) if options.separate else None
        rates = {
            rate
            for folder in split_folders(options.dataset).values()
            for rate in DatasetInfo.load(folder).sample_rates
        }
        rate = options.chroma_rate or max(rates)
        chosen.append(ChromaFeature(sample_rate=rate, separator=separator, dtype=options.feature_dtype))
    return chosen


def _devices(text: str) -> int | str:
    return text if text == "auto" else int(text)


def main(arguments: list[str]) -> None:
    """The verb `encode`."""
    parser = argparse.ArgumentParser(
        prog="lightning-audio encode",
        description="Encode every clip of a dataset once, so that language-model training never waits for a codec "
        "or a text encoder. Interrupted, it goes on where it was.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", type=Path, help="a dataset made by lightning-audio shard, or by encode")
    parser.add_argument("out", type=Path, help="folder for the new dataset")
    parser.add_argument("--codec", type=Path, help="run folder, checkpoint or package of the codec")
    parser.add_argument("--crops", type=int, default=1, help="codes of each clip, each on another frame grid")
    parser.add_argument("--keep-audio", action="store_true", help="put the audio beside its codes")
    parser.add_argument(
        "--t5", nargs="?", const="", metavar="FOLDER", help="add T5's encoding of each description"
    )
    parser.add_argument("--t5-name", default="t5-base", help="which T5 (t5-base)")
    parser.add_argument(
        "--clap", nargs="?", const="", metavar="FOLDER", help="add CLAP's vectors of the audio"
    )
    parser.add_argument("--chroma", action="store_true", help="add the chroma of the melody, or of the audio")
    parser.add_argument(
        "--chroma-rate", type=int, metavar="HZ", help="rate it is computed at (the dataset's)"
    )
    parser.add_argument("--separate", action="store_true", help="leave drums and bass out of it, by Demucs")
    parser.add_argument("--feature-dtype", choices=("float16", "float32"), default="float16")
    parser.add_argument("--batch-size", type=int, default=16, help="clips of equal length per batch")
    parser.add_argument(
        "--workers",
        type=int,
        default=min(4, (os.cpu_count() or 1) - 1),
        help="processes that read and decode",
    )
    parser.add_argument("--devices", type=_devices, default="auto", help="GPUs of this machine (all)")
    parser.add_argument("--nodes", type=int, default=1, help="machines, each with so many devices")
    parser.add_argument(
        "--part",
        type=part_of_whole,
        default=(0, 1),
        metavar="I/N",
        help="the I-th of N jobs, I from 0 to N - 1",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset that is already there")
    options = parser.parse_args(arguments)
    report = encode_dataset(
        options.dataset,
        options.out,
        options.codec,
        features=_features(options),
        crops=options.crops,
        batch_size=options.batch_size,
        num_workers=options.workers,
        keep_audio=options.keep_audio,
        devices=options.devices,
        num_nodes=options.nodes,
        part=options.part,
        overwrite=options.overwrite,
    )
    rank_zero_only(print_report)(report)
