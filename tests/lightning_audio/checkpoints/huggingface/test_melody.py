"""MusicGen-Melody: the same weights give the same logits and greedy tokens here and in `transformers`.

Its feature extractor needs torchaudio; so the chroma that goes in there is made here. That our chromagram is the
original's is tested in tests/lightning_audio/conditioning.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import MusicgenMelodyForConditionalGeneration
from transformers.audio_utils import chroma_filter_bank
from transformers.models.musicgen_melody.feature_extraction_musicgen_melody import (
    MusicgenMelodyFeatureExtractor,
)

from lightning_audio.checkpoints.huggingface.folder import read_huggingface, write_huggingface
from lightning_audio.checkpoints.huggingface.melody import read_melody, write_melody
from lightning_audio.checkpoints.stored import take_apart
from lightning_audio.conditioning.base import WavCondition
from lightning_audio.conditioning.chroma import Chromagram

FRAMES = 20
SHAPES: dict[str, dict[str, Any]] = {
    "mono": {},
    "stereo": {"num_codebooks": 8, "audio_channels": 2},
    "text_as_wide": {"width": 32},
    "short": {"chroma_length": 5},
}


def melodies(chromagram: Any, count: int, num_samples: int = 40_000) -> tuple[list[WavCondition], Tensor]:
    """Noise of unlike colours, and its chroma [B, T, 12]."""
    torch.manual_seed(5)
    wavs = [torch.randn(1, num_samples).cumsum(-1) / 100 for _ in range(count)]
    return [WavCondition(wav, 32000) for wav in wavs], chromagram(torch.stack(wavs))


def attributes_of(texts: Any, waveforms: list[WavCondition] | None) -> list[dict[str, Any]]:
    return [
        {"description": text, "melody": None if waveforms is None else waveforms[row]}
        for row, text in enumerate(texts)
    ]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("given", [True, False])
def test_logits_equal_transformers(given: bool, shape: str, theirs: Any, tmp_path: Path) -> None:
    model = theirs.melody(**SHAPES[shape])
    folder = theirs.save(model, tmp_path)
    lm = read_huggingface(folder).assemble().lm
    waveforms, chroma = melodies(lm.conditioning.conditioners["melody"].chromagram, 3)
    assert chroma.shape[1:] == (10, 12)
    codes = torch.randint(theirs.special + 1, (3, lm.num_codebooks, 30))
    options = {"input_features": chroma} if given else {}
    inputs = theirs.inputs(folder, theirs.texts)
    wanted = model(**inputs, **options, decoder_input_ids=codes.flatten(0, 1)).logits[:, -30:]
    conditions = lm.conditioning(attributes_of(theirs.texts, waveforms if given else None))
    assert conditions.prepend.shape[1] == model.config.chroma_length + inputs["input_ids"].shape[1]
    torch.testing.assert_close(lm(codes, conditions).flatten(0, 1), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("given", [True, False])
def test_greedy_tokens_equal_transformers(given: bool, shape: str, theirs: Any, tmp_path: Path) -> None:
    model = theirs.melody(**SHAPES[shape])
    folder = theirs.save(model, tmp_path)
    ours = read_huggingface(folder).assemble()
    waveforms, chroma = melodies(ours.lm.conditioning.conditioners["melody"].chromagram, 3)
    options = {"input_features": chroma} if given else {}
    inputs = theirs.inputs(folder, theirs.texts)
    wanted = theirs.tokens(model, FRAMES, **inputs, **options, guidance_scale=3.0)
    found = ours.generate_tokens(
        theirs.texts,
        attributes=attributes_of(theirs.texts, waveforms if given else None),
        duration=FRAMES / ours.frame_rate,
        use_sampling=False,
        cfg_coef=3.0,
    )
    assert torch.equal(found, wanted)
    assert len(found.unique()) > 8


def test_the_melody_counts(theirs: Any, tmp_path: Path) -> None:
    ours = read_melody(theirs.save(theirs.melody(), tmp_path)).assemble()
    waveforms, _ = melodies(ours.lm.conditioning.conditioners["melody"].chromagram, 2)
    options: dict[str, Any] = {"duration": FRAMES / ours.frame_rate, "use_sampling": False}
    one, other, none = (
        ours.generate_tokens(["piano"], attributes=attributes_of(["piano"], melody), **options)
        for melody in (waveforms[:1], waveforms[1:], None)
    )
    assert not torch.equal(one, other)
    assert not torch.equal(one, none)


@pytest.mark.parametrize("num_samples", [9_001, 200_000])
def test_the_chroma_equals_that_of_transformers(num_samples: int) -> None:
    """Their extractor at work, with torch's spectrogram in place of torchaudio's."""
    extractor = object.__new__(MusicgenMelodyFeatureExtractor)
    extractor.n_fft = 2**14
    filters = chroma_filter_bank(num_frequency_bins=2**14, num_chroma=12, sampling_rate=32000, tuning=0)
    extractor.chroma_filters = torch.from_numpy(filters).float()
    window = torch.hann_window(2**14)

    def spectrogram(wav: Tensor) -> Tensor:
        spectrum = torch.stft(wav, 2**14, 2**12, window=window, return_complex=True)
        return spectrum.abs().square() / window.square().sum()

    extractor.spectrogram = spectrogram
    chromagram = Chromagram(sample_rate=32000)
    _, chroma = melodies(chromagram, 2, num_samples)
    waveforms, _ = melodies(chromagram, 2, num_samples)
    wanted = extractor._torch_extract_fbank_features(torch.cat([value.wav for value in waveforms]))
    assert torch.equal(chroma, wanted)


def test_the_published_length_is_thirty_seconds(theirs: Any, tmp_path: Path) -> None:
    stored = read_melody(theirs.save(theirs.melody(chroma_length=235), tmp_path))
    chroma = stored.config["lm"]["conditioning"]["conditioners"]["melody"]
    assert chroma["duration"] == 30.0
    assert stored.assemble().lm.conditioning.conditioners["melody"].num_frames == 235


def test_chromagrams_that_are_not_known(theirs: Any, tmp_path: Path) -> None:
    folder = theirs.save(theirs.melody(chroma_length=4), tmp_path)
    with pytest.raises(ValueError, match="a melody of 4 frames; one window alone makes 5"):
        read_melody(folder)
    (folder / "preprocessor_config.json").write_text('{"n_fft": 4096}')
    with pytest.raises(ValueError, match="4096 samples every 4096"):
        read_melody(folder)


@pytest.mark.parametrize("shape", SHAPES)
def test_there_and_back(shape: str, theirs: Any, tmp_path: Path) -> None:
    model = theirs.melody(**SHAPES[shape])
    stored = take_apart(read_huggingface(theirs.save(model, tmp_path / "theirs")).assemble())
    folder = write_huggingface(stored, tmp_path / "ours")
    opened, info = MusicgenMelodyForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert opened.config.chroma_length == model.config.chroma_length
    for name, tensor in model.state_dict().items():
        assert torch.equal(opened.state_dict()[name], tensor), name
    inputs = theirs.inputs(folder, theirs.texts)
    chroma = torch.eye(12)[torch.arange(36).view(3, 12) % 7]
    tokens = theirs.tokens(opened, FRAMES, **inputs, input_features=chroma, guidance_scale=3.0)
    wanted = theirs.tokens(model, FRAMES, **inputs, input_features=chroma, guidance_scale=3.0)
    assert torch.equal(tokens, wanted)
    again = read_huggingface(folder)
    assert again.config["codec"] == stored.config["codec"]
    for part, weights in stored.weights.items():
        assert all(torch.equal(again.weights[part][name], tensor) for name, tensor in weights.items())


def test_models_that_transformers_cannot_hold(theirs: Any, tmp_path: Path) -> None:
    stored = read_melody(theirs.save(theirs.melody(), tmp_path / "theirs"))
    conditioning = stored.config["lm"]["conditioning"]
    chroma = conditioning["conditioners"]["melody"]
    for node, option, value, message in (
        (conditioning, "mask_padding", True, "masks the padding"),
        (chroma, "silence_for_none", False, "silence_for_none=False"),
        (chroma, "duration", None, "duration=None"),
        (stored.config["lm"], "rotary", True, "rotary=True"),
        (conditioning, "fuse", {"cross": ["description"], "prepend": ["melody"]}, "by prepend; this one"),
    ):
        before = node.get(option)
        node[option] = value
        with pytest.raises(ValueError, match=message):
            write_melody(stored, tmp_path / "ours")
        node[option] = before if option != "rotary" else False
    assert not (tmp_path / "ours" / "config.json").exists()
