"""The verb `evaluate` on tiny models and real shards: from captions, codecs and folders of audio to cards."""

from __future__ import annotations

import inspect
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from eval.card import Card
from eval.clip_table import load_clips
from eval.embedders.vggish import VGGishNet
from experiments.cli import main
from experiments.compose import CONFIGS, compose_config, resolve
from experiments.evaluate import evaluate
from experiments.evaluation import makers, ranks
from experiments.evaluation.generations import Generations
from lightning_audio.audio import read, write
from sharding.sources import find_clips
from sharding.writing.write import write_shards

RATE = 32_000
NUM_ITEMS = 5
PROTOCOLS = sorted(path.stem for path in (CONFIGS / "protocol").glob("*.yaml"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tones with captions."""
    folder = tmp_path_factory.mktemp("tones")
    for i in range(NUM_ITEMS):
        path = folder / f"{i}.wav"
        write(path, 0.2 * torch.sin(torch.arange(9000 + 300 * i) * 0.02 * (i + 1))[None], RATE)
        path.with_suffix(".json").write_text(json.dumps({"description": f"tone number {i}"}))
    return folder


@pytest.fixture(scope="module")
def shards(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "shards"
    write_shards(find_clips(folder), out, fractions={"test": 1.0})
    return out


@pytest.fixture(scope="module")
def musicgen(reference_path: Callable[..., Path]) -> list[str]:
    """The settings that open the tiny MusicGen."""
    return [f"model={reference_path('pkg', 'musicgen_tiny')}", f"text_encoder={reference_path('t5')}"]


def composed(*overrides: object, protocol: str = "log-mel") -> DictConfig:
    texts = [str(override) for override in overrides]
    return compose_config(
        "evaluate", [f"protocol={protocol}", "device=cpu", f"protocol.sample_rate={RATE}", *texts]
    )


def evaluated(*overrides: object, protocol: str = "log-mel", measures: dict[str, Any] | None = None) -> Card:
    config = composed(*overrides, protocol=protocol)
    if measures is not None:
        OmegaConf.update(config, "protocol.measures", measures, merge=False)
    return evaluate(config)


SHORT = "protocol.make.duration=0.3"


def pieces(card: Card) -> dict[str, Any]:
    """What a card says of the clips, without when and where it was made."""
    names = (
        "measurements",
        "canaries",
        "missing",
        "faults",
        "num_clips",
        "durations",
        "sampling",
        "embedders",
    )
    return {name: getattr(card, name) for name in names}


def audio(out: Path) -> dict[str, bytes]:
    # The samples alone: a float WAV says when it was written.
    files = (out / "generated").glob("*.wav")
    return {path.name: read(path)[0].numpy().tobytes() for path in files}


def test_from_captions_to_card_table_and_page(
    tmp_path: Path, shards: Path, musicgen: list[str], reference_path: Callable[..., Path]
) -> None:
    codec = reference_path("pkg", "musicgen_tiny", "compression_state_dict.bin")
    latents = {
        "_target_": "eval.protocols.measures.SetDistances",
        "embedder": {
            "_target_": "eval.embedders.CodecLatentEmbedder",
            "codec": {"_target_": "lightning_audio.load", "source": str(codec), "device": "cpu"},
        },
        "distances": {
            "FD": {
                "_target_": "eval.protocols.set_distance.Distance",
                "metric": {"_target_": "eval.fad.FrechetDistance", "_partial_": True},
                "meaning": "far",
            }
        },
    }
    mel = {
        "_target_": "eval.protocols.measures.PairedScores",
        "names": ["Mel distance"],
        "metric": {"_target_": "eval.reconstruction.MelDistance", "_partial_": True, "sample_rate": RATE},
        "meaning": "far",
        "unit": "dB",
    }
    card = evaluated(
        *musicgen,
        f"audio={shards}",
        f"out={tmp_path}",
        SHORT,
        "++protocol.make.sampling.top_k=10",
        "protocol.dataset.count=9",
        measures={"latents": latents, "mel": mel},
    )
    assert [(m.name, m.num_clips, m.interval is None) for m in card.measurements] == [
        ("FD", None, True),
        ("Mel distance", NUM_ITEMS, False),
    ]
    found = {canary.name for canary in card.canaries}
    assert {"FD: the reference's own halves", "Mel distance: shuffled captions"} <= found
    assert {f"FD: {name}" for name in ("silence", "white noise", "codec reconstruction")} <= found
    assert card.sampling["top_k"] == 10
    assert card.seeds["generation"] == 2036
    assert (card.num_clips, card.num_items) == (NUM_ITEMS, NUM_ITEMS)
    assert card.embedders[0].weights_hash
    assert card.embedders[0].hearing
    assert any("5 of the 9 items" in warning for warning in card.warnings)
    assert any("5 embeddings for" in warning for warning in card.warnings)
    rows = load_clips(tmp_path)
    assert [(row.key, row.prompt) for row in rows] == [(str(i), f"tone number {i}") for i in range(NUM_ITEMS)]
    assert all(row.audio and read(tmp_path / row.audio)[1] == RATE for row in rows)
    assert sum(row.scores["Mel distance"] for row in rows) / len(rows) == pytest.approx(
        card.measurements[1].value
    )
    assert (tmp_path / "report.html").read_text().count("<audio") == 2 * NUM_ITEMS


def random_networks(folder: Path) -> dict[str, str]:
    """Files of tiny or random networks in the published forms, as the settings that name them."""
    from transformers import (
        ASTConfig,
        ASTFeatureExtractor,
        ASTForAudioClassification,
        ClapConfig,
        ClapFeatureExtractor,
        ClapModel,
        ClapProcessor,
        RobertaTokenizer,
    )

    torch.manual_seed(0)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in VGGishNet().state_dict().items()}
    # A row for all rows, so that the file is small.
    rows = {name: torch.randn(1, *shape[1:]) * shape[1:].numel() ** -0.5 for name, shape in shapes.items()}
    torch.save({name: row.expand(shapes[name]) for name, row in rows.items()}, folder / "vggish-10086976.pth")
    ast = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    tagger = ASTForAudioClassification(ASTConfig(**ast, num_labels=7, max_length=64, initializer_range=0.3))
    tagger.save_pretrained(folder / "ast")
    ASTFeatureExtractor(max_length=64).save_pretrained(folder / "ast")
    words = ["<s>", "<pad>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz0123456789", "Ġ", "<mask>"]
    (folder / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    text = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 32}
    text |= {"vocab_size": len(words), "max_position_embeddings": 80}
    heard = {
        "patch_embeds_hidden_size": 8,
        "hidden_size": 16,
        "depths": [2, 1],
        "num_attention_heads": [2, 4],
    }
    clap = ClapConfig(text_config=text, audio_config={**heard, "num_hidden_layers": 2}, projection_dim=24)
    ClapModel(clap).save_pretrained(folder / "clap")
    extractor = ClapFeatureExtractor(truncation="rand_trunc", frequency_min=50, frequency_max=14_000)
    ClapProcessor(extractor, RobertaTokenizer.from_pretrained(folder)).save_pretrained(folder / "clap")
    return {name: str(folder / name) for name in ("vggish-10086976.pth", "ast", "clap")}


def test_the_protocol_of_musicgen_with_networks_of_random_weights(
    tmp_path: Path, musicgen: list[str]
) -> None:
    paths = random_networks(tmp_path)
    for i in range(4):
        wav = 0.2 * torch.sin(torch.arange(36_000 + 1000 * i) * 0.02 * (i + 1))[None]
        write(tmp_path / "music" / f"{i}.wav", wav, RATE)
    (tmp_path / "captions.csv").write_text("key,caption\n" + "".join(f"{i},tone {i}\n" for i in range(4)))
    config = compose_config(
        "evaluate",
        [
            "protocol=musicgen-musiccaps",
            "device=cpu",
            *musicgen,
            f"audio={tmp_path / 'music'}",
            f"captions={tmp_path / 'captions.csv'}",
            f"out={tmp_path / 'out'}",
            "protocol.make.duration=1.2",
            f"++protocol.measures.fad.embedder.path={paths['vggish-10086976.pth']}",
            "++protocol.measures.fad.embedder.any_weights=true",
            "++protocol.measures.fad.embedder.device=cpu",
        ],
    )
    clap = {"_target_": "eval.embedders.clap.Clap.from_transformers", "path": paths["clap"], "dim": 24}
    for name in ("kad", "clap"):
        OmegaConf.update(config, f"protocol.measures.{name}.embedder", clap, merge=False)
    tagger = {"_target_": "eval.embedders.ast.Ast", "path": paths["ast"]}
    OmegaConf.update(config, "protocol.measures.kl.tagger", tagger, merge=False)
    card = evaluate(config)
    values = {m.name: m.value for m in card.measurements}
    assert list(values) == ["FAD", "FAD∞", "KAD", "KL", "KL reversed", "KL both ways", "CLAP"]
    assert math.isnan(values.pop("FAD∞"))  # of four clips there is none, and the card says so
    assert any("FAD∞ of judged" in warning for warning in card.warnings)
    assert all(math.isfinite(value) for value in values.values())
    assert values["KL both ways"] == pytest.approx(values["KL"] + values["KL reversed"])
    assert card.embedders[0].name == "vggish"
    assert "peak at -1 dBFS, 16 bits" in card.embedders[0].hearing
    assert card.loudness == "judged: -14 LUFS; reference: as given"
    assert "CLAP: the reference clips" in {canary.name for canary in card.canaries}
    assert card.published[0].system == "facebook/musicgen-small"
    assert "5469 items" in " ".join(card.warnings)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "MUSICGEN_MODEL_CARD" in page


def test_the_size_of_batches_does_not_show(tmp_path: Path, shards: Path, musicgen: list[str]) -> None:
    common = [*musicgen, f"audio={shards}", SHORT]
    cards = [evaluated(*common, f"out={tmp_path / str(n)}", f"batch_size={n}") for n in (1, 4)]
    assert audio(tmp_path / "4") == audio(tmp_path / "1")
    assert pieces(cards[1]) == pieces(cards[0])


@pytest.mark.slow
def test_the_number_of_processes_does_not_show(tmp_path: Path, shards: Path, musicgen: list[str]) -> None:
    common = [*musicgen, f"audio={shards}", SHORT, "batch_size=2"]
    cards = [evaluated(*common, f"out={tmp_path / str(n)}", f"devices={n}") for n in (1, 2)]
    assert audio(tmp_path / "2") == audio(tmp_path / "1")
    assert pieces(cards[1]) == pieces(cards[0])
    began = time.monotonic()
    with pytest.raises(ValueError, match="unknown sampling settings"):
        evaluated(*common, f"out={tmp_path / 'bad'}", "devices=2", "++protocol.make.sampling.top_q=1")
    assert time.monotonic() - began < 100  # the other process does not wait for ever


def test_an_item_does_not_depend_on_the_rest_of_the_set(
    tmp_path: Path, shards: Path, musicgen: list[str]
) -> None:
    common = [*musicgen, f"audio={shards}", SHORT]
    evaluated(*common, f"out={tmp_path / 'two'}", "limit=2")
    evaluated(*common, f"out={tmp_path / 'all'}")
    two, everything = audio(tmp_path / "two"), audio(tmp_path / "all")
    assert two == {name: everything[name] for name in two}
    assert len(two) == 2


def test_stopped_it_goes_on_and_other_settings_begin_anew(
    tmp_path: Path,
    shards: Path,
    musicgen: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    common = [*musicgen, f"audio={shards}", SHORT, "batch_size=1"]
    expected = evaluated(*common, f"out={tmp_path / 'whole'}")
    out = tmp_path / "stopped"
    asked: list[str] = []
    make = makers.FromCaptions.make

    def stopping(self: makers.FromCaptions, items: Any, read: Any) -> list[Tensor]:
        asked.extend(item.key for item in items)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return make(self, items, read)

    monkeypatch.setattr(makers.FromCaptions, "make", stopping)
    with pytest.raises(KeyboardInterrupt):
        evaluated(*common, f"out={out}")
    assert not (out / "card.json").exists()
    # A kill amid a line of the journal.
    with (out / "generated" / "done-0.jsonl").open("a") as journal:
        journal.write(f'{{"key": "{asked[2]}", "fa')
    capsys.readouterr()
    card = evaluated(*common, f"out={out}")
    assert "going on: 2 clips are made already" in capsys.readouterr().out
    assert sorted(asked[:2] + asked[3:]) == [str(i) for i in range(NUM_ITEMS)]
    assert asked[2] == asked[3]
    assert pieces(card) == pieces(expected)
    assert audio(out) == audio(tmp_path / "whole")
    evaluated(*common, f"out={out}", "++protocol.make.sampling.top_k=7")
    assert "other settings (made.top_k 250 -> 7): making all clips anew" in capsys.readouterr().out
    assert len(asked) == 6 + NUM_ITEMS


def test_a_place_among_the_processes_of_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    places = {"PROCID": "5", "LOCALID": "1", "NTASKS": "8", "NODELIST": "node[3-4]", "JOB_ID": "12345"}
    for name, value in places.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    assert ranks._launched() is None  # the batch script itself, which has the job's number of tasks too
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    found = ranks._launched()
    assert found is not None
    assert found == (ranks.Rank(rank=5, world_size=8, local=1), "node3", 17_345)


@pytest.mark.slow
def test_processes_of_a_launcher_share_the_work(tmp_path: Path, shards: Path, musicgen: list[str]) -> None:
    expected = evaluated(*musicgen, f"audio={shards}", f"out={tmp_path / 'one'}", SHORT)
    out = tmp_path / "launched"
    overrides = [
        *musicgen,
        f"audio={shards}",
        "protocol=log-mel",
        "device=cpu",
        f"protocol.sample_rate={RATE}",
    ]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, "-m", "experiments.cli", "evaluate", *overrides, SHORT, f"out={out}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.count("written:") == 1
    assert len(list((out / "generated").glob("done-*.jsonl"))) == 2
    assert pieces(Card.load(out / "card.json")) == pieces(expected)


@pytest.mark.slow
def test_killed_it_goes_on(tmp_path: Path, shards: Path, musicgen: list[str]) -> None:
    common = [*musicgen, f"audio={shards}", SHORT, "batch_size=1"]
    expected = evaluated(*common, f"out={tmp_path / 'whole'}")
    out = tmp_path / "killed"
    overrides = [*common, "protocol=log-mel", "device=cpu", f"protocol.sample_rate={RATE}", f"out={out}"]
    process = subprocess.Popen([sys.executable, "-m", "experiments.cli", "evaluate", *overrides])
    deadline = time.monotonic() + 120
    while not list((out / "generated").glob("*.wav")):
        assert process.poll() is None, "it ended before its first clip"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (out / "card.json").exists()
    assert pieces(evaluated(*common, f"out={out}")) == pieces(expected)
    assert audio(out) == audio(tmp_path / "whole")


def test_a_generation_that_is_not_finite_is_counted_and_named(
    tmp_path: Path, shards: Path, musicgen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make = makers.FromCaptions.make

    def broken(self: makers.FromCaptions, items: Any, read: Any) -> list[Tensor]:
        made = make(self, items, read)
        factors = {"1": torch.nan, "3": 0.0}
        return [wav * factors.get(item.key, 1.0) for item, wav in zip(items, made, strict=True)]

    common = [*musicgen, f"audio={shards}", SHORT]
    whole = evaluated(*common, f"out={tmp_path / 'whole'}")
    monkeypatch.setattr(makers.FromCaptions, "make", broken)
    card = evaluated(*common, f"out={tmp_path / 'broken'}")
    assert (card.missing, card.faults) == ({"1": "not finite"}, {"3": "silent"})
    assert (card.num_clips, card.num_items) == (NUM_ITEMS - 1, NUM_ITEMS)
    assert card.measurements[0].value != whole.measurements[0].value
    page = (tmp_path / "broken" / "report.html").read_text()
    assert "Clip 1 could not be used: not finite" in page
    assert "Clip 3 was scored and is silent" in page


def test_magnet_and_another_decoder(
    tmp_path: Path, shards: Path, musicgen: list[str], reference_path: Callable[..., Path]
) -> None:
    magnet = [f"model={reference_path('pkg', 'magnet_tiny')}", *musicgen[1:], f"audio={shards}"]
    settings = "++protocol.make.sampling.decoding_steps=[2,1,1,1]"
    cards = [
        evaluated(*magnet, SHORT, settings, f"batch_size={size}", f"out={tmp_path / str(size)}")
        for size in (1, 4)
    ]
    assert pieces(cards[0]) == pieces(cards[1])
    assert cards[0].sampling["decoding_steps"] == [2, 1, 1, 1]
    bands = reference_path("pkg", "mbd_tiny", "mbd_musicgen_32khz.th")
    common = [*musicgen, f"audio={shards}", SHORT, f"protocol.make.decoder={bands}"]
    cards = [evaluated(*common, f"batch_size={size}", f"out={tmp_path / f'bands {size}'}") for size in (1, 4)]
    assert pieces(cards[0]) == pieces(cards[1])
    evaluated(*musicgen, f"audio={shards}", SHORT, f"out={tmp_path / 'plain'}")
    assert audio(tmp_path / "plain") != audio(tmp_path / "bands 1")


def test_codecs_are_judged_by_what_they_make_of_the_reference(
    tmp_path: Path, shards: Path, musicgen: list[str], reference_path: Callable[..., Path]
) -> None:
    common = [f"audio={shards}", "~protocol.measures.visqol", "protocol.make.bandwidth=null"]
    codec = reference_path("pkg", "musicgen_tiny", "compression_state_dict.bin")
    card = evaluated(f"model={codec}", *common, f"out={tmp_path / 'codec'}", protocol="encodec")
    values = {m.name: m.value for m in [*card.measurements, *card.canaries]}
    assert values["SI-SDR"] == values["SI-SDR: codec reconstruction"]
    assert values["STFT distance"] > 0
    assert len({row.system for row in card.published}) == 4
    # A generator stands for its codec.
    again = evaluated(*musicgen, *common, f"out={tmp_path / 'of model'}", protocol="encodec")
    assert pieces(again)["measurements"] == card.measurements
    bands = reference_path("pkg", "mbd_tiny", "mbd_musicgen_32khz.th")
    card = evaluated(
        *musicgen, *common, f"protocol.make.decoder={bands}", f"out={tmp_path / 'mbd'}", protocol="mbd"
    )
    values = {m.name: m.value for m in [*card.measurements, *card.canaries]}
    assert values["mel-SNR"] != values["mel-SNR: codec reconstruction"]


def test_a_folder_of_audio_without_a_model(tmp_path: Path, shards: Path, folder: Path) -> None:
    theirs = tmp_path / "theirs"
    for i in range(1, NUM_ITEMS):
        wav, rate = read(folder / f"{i}.wav")
        write(theirs / f"{i}.wav", wav * (0.0 if i == 2 else 0.5), rate, subtype="FLOAT")
    (theirs / "3.wav").write_bytes(b"RIFF no audio")
    card = evaluated(f"audio_folder={theirs}", f"audio={shards}", f"out={tmp_path / 'out'}")
    assert card.missing.keys() == {"0", "3"}
    assert card.missing["0"] == "there is no file of this name"
    assert "3.wav is no audio" in card.missing["3"]
    assert card.faults == {"2": "silent"}
    assert card.model == str(theirs)
    assert any("no codec reconstruction" in warning for warning in card.warnings)
    rows = load_clips(tmp_path / "out")
    assert [row.key for row in rows] == ["1", "2", "4"]
    assert all(row.audio and (tmp_path / "out" / row.audio).exists() for row in rows)
    # The reference may be a folder too, and sets can be compared without common names.
    other = tmp_path / "other"
    for i in range(3):
        write(other / f"x{i}.wav", read(folder / f"{i}.wav")[0], RATE)
    offline = "wandb.mode=offline"
    card = evaluated(f"audio_folder={other}", f"audio={folder}", f"out={tmp_path / 'sets'}", offline)
    assert len(list((tmp_path / "sets" / "wandb").glob("offline-run-*"))) == 1
    assert card.num_clips == 3
    assert any("compared as sets" in warning for warning in card.warnings)
    assert card.measurements[0].value < 1e-6 + card.canaries[0].value


PAIRS = {
    "sdr": {
        "_target_": "eval.protocols.measures.PairedScores",
        "names": ["SI-SDR"],
        "metric": {"_target_": "eval.reconstruction.SiSDR", "_partial_": True},
        "meaning": "kept",
    }
}
TEXTS = {
    "clap": {
        "_target_": "eval.protocols.measures.CaptionScores",
        "embedder": {"_target_": "eval.embedders.LogMelEmbedder"},
        "names": ["CLAP"],
        "metric": {"_target_": "eval.clap_score.ClapScore", "_partial_": True},
        "meaning": "fits",
    }
}


def test_bad_input_is_one_line_before_any_work(tmp_path: Path, folder: Path, shards: Path) -> None:
    def refused(match: str, *overrides: object, **more: Any) -> None:
        with pytest.raises((ValueError, FileNotFoundError), match=match):
            evaluated(f"out={tmp_path / 'out'}", *overrides, **more)
        assert not (tmp_path / "out").exists()

    other, mixed, empty = tmp_path / "other", tmp_path / "mixed", tmp_path / "empty"
    write(other / "x.wav", torch.ones(1, 800) / 2, RATE)
    write(mixed / "0.wav", torch.ones(1, 800) / 2, RATE)
    write(mixed / "1.wav", torch.ones(1, 800) / 2, 16_000)
    empty.mkdir()
    given = f"audio={shards}"
    refused("give model=..., or audio_folder", given)
    refused("give model=..., or audio_folder", given, "model=x", "audio_folder=y")
    refused(
        "none of the 1 files .*'x'.* of the 5 clips .*sdr compare clip with",
        given,
        f"audio_folder={other}",
        measures=PAIRS,
    )
    refused("unlike rates: 1 is 16000 Hz, 0 is 32000 Hz", given, f"audio_folder={mixed}")
    refused("no audio in .*empty", given, f"audio_folder={empty}")
    refused("no audio in .*empty", f"audio={empty}", f"audio_folder={folder}")
    refused("no folder /nowhere", given, "audio_folder=/nowhere")
    refused("1 clips of", f"audio={other}", f"audio_folder={folder}")
    refused("are 32000 Hz.*16000 Hz", given, f"audio_folder={folder}", "protocol.sample_rate=16000")
    refused("5 of 5 clips .* no caption", f"audio={folder}", f"audio_folder={folder}", measures=TEXTS)
    refused("no column caption", f"audio={folder}", f"audio_folder={folder}", f"captions={table(tmp_path)}")
    refused("no split 'valid'", given, f"audio_folder={folder}", "protocol.dataset.split=valid")


def table(folder: Path) -> Path:
    path = folder / "captions.csv"
    path.write_text("key,text\n0,a tone\n")
    return path


def test_wrong_models_and_settings(
    tmp_path: Path, shards: Path, musicgen: list[str], reference_path: Callable[..., Path]
) -> None:
    def refused(match: str, *overrides: object, **more: Any) -> None:
        with pytest.raises(ValueError, match=match):
            evaluated(f"audio={shards}", f"out={tmp_path / 'out'}", *overrides, **more)
        assert not (tmp_path / "out").exists()

    codec = reference_path("pkg", "musicgen_tiny", "compression_state_dict.bin")
    refused("is a EnCodec; this protocol wants a model that generates", f"model={codec}")
    refused("unknown sampling settings", *musicgen, "++protocol.make.sampling.top_q=1")
    refused("takes no melody", *musicgen, "protocol.make.follow=melody")


def test_absent_weights_are_an_error_before_the_model_is_opened(
    tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("LIGHTNING_AUDIO_WEIGHTS", "TORCH_HOME", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
    torch.hub.set_dir(str(tmp_path / "nothing"))
    arguments = ["protocol=musicgen-musiccaps", f"audio={shards}", "protocol.dataset.min_duration=0"]
    assert main(["evaluate", *arguments, "model=/nowhere", f"out={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert "vggish-10086976.pth" in error[0]
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "generated").mkdir()
    (tmp_path / "generated" / "mine.wav").write_bytes(b"")
    with pytest.raises(ValueError, match="holds files of something else"):
        Generations(tmp_path, {}).open()


def nodes(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield value
        for child in value.values():
            yield from nodes(child)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_fits_its_constructors_and_names_its_source(name: str) -> None:
    overrides = [f"protocol={name}", "audio=x"] + (
        ["protocol.sample_rate=16000"] if name == "log-mel" else []
    )
    protocol = resolve(compose_config("evaluate", overrides))["protocol"]
    assert protocol["name"] == name
    for node in nodes(protocol):
        target = get_object(node["_target_"])
        keywords = {key: value for key, value in node.items() if not key.startswith("_")}
        signature = inspect.signature(target)
        bind = signature.bind_partial if node.get("_partial_") else signature.bind
        bind(**keywords)
    if name == "quickstart":
        return
    measures = protocol["measures"].values()
    names = {label for measure in measures for label in measure.get("names", measure.get("distances"))}
    assert names
    assert all(set(row["values"]) <= names and row["source"] for row in protocol["published"])
    header = (CONFIGS / "protocol" / f"{name}.yaml").read_text()
    assert all(f"# {word}:" in header for word in ("Source", "Command"))


def test_the_items_of_published_models_are_those_of_the_papers() -> None:
    for name, expected in {
        "musicgen-musiccaps": (32000, 10.0, 20.0),
        "audiogen-audiocaps": (16000, 10.0, 10.0),
    }.items():
        protocol = resolve(compose_config("evaluate", [f"protocol={name}", "audio=x"]))["protocol"]
        found = (protocol["sample_rate"], protocol["make"]["duration"], protocol["tagger_segment"])
        assert found == expected
        sampling = protocol["make"]["sampling"]
        assert (sampling["top_k"], sampling["temperature"], sampling["cfg_coef"]) == (250, 1.0, 3.0)
