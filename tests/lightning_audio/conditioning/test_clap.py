"""CLAP as a condition, on a tiny CLAP with random weights in the form of transformers."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lightning_audio.codec.quantizer import ResidualVectorQuantizer
from lightning_audio.conditioning.base import Precomputed, WavCondition
from lightning_audio.conditioning.clap import ClapConditioner
from lightning_audio.conditioning.conditioning import Conditioning
from lightning_audio.conditioning.dropout import drop_all
from lightning_audio.conditioning.guidance import with_null

RATE = 48_000


@pytest.fixture(scope="module")
def clap_folder(tmp_path_factory: pytest.TempPathFactory, reference_path: Callable[..., Path]) -> Path:
    """A CLAP of 16 dimensions, whose tokeniser is that of the vectors' T5."""
    from transformers import AutoTokenizer, ClapConfig, ClapFeatureExtractor, ClapModel, ClapProcessor

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clap")
    tokenizer = AutoTokenizer.from_pretrained(reference_path("t5", "t5-small"))
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 90,
    }
    audio = {
        "window_size": 4,
        "patch_embeds_hidden_size": 8,
        "depths": [1, 1],
        "num_attention_heads": [2, 2],
        "hidden_size": 16,
        "spec_size": 64,
        "num_mel_bins": 16,
        "patch_size": 4,
        "patch_stride": [4, 4],
    }
    config = ClapConfig(text_config=text, audio_config=audio, projection_dim=16)
    ClapModel(config).save_pretrained(folder)
    features = ClapFeatureExtractor(
        feature_size=16, sampling_rate=RATE, max_length_s=1, truncation="rand_trunc", padding="repeatpad"
    )
    ClapProcessor(features, tokenizer).save_pretrained(folder)
    return folder


def make(folder: Path, **options: Any) -> ClapConditioner:
    given: dict[str, Any] = {"dim": 16, "window": 1.0, "stride": 0.25, "quantizer": None, **options}
    return ClapConditioner(path=str(folder), **given)


def tone(seconds: float, frequency: float = 440.0) -> WavCondition:
    time = torch.arange(int(seconds * RATE)) / RATE
    return WavCondition(torch.sin(2 * torch.pi * frequency * time)[None], RATE)


def vectors(conditioner: ClapConditioner, values: list[Any], **options: Any) -> torch.Tensor:
    return conditioner(conditioner.prepare(values, **options)).embedding[:, 0]


def test_text_and_audio_are_clap_s_own_vectors(clap_folder: Path) -> None:
    from transformers import ClapModel, ClapProcessor

    clap, processor = (
        ClapModel.from_pretrained(clap_folder).eval(),
        ClapProcessor.from_pretrained(clap_folder),
    )
    conditioner = make(clap_folder).eval()
    wav = tone(1.5)
    texts = processor.tokenizer(["a bell"], padding="max_length", max_length=77, return_tensors="pt")
    windows = [wav.wav[0, start : start + RATE].numpy() for start in (0, RATE // 4, RATE // 2)]
    heard = processor.feature_extractor(windows, sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        said = clap.get_text_features(**{k: texts[k] for k in ("input_ids", "attention_mask")})
        sounds = clap.get_audio_features(input_features=heard["input_features"])
    expected = [getattr(v, "pooler_output", v).mean(dim=0) for v in (said, sounds)]
    found = vectors(conditioner, ["a bell", wav, None])
    for row, vector in zip(found, expected, strict=False):
        torch.testing.assert_close(row, F.normalize(vector, dim=0))
    assert conditioner(conditioner.prepare(["a bell", None, ""])).mask[:, 0].tolist() == [True, False, False]
    raw = make(clap_folder, normalize=False).eval()
    torch.testing.assert_close(vectors(raw, ["a bell"])[0], expected[0])
    assert not conditioner.state_dict()


def test_audio_in_training_text_in_use(clap_folder: Path) -> None:
    wav = tone(0.5)
    conditioner = make(clap_folder).eval()
    by_text, by_audio = vectors(conditioner, ["a bell"]), vectors(conditioner, [wav])
    assert torch.equal(vectors(conditioner, [("a bell", wav)]), by_text)
    conditioner.train()
    torch.testing.assert_close(vectors(conditioner, [("a bell", wav)]), by_audio)
    conditioner.text_p = 0.5
    rng = random.Random(0)
    shares = [torch.equal(vectors(conditioner, [("a bell", wav)], rng=rng), by_text) for _ in range(20)]
    assert 5 < sum(shares) < 15


def test_precomputed_equals_live(clap_folder: Path) -> None:
    conditioner = make(clap_folder).eval()
    live = vectors(conditioner, ["a bell", tone(0.5)])
    ahead = [Precomputed(row[None]) for row in live]
    fresh = make(clap_folder / "absent").eval()  # needs no CLAP at all
    torch.testing.assert_close(vectors(fresh, ahead), live)
    with pytest.raises(ValueError, match="3 wide"):
        fresh.prepare([Precomputed(torch.zeros(1, 3))])


def test_neighbours_do_not_matter(clap_folder: Path) -> None:
    conditioner = make(clap_folder).eval()
    values = [tone(0.5), "a bell", tone(1.6, 880.0), None]
    together = vectors(conditioner, values)
    assert not torch.allclose(together[0], together[2])
    for row, value in enumerate(values):
        torch.testing.assert_close(vectors(conditioner, [value])[0], together[row])


def test_codes_are_learnt_in_training(clap_folder: Path) -> None:
    quantizer = ResidualVectorQuantizer(dim=16, num_codebooks=3, cardinality=4)
    conditioner = make(clap_folder, quantizer=quantizer).train()
    tones = [tone(0.3, 200.0 * n) for n in range(1, 9)]
    vectors(conditioner, [*tones, None], rng=random.Random(0))
    assert quantizer.codebooks.inited.all()
    assert quantizer.codebooks.count.sum(dim=1).tolist() == pytest.approx([8.0] * 3, rel=0.2)
    conditioner.eval()
    known = quantizer.decode(quantizer.encode(vectors(make(clap_folder).eval(), tones).t()[None]))[0].t()
    torch.testing.assert_close(vectors(conditioner, tones), known)


def test_guidance_drops_it_here_and_keeps_it_as_in_audiocraft(clap_folder: Path) -> None:
    items = [{"description": "a bell"}]
    for droppable in (True, False):
        conditioner = make(clap_folder, droppable=droppable)
        model = Conditioning(
            conditioners={"description": conditioner}, dim=8, fuse={"cross": ["description"]}
        ).eval()
        rows = model(with_null(items, keep=model.kept))
        assert rows.cross is not None
        assert bool(rows.cross[1].any()) is not droppable
        assert (drop_all(items, keep=model.kept) == items) is not droppable


def test_what_is_no_clap_is_named(clap_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="larger_clap_music"):
        make(tmp_path).prepare(["a bell"])
    with pytest.raises(ValueError, match="embeds in 16, the model wants 512"):
        _ = make(clap_folder, dim=512).clap
    with pytest.raises(ValueError, match="hears 48000 Hz"):
        make(clap_folder, sample_rate=44_100).prepare(["a bell"])
    with pytest.raises(ValueError, match="got a str"):
        make(clap_folder).prepare([("a bell", "a sound")])
    with pytest.raises(ValueError, match="text_p"):
        make(clap_folder, text_p=2.0)
