"""Codec encoding and decoding beside `transformers`' EncodecModel: published sizes, the same random weights.

    python benchmarks/codec.py                   # 32 kHz (MusicGen's) and 24 kHz (causal), 4 s of audio
    python benchmarks/codec.py --seconds 10 --batch 4

Both sides are in eval mode under `inference_mode`; ours is prepared for inference. The codes must be equal, and the
audio to 1e-4 of full scale: the run fails otherwise.
"""

from __future__ import annotations

import tempfile
from functools import partial
from typing import Any

import measure
import torch
from measure import in_turn, largest_difference, median, timed
from torch import Tensor
from transformers import EncodecConfig, EncodecModel

import lightning_audio
from lightning_audio.codec.encodec import EnCodec

CODECS: dict[str, dict[str, Any]] = {
    "32 kHz": {
        "sampling_rate": 32_000,
        "upsampling_ratios": [8, 5, 4, 4],
        "num_filters": 64,
        "codebook_size": 2048,
        "target_bandwidths": [2.2],
        "use_causal_conv": False,
        "use_conv_shortcut": False,
        "bandwidth": 2.2,
    },
    "24 kHz causal": {"bandwidth": 6.0},  # all else is EncodecConfig's default
}
TOLERANCE = 1e-4


def their_codec(options: dict[str, Any]) -> EncodecModel:
    model = EncodecModel(EncodecConfig(**options)).eval()
    with torch.inference_mode():
        latent = model.encoder(0.3 * torch.randn(1, 1, options.get("sampling_rate", 24_000)))
    for level, layer in enumerate(model.quantizer.layers):  # they start at zero: codes would mean nothing
        layer.codebook.embed.normal_(std=float(latent.std()) * 0.7**level)
    return model


def our_codec(theirs: EncodecModel) -> EnCodec:
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        codec = lightning_audio.load(folder)
    assert isinstance(codec, EnCodec)
    return codec.prepare_for_inference()


@torch.inference_mode()
def compare(name: str, *, seconds: float, batch: int, repeats: int) -> list[dict[str, Any]]:
    options = dict(CODECS[name])
    bandwidth = options.pop("bandwidth")
    theirs = their_codec(options)
    ours = our_codec(theirs)
    wav = 0.3 * torch.randn(batch, 1, int(seconds * ours.sample_rate))
    codes = theirs.encode(wav, bandwidth=bandwidth).audio_codes
    work = {
        "encode": (
            partial(ours.encode, wav, bandwidth=bandwidth),
            partial(theirs.encode, wav, bandwidth=bandwidth),
        ),
        "decode": (partial(ours.decode, codes[0]), partial(theirs.decode, codes, [None])),
    }
    check(
        ours.encode(wav, bandwidth=bandwidth).codes,
        codes[0],
        ours.decode(codes[0]),
        theirs.decode(codes, [None])[0],
    )
    rows = []
    for verb, (mine, other) in work.items():
        spent = in_turn({"ours": timed(mine), "theirs": timed(other)}, repeats=repeats)
        here, there = median(spent["ours"]), median(spent["theirs"])
        rows.append(
            {
                "codec": name,
                "work": verb,
                "seconds of audio per second": batch * seconds / here,
                "transformers": batch * seconds / there,
                "ratio": there / here,
            }
        )
    return rows


def check(codes: Tensor, their_codes: Tensor, audio: Tensor, their_audio: Tensor) -> None:
    if not torch.equal(codes, their_codes):
        raise SystemExit(f"{int((codes != their_codes).sum())} of {codes.numel()} codes differ")
    if (difference := largest_difference(audio, their_audio)) > TOLERANCE:
        raise SystemExit(f"decoded audio differs by {difference}")


def main() -> None:
    arguments = measure.parser(__doc__)
    arguments.add_argument("--seconds", type=float, default=4.0, help="of audio (default: 4)")
    arguments.add_argument("--batch", type=int, default=1)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rows = []
    for name in CODECS:
        rows += compare(name, seconds=options.seconds, batch=options.batch, repeats=options.repeats or 7)
    measure.save(
        options.out,
        "codec",
        about=f"EnCodec beside `transformers` with the same weights, {options.batch} x {options.seconds:g} s. Codes "
        f"are equal, audio to {TOLERANCE:g} of full scale.",
        rows=rows,
    )


if __name__ == "__main__":
    main()
