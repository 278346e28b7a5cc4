"""Write audio for texts: one file each, with a list of what made them."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from experiments.compose import compose_config, resolve
from experiments.progress import track
from lightning_audio import TextToAudio, load
from lightning_audio.atomic import write_text
from lightning_audio.audio import normalize_loudness, normalize_peak, write

EXAMPLE = """\
example:
  lightning-audio generate model=runs/quickstart/model "a slow melody on a low plucked string" duration=4
  lightning-audio generate model=runs/mine "warm piano" "rain on a tin roof" seed=7 sampling.top_k=100 out=heard"""


def generate_in_batches(
    model: TextToAudio, texts: list[str], *, duration: float, seed: int, batch_size: int, **sampling: object
) -> Iterator[tuple[int, str, Tensor]]:
    """(index, text, wav [C, L]) one after another; item i is drawn with seed + i."""
    for start in range(0, len(texts), batch_size):
        chunk = texts[start : start + batch_size]
        seeds = [seed + start + offset for offset in range(len(chunk))]
        wavs = model.generate(chunk, duration=duration, seed=seeds, **sampling)
        yield from ((start + i, text, wav) for i, (text, wav) in enumerate(zip(chunk, wavs, strict=True)))


def generate(config: DictConfig) -> list[Path]:
    """Write the files that the config asks for, and `generations.json` beside them.  Gives their paths."""
    resolved = resolve(config)
    texts = [str(text) for text in resolved["texts"]]
    if not texts:
        raise ValueError(
            'nothing to generate: give a text, as in lightning-audio generate model=... "a text"'
        )
    model = load(config.model, device=config.device)
    if not isinstance(model, TextToAudio):
        raise ValueError(f"{config.model} is a {type(model).__name__}, which cannot generate from text")
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    settings = {"duration": config.duration, "seed": config.seed, **resolved["sampling"]}
    pieces = generate_in_batches(model, texts, batch_size=config.batch_size, **settings)
    paths, records = [], []
    for index, text, wav in track(pieces, "generating", total=len(texts)):
        path = out / f"{index:04d}_{_slug(text)}.{config.format}"
        write(path, _leveled(wav.cpu(), model.sample_rate, config.loudness), model.sample_rate)
        paths.append(path)
        records.append({"file": path.name, "text": text, **settings, "seed": config.seed + index})
    record = {"model": str(config.model), "files": records}
    write_text(out / "generations.json", json.dumps(record, indent=1, ensure_ascii=False))
    return paths


def _leveled(wav: Tensor, sample_rate: int, loudness: float | None) -> Tensor:
    """At `loudness` LUFS; without, as it is, but that nothing is clipped."""
    if loudness is None:
        return normalize_peak(wav, only_down=True)
    return normalize_loudness(wav, sample_rate, loudness=loudness)


def _slug(text: str) -> str:
    """A text as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:48] or "untitled"


def main(arguments: list[str]) -> None:
    """The verb `generate`."""
    parser = argparse.ArgumentParser(
        prog="lightning-audio generate",
        description="Generate audio from texts. A word with = is a Hydra override, any other a text.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar="key=value | text")
    parser.add_argument("--text", "-t", action="append", default=[], help="a text that holds an equals sign")
    options = parser.parse_args(arguments)
    overrides = [word for word in options.words if re.match(r"^[+~]*[a-z_][\w.@/]*=", word)]
    texts = [word for word in options.words if word not in overrides] + options.text
    config = compose_config("generate", overrides)
    if texts:
        OmegaConf.update(config, "texts", [*config.texts, *texts])
    for path in generate(config):
        print(path)
