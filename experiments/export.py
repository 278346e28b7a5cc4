"""Write a model in another form: our own, AudioCraft's or that of transformers."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from lightning_audio import export, load
from lightning_audio.checkpoints.stereo import stereo_codec

EXAMPLE = """\
examples:
  lightning-audio export runs/musicgen_small my_model                          one folder that loads anywhere
  lightning-audio export runs/musicgen_small theirs --format audiocraft --dtype float16
  lightning-audio export facebook/musicgen-small hf --format transformers      from the hub, or its cache
  lightning-audio export encodec_24khz-d7cc33bc.th codec --format audiocraft
  lightning-audio export runs/encodec_32khz codecs/stereo --stereo             of two channels, one by one"""


def main(arguments: list[str]) -> None:
    """The verb `export`."""
    parser = argparse.ArgumentParser(
        prog="lightning-audio export",
        description="Write a model as one folder, read it again, and compare its codes and logits.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="a run, a checkpoint, a model in any form, or the hub's name of one")
    parser.add_argument("out", type=Path, help="the folder to write, which must not be there")
    parser.add_argument("--format", choices=("native", "audiocraft", "transformers"), default="native")
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="of the language model's weights, with --format audiocraft",
    )
    parser.add_argument(
        "--text-encoder", type=Path, help="local T5 folder, if the one named cannot be fetched"
    )
    parser.add_argument("--cache-dir", type=Path, help="of the hub's files (default: AUDIOCRAFT_CACHE_DIR)")
    parser.add_argument("--stereo", action="store_true", help="of a mono codec: the stereo codec made of it")
    options = parser.parse_args(arguments)
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise FileExistsError(f"{options.out} exists already and is not empty")  # before the model is read
    model = load(options.model, device="cpu", text_encoder=options.text_encoder, cache_dir=options.cache_dir)
    model = stereo_codec(model) if options.stereo else model
    dtype = None if options.dtype is None else getattr(torch, options.dtype)
    print(f"written: {export(model, options.out, options.format, dtype=dtype)}")
