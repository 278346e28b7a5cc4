"""Look for copies: the nearest training clip of each clip of an evaluation, listed and audible."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from datamodules.tokens import TokenDataModule
from eval.clip_table import load_clips
from eval.embedders.base import over_time
from eval.page.listening import Sound
from eval.replication import (
    CodeIndex,
    NearestByCodes,
    NearestByEmbedding,
    nearest_by_embedding,
    replication_listening,
)
from eval.report import Report, write_report
from experiments.progress import track
from lightning_audio import EnCodec, load
from lightning_audio.atomic import write_text
from lightning_audio.audio import convert, read
from lightning_audio.hashing import weights_hash

EXAMPLE = """\
example:
  lightning-audio replication runs/a/evaluation --codes shards/tokens --codec runs/codec --out replication.html"""


class Replication:
    """The clips of an evaluation and the training shards of codes, seen through one codec."""

    def __init__(
        self, folder: str | Path, codes: str | Path, codec: EnCodec, *, split: str, batch_size: int = 16
    ):
        self.codec = codec
        self.split = split
        rows = [row for row in load_clips(folder) if row.audio is not None]
        if not rows:
            raise ValueError(f"{folder} has no clips.json with audio; `lightning-audio evaluate` writes it")
        self.paths = {row.key: Path(folder) / str(row.audio) for row in rows}
        self.shards = TokenDataModule(codes, codec_hash=weights_hash(codec), batch_size=batch_size)
        self.shards.codes_info(split)

    def generations(self) -> Iterator[tuple[str, Tensor]]:
        """Key and codes [K, T] of each clip, encoded as the training clips were."""
        device = next(self.codec.parameters()).device
        for key, path in track(self.paths.items(), "encoding", total=len(self.paths)):
            wav = convert(*read(path), self.codec.sample_rate, self.codec.channels)
            yield key, self.codec.encode(wav[None].to(device)).codes[0].cpu()

    def training(self) -> Iterator[tuple[str, Tensor]]:
        """Key and codes [K, T] of each training clip."""
        for batch in track(self.shards.whole_split(self.split), "training clips"):
            assert batch.codes is not None
            assert batch.num_frames is not None
            for key, codes, frames in zip(batch.keys, batch.codes, batch.num_frames.tolist(), strict=True):
                yield key, codes[:, :frames]

    def embedding(self, codes: Tensor) -> Tensor:
        """Mean and spread over time of what the codes [K, T] stand for.  -> [1, D]"""
        device = next(self.codec.parameters()).device
        latent = self.codec.decode_latent(codes[None].to(device))
        return over_time(latent, torch.tensor([latent.shape[-1]]), True).cpu()


@torch.no_grad()
def check_replication(
    source: Replication, length: int
) -> tuple[list[NearestByEmbedding], list[NearestByCodes]]:
    """The nearest training clip of each clip, by embedding and by n-grams of `length` frames of the first codebook."""
    generations = dict(source.generations())
    index = CodeIndex(((key, codes[0].numpy()) for key, codes in generations.items()), length=length)

    def training() -> Iterator[tuple[list[str], Tensor]]:
        for key, codes in source.training():
            index.look_in(key, codes[0].numpy())
            yield [key], source.embedding(codes)

    rows = torch.cat([source.embedding(codes) for codes in generations.values()])
    by_embedding = nearest_by_embedding(list(generations), rows, training())
    return by_embedding, index.nearest()


@torch.no_grad()
def write_page(
    source: Replication,
    by_embedding: list[NearestByEmbedding],
    by_codes: list[NearestByCodes],
    out: Path,
    *,
    num_shown: int,
) -> None:
    """The page at `out`, and all matches as JSON beside it."""
    wanted = {match.training for match in by_embedding} | {match.training for match in by_codes}
    kept = {key: codes for key, codes in source.training() if key in wanted}
    device = next(source.codec.parameters()).device

    def training(key: str) -> Sound:
        wav = source.codec.decode(kept[key][None].to(device))[0].cpu()
        return Sound("training clip, through the codec", wav, source.codec.sample_rate, note=key)

    section = replication_listening(
        by_embedding,
        by_codes,
        generated=lambda key: Sound("generated", *read(source.paths[key]), note=key),
        training=training,
        frame_rate=source.codec.frame_rate,
        num_shown=num_shown,
    )
    write_report(Report(title="Nearest training clips", listening=[section]), out)
    data = {"by_embedding": [asdict(m) for m in by_embedding], "by_codes": [asdict(m) for m in by_codes]}
    write_text(out.with_suffix(".json"), json.dumps(data, ensure_ascii=False, indent=1) + "\n")


def main(arguments: list[str]) -> None:
    """The verb `replication`."""
    parser = argparse.ArgumentParser(
        prog="lightning-audio replication",
        description="For each clip of an evaluation the nearest training clip, by embedding and by codes.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("evaluation", help="folder that `evaluate` wrote")
    parser.add_argument("--codes", required=True, help="the shards of codes that the model was trained on")
    parser.add_argument("--codec", required=True, help="that made them: run folder, package or hub name")
    parser.add_argument("--split", default="train")
    parser.add_argument("--length", type=int, default=8, metavar="FRAMES", help="of an n-gram (default 8)")
    parser.add_argument("--out", default="replication.html", metavar="PAGE")
    parser.add_argument("--sounds", type=int, default=12, metavar="N", help="pairs to listen to (default 12)")
    options = parser.parse_args(arguments)
    codec = load(options.codec)
    if not isinstance(codec, EnCodec):
        raise ValueError(f"{options.codec} is a {type(codec).__name__}, no EnCodec that made codes")
    source = Replication(options.evaluation, options.codes, codec, split=options.split)
    by_embedding, by_codes = check_replication(source, options.length)
    write_page(source, by_embedding, by_codes, Path(options.out), num_shown=options.sounds)
    for match in sorted(by_codes, key=lambda match: match.longest, reverse=True)[: options.sounds]:
        seconds = match.longest / codec.frame_rate
        where = f"{match.share:.0%} of its n-grams in {match.training}" if match.training else "in no clip"
        print(f"{match.generation}: {seconds:.2f} s the same, {where}")
    print(f"written: {options.out}")
