"""Write audio for texts, melodies, styles and prompts: one file each, with a list of what made them."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import soundfile
from omegaconf import OmegaConf
from torch import Tensor

from experiments.compose import compose_config, resolve
from experiments.progress import progress_report
from lightning_audio import TextToAudio, load
from lightning_audio.atomic import write_text
from lightning_audio.audio import (
    SUFFIXES,
    clip,
    convert,
    normalize_loudness,
    normalize_peak,
    normalize_rms,
    read,
    write,
)
from lightning_audio.generation.base import AudioGenerator, Progress

EXAMPLE = """\
example:
  lightning-audio generate model=runs/quickstart/model "a slow melody on a low plucked string" duration=4
  lightning-audio generate model=runs/mine "warm piano" "rain on a tin roof" seed=7 sampling.top_k=100 out=heard
  lightning-audio generate model=facebook/musicgen-melody "brass band" melody=hummed.wav decoder=mbd loudness=-14"""

HEARD = ("melody", "style", "prompt")
PER_TEXT = ("duration", *HEARD)
Level = Callable[[Tensor, int], Tensor]


def generate_in_batches(
    model: AudioGenerator,
    texts: Sequence[str | None],
    *,
    seed: int,
    batch_size: int,
    progress: Progress | None = None,
    **options: Any,
) -> Iterator[tuple[int, str | None, Tensor]]:
    """(index, text, wav [C, L]) one after another; item i is drawn with seed + i.

    options: of `generate`; a list of durations, melodies or styles has one for each text.
    """
    starts = range(0, len(texts), batch_size)
    for batch, start in enumerate(starts):
        rows = slice(start, start + batch_size)
        seeds = [seed + row for row in range(len(texts))[rows]]
        own = _of_texts(options, rows)
        if progress is not None:
            own["progress"] = partial(_within, progress, batch, len(starts))
        wavs = model.generate(texts[rows], seed=seeds, **own)
        yield from zip(range(len(texts))[rows], texts[rows], wavs, strict=True)


def _of_texts(options: dict[str, Any], rows: slice | int) -> dict[str, Any]:
    """The options of some of the texts, or of one."""
    return {
        name: value[rows] if name in PER_TEXT and isinstance(value, list) else value
        for name, value in options.items()
    }


def _within(progress: Progress, batch: int, batches: int, done: int, total: int) -> None:
    progress(batch * total + done, batches * total)


def generate(config: Any) -> list[Path]:
    """Write the files that the config asks for, and `generations.json` beside them.  Gives their paths."""
    asked = resolve(config)
    texts = _texts(asked)
    level = _level(asked)
    suffix = f".{asked['format']}"
    if suffix not in SUFFIXES:
        raise ValueError(
            f"unknown format {asked['format']!r}; there are {', '.join(s[1:] for s in SUFFIXES)}"
        )
    if isinstance(asked["duration"], list) and len(asked["duration"]) != len(texts):
        raise ValueError(f"{len(asked['duration'])} durations for {len(texts)} texts")
    files = {name: asked[name] for name in HEARD if asked[name] is not None}
    heard = {name: _read_all(name, given, len(texts)) for name, given in files.items()}
    model = load(asked["model"], device=asked["device"], text_encoder=asked["text_encoder"])
    if not isinstance(model, AudioGenerator):
        raise ValueError(f"{asked['model']} is a {type(model).__name__}, which cannot generate from text")
    settings = {"duration": asked["duration"], "decoder": asked["decoder"], **asked["sampling"]}
    options = {**settings, **_converted(heard, model)}
    out = Path(asked["out"])
    paths = [out / f"{index:04d}_{_slug(text)}{suffix}" for index, text in enumerate(texts)]
    with progress_report("generating") as report:
        if asked["stream"]:
            _stream_all(model, texts, paths, seed=asked["seed"], progress=report, **options)
        else:
            pieces = generate_in_batches(
                model, texts, seed=asked["seed"], batch_size=asked["batch_size"], progress=report, **options
            )
            for (_, _, wav), path in zip(pieces, paths, strict=True):
                out.mkdir(parents=True, exist_ok=True)
                write(path, level(wav.cpu(), model.sample_rate), model.sample_rate)
    records = [
        {"file": path.name, "text": text, **settings, **files, "seed": asked["seed"] + index}
        for index, (path, text) in enumerate(zip(paths, texts, strict=True))
    ]
    record = {"model": str(asked["model"]), "files": records}
    write_text(out / "generations.json", json.dumps(record, indent=1, ensure_ascii=False))
    return paths


@dataclass(frozen=True)
class _Heard:
    """An audio file: wav [C, L] at `sample_rate` Hz."""

    wav: Tensor
    sample_rate: int


def _texts(asked: dict[str, Any]) -> list[str | None]:
    texts: list[str | None] = [str(text) for text in asked["texts"]]
    if texts and asked["num_samples"] is not None:
        raise ValueError(f"{len(texts)} texts and num_samples={asked['num_samples']}: give one or the other")
    texts = texts or [None] * (asked["num_samples"] or 0)
    if not texts:
        raise ValueError(
            'nothing to generate: give a text, as in lightning-audio generate model=... "a text", or num_samples'
        )
    return texts


def _read_all(name: str, files: str | list[str], size: int) -> list[_Heard]:
    """One file for all texts, or a list with one for each."""
    names = [files] if isinstance(files, str) else list(files)
    if len(names) not in (1, size):
        raise ValueError(f"{len(names)} files as {name} for {size} texts")
    return [_Heard(*read(file)) for file in names]


def _converted(heard: dict[str, list[_Heard]], model: AudioGenerator) -> dict[str, Any]:
    """The arguments of `generate` that say what is heard, at the model's rate since files may differ."""
    options: dict[str, Any] = {}
    for name, sounds in heard.items():
        wavs = [convert(sound.wav, sound.sample_rate, model.sample_rate, model.channels) for sound in sounds]
        options |= {name: wavs[0] if len(wavs) == 1 else wavs, f"{name}_sample_rate": model.sample_rate}
    return options


