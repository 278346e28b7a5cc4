"""The quickstart's own protocol: codec, language model and generations on the embedded corpus, whose truth is known."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import DictConfig
from torch import Tensor

from datamodules.audio import AudioDataModule
from datamodules.tokens import TokenDataModule
from eval.card import Card, Durations
from eval.clip_scores import clip_faults
from eval.embedders import CodecLatentEmbedder, Embedder, LogMelEmbedder
from eval.protocols.corpus import (
    CodecScores,
    score_codec,
    score_distance,
    score_language_model,
    score_steering,
    steering_of,
)
from eval.protocols.measures import heard_by
from eval.reference_bands import MUSICGEN, Reference, guessing, with_references
from eval.report import (
    Chart,
    Clip,
    Curve,
    Fact,
    Listening,
    Sound,
    Stage,
    card_report,
    read_curves,
    write_report,
)
from eval.steering import AttributeClassifier
from experiments.compose import resolve
from experiments.generate import generate_in_batches
from experiments.progress import track
from experiments.stages import StageRecord
from lightning_audio import EnCodec, TextToAudio, load
from lightning_audio.audio import write
from lightning_audio.batch import Attributes, AudioBatch
from lightning_audio.checkpoints.stored import build, config_of
from lightning_audio.hashing import weights_hash


def evaluate_corpus(config: DictConfig, *, stages: Sequence[StageRecord] = ()) -> Card:
    """Run the protocol on the model; write `card.json`, `report.html` and `generated/` into `config.out`."""
    began, resolved = time.monotonic(), resolve(config)
    if config.model is None or config.codes is None:
        raise ValueError(
            "this protocol wants model=... and codes=..., the shards encoded by the model's codec"
        )
    model = load(config.model, device=config.device)
    if not isinstance(model, TextToAudio):
        raise ValueError(
            f"{config.model} is a {type(model).__name__}; this protocol wants a text-to-audio model"
        )
    if not isinstance(model.codec, EnCodec):
        raise ValueError(
            f"{config.model} decodes with a {type(model.codec).__name__}; this protocol wants EnCodec"
        )
    clips = _Clips(config, model, weights_hash(model.codec))
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)

    codec = score_codec(model.codec, track(clips.batches("test"), "codec"), untrained=_untrained(model))
    language = score_language_model(
        model.lm, clips.codes("train"), track(clips.codes("valid"), "language model")
    )
    listener, known = _teach_listener(config, clips, model, codec)
    wanted = clips.attributes("test")[: config.num_generations]
    generated = _generate(config, model, wanted, out / "generated")
    steering = score_steering(generated, wanted, model.sample_rate, listener, known=known)

    embedders: list[Embedder] = [
        LogMelEmbedder(sample_rate=model.sample_rate),
        CodecLatentEmbedder(model.codec),
    ]
    reference, shuffled = clips.wavs("test"), _codes_by_frequency(model, clips, len(generated), config.seed)
    distances, canaries = [], []
    for embedder, label in zip(embedders, ("log-mel", "codec latents"), strict=True):
        distance, bad = score_distance(
            generated,
            reference,
            model.sample_rate,
            embedder,
            baselines={"codes by frequency": shuffled},
            label=label,
        )
        distances.append(distance)
        canaries += bad
    faults = clip_faults(torch.stack(list(generated)), [str(i) for i in range(len(generated))])
    card = Card(
        protocol=config.protocol.name,
        model=str(config.model),
        model_hash=weights_hash(model.lm),
        measurements=[*codec.measurements, *language, *steering, *distances],
        canaries=canaries,
        num_clips=len(generated),
        durations=Durations.of([wav.shape[-1] / model.sample_rate for wav in generated]),
        embedders=[heard_by(embedder) for embedder in embedders],
        resampler="julius (none where rates agree)",
        loudness="as generated",
        reference=f"{config.audio}, split test, {len(reference)} clips",
        reference_hash=clips.hash("test"),
        missing={**codec.faults, **{f"generation {key}": fault for key, fault in faults.items()}},
        seeds={"generation": config.seed, "bootstrap": 0},
        sampling={**vars(model.defaults), **resolved["protocol"]["sampling"]},
        device=str(next(model.lm.parameters()).device),
    )
    card.save(out / "card.json")
    own = Stage("evaluation", time.monotonic() - began, f"{len(generated)} generations")
    page = replace(
        card_report(card),
        title="From a folder of audio to a model",
        summary="A codec and a text-to-audio language model, trained from nothing on short made pieces; "
        "what they sound like, and what was measured.",
        stages=[*(Stage(stage.name, stage.seconds, stage.detail) for stage in stages), own],
        listening=[
            _reconstructions(codec, model.sample_rate),
            _generations(config, model, generated, wanted, listener),
        ],
        charts=_charts([Path(run) for run in config.runs]),
        codebook_counts=codec.code_counts,
        config=yaml.safe_dump({"evaluate": resolved, **_run_configs(config.runs)}, sort_keys=False),
    )
    write_report(page, out / "report.html")
    return card


class _Clips:
    """The splits of the protocol's dataset, as audio and as codes, whole clips."""

    def __init__(self, config: DictConfig, model: TextToAudio, codec_hash: str) -> None:
        common = {"batch_size": config.batch_size, "log_folder": config.out}
        self._audio = AudioDataModule(
            config.audio,
            sample_rate=model.sample_rate,
            channels=model.channels,
            segment_duration=None,
            **common,
        )
        self._codes = TokenDataModule(config.codes, codec_hash=codec_hash, **common)
        self._codes.codes_info("train")

    def batches(self, split: str) -> Iterable[AudioBatch]:
        return self._audio.whole_split(split)

    def codes(self, split: str) -> Iterable[AudioBatch]:
        return self._codes.whole_split(split)

    def wavs(self, split: str) -> list[Tensor]:
        """Every clip [C, L], without padding."""
        found = []
        for batch in self.batches(split):
            assert batch.wav is not None
            assert batch.num_samples is not None
            found += [wav[:, :n] for wav, n in zip(batch.wav, batch.num_samples.tolist(), strict=True)]
        return found

    def attributes(self, split: str) -> list[Attributes]:
        return [attributes for batch in self.codes(split) for attributes in batch.attributes]

    def hash(self, split: str) -> str:
        """Of the split's shards, all together."""
        return "+".join(shard.sha256[:16] for shard in self._audio.info(split).shards)


def _untrained(model: TextToAudio) -> EnCodec:
    """The model's codec as it was before training, with codebooks that were never set."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        codec = build(config_of(model)["codec"])
    codec.quantizer.codebooks.embed.data.normal_(generator=torch.Generator().manual_seed(0))
    codec.quantizer.codebooks.inited.fill_(True)
    return codec.eval().to(next(model.parameters()).device)


@torch.no_grad()
def _reconstructed(model: TextToAudio, clips: _Clips, split: str) -> list[Tensor]:
    """Every clip [C, L] of a split as its codes give it back."""
    device = next(model.codec.parameters()).device
    found: list[Tensor] = []
    for batch in track(clips.codes(split), "reconstructing"):
        assert batch.codes is not None
        assert batch.num_frames is not None
        wavs = model.codec.decode(batch.codes.to(device)).cpu()
        lengths = (batch.num_frames * model.codec.hop_length).tolist()
        found += [wav[:, :length] for wav, length in zip(wavs, lengths, strict=True)]
    return found


def _teach_listener(
    config: DictConfig, clips: _Clips, model: TextToAudio, codec: CodecScores
) -> tuple[AttributeClassifier, dict[str, Any]]:
    """The classifier that judges generations, and what it scores on clips whose truth is known.

    It learns from the training clips and from what the codec makes of them, since generations sound like those.
    """
    names = list(config.protocol.attributes)
    wavs = [*clips.wavs("train"), *_reconstructed(model, clips, "train")]
    attributes = 2 * clips.attributes("train")
    listener = AttributeClassifier.fit(
        wavs, attributes, sample_rate=model.sample_rate, names=names, seed=config.seed
    )
    truth = clips.attributes("test")
    known = {
        "test clips": steering_of(listener, clips.wavs("test"), truth, listener.sample_rate),
        "their reconstructions": steering_of(listener, codec.reconstructions, truth, listener.sample_rate),
    }
    return listener, known


def _generate(
    config: DictConfig, model: TextToAudio, wanted: Sequence[Attributes], folder: Path
) -> list[Tensor]:
    """A clip [C, L] for each caption, also written to `folder`."""
    texts = [str(attributes["description"]) for attributes in wanted]
    pieces = generate_in_batches(
        model,
        texts,
        duration=model.max_duration,
        seed=config.seed,
        batch_size=config.batch_size,
        **config.protocol.sampling,
    )
    folder.mkdir(parents=True, exist_ok=True)
    generated = []
    for index, _, wav in track(pieces, "generating", total=len(texts)):
        generated.append(wav.cpu())
        write(folder / f"{index:04d}.flac", wav.cpu().clamp(-1, 1), model.sample_rate)
    return generated


@torch.inference_mode()
def _codes_by_frequency(model: TextToAudio, clips: _Clips, number: int, seed: int) -> list[Tensor]:
    """Clips decoded from codes drawn by how often each occurs: what a model without any sense of time makes."""
    batch = next(iter(clips.codes("train")))
    assert batch.codes is not None
    codes = (
        torch.cat([b.codes for b in clips.codes("train") if b.codes is not None]).transpose(0, 1).flatten(1)
    )
    generator = torch.Generator().manual_seed(seed)
    shape = (number, batch.codes.shape[-1])
    drawn = torch.stack([row[torch.randint(len(row), shape, generator=generator)] for row in codes], dim=1)
    device = next(model.codec.parameters()).device
    return [wav.cpu() for part in drawn.split(16) for wav in model.codec.decode(part.to(device))]


def _reconstructions(codec: CodecScores, sample_rate: int) -> Listening:
    examples = [
        Clip(
            key,
            [Sound("original", original, sample_rate), Sound("through the codec", decoded, sample_rate)],
            [Fact("SI-SDR", f"{score:.1f} dB")],
        )
        for key, original, decoded, score in codec.examples
    ]
    return Listening("Codec", "Test clips that no training has seen, before and after the codec.", examples)


def _generations(
    config: DictConfig,
    model: TextToAudio,
    generated: Sequence[Tensor],
    wanted: Sequence[Attributes],
    listener: AttributeClassifier,
) -> Listening:
    shown = min(config.protocol.examples, len(generated))
    heard = listener.predict(list(generated[:shown]), model.sample_rate)
    examples = [
        Clip(
            str(wanted[i]["description"]),
            [Sound("generated", generated[i], model.sample_rate, note=f"seed {config.seed + i}")],
            [Fact(f"{name} heard", heard[name][i], heard[name][i] == str(wanted[i][name])) for name in heard],
        )
        for i in range(shown)
    ]
    about = "Captions of test clips, and what the listener heard in the audio that was made of them."
    return Listening("Generation", about, examples)


def _charts(runs: Sequence[Path]) -> list[Chart]:
    """Losses over steps, one chart per run and stage, from all lives of the run."""
    charts = []
    configs = _run_configs([str(run) for run in runs])
    for run in runs:
        references = _references(configs.get(run.name, {}))
        for stage in ("train", "valid"):
            names = {"loss": "loss", "l1": "waveform", "mel": "mel", "adv": "adversarial", "feat": "features"}
            names |= {f"cross_entropy_q{k}": f"codebook {k}" for k in range(1, 9)}
            curves = _curves(run, {f"{stage}/{column}": name for column, name in names.items()})
            if curves:
                word = "training" if stage == "train" else "validation"
                chart = Chart(f"{run.name}: {word} losses", "step", "loss", curves, smooth=stage == "train")
                columns = [f"{stage}/{column}" for column in names]
                charts.append(with_references(chart, columns, references))
    return charts


def _references(config: dict[str, Any]) -> list[Reference]:
    """What to hold a run's curves against: guessing, and the released models where it is of their recipe."""
    lm = config.get("lm")
    if not lm:
        return []
    published = MUSICGEN if str(config.get("name")).startswith("musicgen") else []
    return [*guessing(lm["num_codebooks"], lm["cardinality"]), *published]


def _curves(run: Path, columns: dict[str, str]) -> dict[str, Curve]:
    """Curves joined over the lives of a run; where two lives logged a step, the later one counts."""
    points: dict[str, dict[float, float]] = {}
    logs = sorted(
        (run / "logs").glob("version_*/metrics.csv"), key=lambda p: int(p.parent.name.partition("_")[2])
    )
    for log in logs:
        for name, curve in read_curves(log, columns).items():
            points.setdefault(name, {}).update(zip(curve.steps, curve.values, strict=True))
    return {
        name: Curve(*map(list, zip(*sorted(values.items()), strict=True))) for name, values in points.items()
    }


def _run_configs(runs: Sequence[str]) -> dict[str, Any]:
    files = [Path(run) / "config.yaml" for run in runs]
    return {file.parent.name: yaml.safe_load(file.read_text()) for file in files if file.exists()}