def _stream_all(
    model: AudioGenerator,
    texts: Sequence[str | None],
    paths: Sequence[Path],
    *,
    seed: int,
    progress: Progress,
    **options: Any,
) -> None:
    """Each file grows as its audio is made; the level is the model's own, since what comes is not known yet."""
    if not isinstance(model, TextToAudio):
        raise ValueError(f"a {type(model).__name__} makes all of a clip at once: it cannot stream")
    for index, (text, path) in enumerate(zip(texts, paths, strict=True)):
        own = _of_texts(options, index)
        report = partial(_within, progress, index, len(texts))
        chunks = model.stream(text, seed=seed + index, progress=report, **own)
        path.parent.mkdir(parents=True, exist_ok=True)
        with soundfile.SoundFile(path, "w", samplerate=model.sample_rate, channels=model.channels) as file:
            for chunk in chunks:
                file.write(chunk.clamp(-1, 1).cpu().numpy().T)
                file.flush()


def _level(asked: dict[str, Any]) -> Level:
    """What brings audio to its level: the strategies of AudioCraft's `audio_write`, or as it is."""
    loudness, compress = asked["loudness"], asked["compressor"]
    name = "loudness" if loudness is not None and asked["level"] == "keep" else asked["level"]
    known: dict[str, Level] = {
        "keep": lambda wav, rate: normalize_peak(wav, only_down=True),
        "peak": lambda wav, rate: normalize_peak(wav),
        "clip": lambda wav, rate: clip(wav),
        "rms": lambda wav, rate: normalize_rms(wav),
        "loudness": lambda wav, rate: normalize_loudness(
            wav, rate, loudness=-14.0 if loudness is None else loudness, compress=compress
        ),
    }
    if name not in known:
        raise ValueError(f"unknown level {name!r}; there are {', '.join(known)}")
    if name != "loudness" and (loudness is not None or compress):
        raise ValueError(f"level={name} takes no loudness and no compressor; level=loudness does")
    if asked["stream"] and name != "keep":
        raise ValueError(f"level={name} needs the whole clip; with stream=true the level is kept")
    return known[name]


def _slug(text: str | None) -> str:
    """A text as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", (text or "").lower()).strip("-")[:48] or "untitled"


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
    # Which settings there are is for the model to say; Hydra would refuse to add a name.
    overrides = [re.sub(r"^sampling\.", "++sampling.", override) for override in overrides]
    config = compose_config("generate", overrides)
    if texts:
        OmegaConf.update(config, "texts", [*config.texts, *texts])
    for path in generate(config):
        print(path)
