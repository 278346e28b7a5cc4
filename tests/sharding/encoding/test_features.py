"""What is kept of frozen encoders is what they say of each clip by itself."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, ClapConfig, ClapFeatureExtractor, ClapModel, ClapProcessor

from lightning_audio import audio
from lightning_audio.conditioning.base import Precomputed, WavCondition
from lightning_audio.conditioning.chroma import ChromaConditioner
from lightning_audio.conditioning.clap import ClapConditioner
from lightning_audio.conditioning.text import T5Conditioner
from sharding.checking.check import check
from sharding.encoding.clips import Heard
from sharding.encoding.encode import encode
from sharding.encoding.features import ChromaFeature, ClapFeature, TextFeature, to_array
from sharding.read import read_part
from sharding.schema import DatasetInfo, FeatureInfo, ShardIndex, parse_array, parse_feature
from sharding.sources import find_clips
from sharding.writing.write import write_shards

RATE, CPU = 8000, torch.device("cpu")


def tone(frequency: float, seconds: float, rate: int = RATE) -> torch.Tensor:
    return 0.5 * torch.sin(2 * torch.pi * frequency * torch.arange(int(seconds * rate)) / rate)[None]


@pytest.fixture
def t5(reference_path: Callable[..., Path]) -> T5Conditioner:
    return T5Conditioner(name="t5-small", path=str(reference_path("t5", "t5-small")))


@pytest.fixture(scope="module")
def clap_folder(tmp_path_factory: pytest.TempPathFactory, reference_path: Callable[..., Path]) -> Path:
    """A CLAP of 16 dimensions and random weights."""
    folder = tmp_path_factory.mktemp("clap")
    tokenizer = AutoTokenizer.from_pretrained(reference_path("t5", "t5-small"))
    layers = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 1}
    sound = {
        "depths": [1, 1],
        "num_attention_heads": [1, 1],
        "patch_embeds_hidden_size": 8,
        "hidden_size": 16,
    }
    patches = {"window_size": 4, "spec_size": 64, "num_mel_bins": 16, "patch_size": 4, "patch_stride": [4, 4]}
    torch.manual_seed(1)
    config = ClapConfig(
        text_config={**layers, "vocab_size": len(tokenizer)}, audio_config=sound | patches, projection_dim=16
    )
    ClapModel(config).save_pretrained(folder)
    heard = ClapFeatureExtractor(
        feature_size=16, sampling_rate=48_000, max_length_s=1, truncation="rand_trunc", padding="repeatpad"
    )
    ClapProcessor(heard, tokenizer).save_pretrained(folder)
    return folder


def test_each_text_has_its_own_encoding(t5: T5Conditioner) -> None:
    feature = TextFeature(t5, dtype="float32")
    texts = ["a slow warm bell", "rain", ""]
    made = feature({"description": texts}, None, CPU)
    live = t5(t5.prepare(texts))  # in a batch, padded
    assert made[2] is None
    for vectors, row, mask in zip(made[:2], live.embedding, live.mask, strict=False):
        assert vectors is not None
        torch.testing.assert_close(vectors, row[mask], rtol=1e-5, atol=1e-5)
    assert torch.equal(feature({"description": "rain"}, None, CPU)[0], made[1])  # type: ignore[arg-type]
    assert feature({}, None, CPU) == feature({"description": None}, None, CPU) == [None]
    assert feature.info.encoder_hash == t5.encoder_hash
    assert feature.info.per_text


def test_texts_of_shards_are_kept_and_named(t5: T5Conditioner, tmp_path: Path) -> None:
    for i, about in enumerate(
        ({"description": ["one", "two words"]}, {"description": "rain"}, {"genre": "rock"})
    ):
        audio.write(tmp_path / f"in/{i}.wav", tone(200 + 50 * i, 0.5), RATE)
        (tmp_path / f"in/{i}.json").write_text(json.dumps(about))
    write_shards(find_clips(tmp_path / "in"), tmp_path / "audio", fractions={"train": 1.0})
    encode(tmp_path / "audio", tmp_path / "out", None, None, features=[TextFeature(t5)])
    info = DatasetInfo.load(tmp_path / "out/train")
    about = info.features["t5"]
    assert (about.attribute, about.encoder, about.dim, about.dtype) == ("description", "t5-small", 512, "<f2")
    assert info.codes is None
    found = check(tmp_path / "out")
    assert found.ok, found.problems
    assert found.parts == {"json": 3, "wav": 3, "t5.npy": 2, "t5.1.npy": 1}
    tar = tmp_path / "out/train/000000.tar"
    index = ShardIndex.load(tar.with_suffix(".index.json"))
    with tar.open("rb") as file:
        data = read_part(file, index, index.keys.index("0"), "t5.1.npy")
    live = t5(t5.prepare(["two words"])).embedding[0]
    np.testing.assert_allclose(parse_feature(data, about, "t5"), live.numpy(), rtol=1e-3, atol=1e-3)


def test_chroma_is_the_conditioners_own() -> None:
    feature = ChromaFeature(sample_rate=RATE, radix2_exp=10)
    wav = torch.cat([tone(440, 0.5), tone(523.25, 0.5)], dim=1)
    (made,) = feature({}, Heard(wav, RATE), CPU)
    conditioner = ChromaConditioner(sample_rate=RATE, radix2_exp=10).eval()
    live = conditioner(conditioner.prepare([WavCondition(wav, RATE)]))
    assert made is not None
    assert torch.equal(made, live.embedding[0])
    assert made[0, 9] == made[-1, 0] == 1  # A, then C
    # As float16, zeros and ones are what they were.
    assert np.array_equal(to_array(made, feature.info.dtype), made.numpy())
    assert feature.info.frame_rate == RATE / 256
    other = ChromaFeature(sample_rate=RATE, radix2_exp=11).info
    assert other.encoder_hash != feature.info.encoder_hash


def test_clap_is_kept_window_by_window(clap_folder: Path) -> None:
    options = {"dim": 16, "path": str(clap_folder), "window": 1.0, "stride": 0.5}
    feature = ClapFeature(ClapConditioner(quantizer=None, **options), dtype="float32")  # type: ignore[arg-type]
    wav = torch.cat([tone(300, 1.0), tone(3000, 1.0)], dim=1)
    (made,) = feature({"description": "not heard"}, Heard(wav, RATE), CPU)
    assert made is not None
    assert made.shape == (3, 16)
    conditioner = ClapConditioner(quantizer=None, **options).eval()  # type: ignore[arg-type]

    def vector(value: object) -> torch.Tensor:
        return conditioner(conditioner.prepare([value])).embedding[0, 0]

    # Their mean is the live vector of the whole; those of a segment's windows, of the segment.
    torch.testing.assert_close(vector(Precomputed(made)), vector(WavCondition(wav, RATE)))
    second = feature.info.steps(0.5, 1.5)
    torch.testing.assert_close(
        vector(Precomputed(made[second])),
        vector(WavCondition(wav[:, RATE // 2 :], RATE)),
        rtol=1e-3,
        atol=1e-3,
    )
    (short,) = feature({}, Heard(tone(300, 0.3), RATE), CPU)
    assert short is not None
    assert short.shape == (1, 16)


@pytest.mark.parametrize(
    ("window", "start", "duration", "steps"),
    [
        (0.0, 0.0, 2.0, (0, 9)),  # the first and the last frame lie on the segment's ends
        (0.0, 1.1, 0.3, (4, 6)),
        (1.0, 0.5, 2.0, (2, 7)),
        (1.0, 0.5, 0.4, (2, 3)),  # shorter than a window: one all the same
        (0.0, 1.0, None, (4, None)),
    ],
)
def test_steps_of_a_segment(
    window: float, start: float, duration: float | None, steps: tuple[int, int | None]
) -> None:
    info = FeatureInfo(
        attribute="a", encoder="", encoder_hash="", dim=1, dtype="<f2", frame_rate=4.0, window=window
    )
    assert info.steps(start, duration) == slice(*steps)


def test_what_float16_cannot_hold_is_refused() -> None:
    vectors = torch.tensor([[1.0, -70000.0]])
    with pytest.raises(ValueError, match="is 70000, float16 holds up to 65504"):
        to_array(vectors, "<f2")
    assert to_array(vectors, "<f4").tolist() == vectors.tolist()
    with pytest.raises(ValueError, match="is nan"):
        to_array(torch.tensor([[float("nan")]]), "<f4")
    with pytest.raises(ValueError, match="'bfloat16'"):
        ChromaFeature(sample_rate=RATE, dtype="bfloat16")


def test_only_plain_arrays_are_read() -> None:
    def npy(array: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=True)
        return buffer.getvalue()

    info = FeatureInfo(attribute="a", encoder="", encoder_hash="", dim=3, dtype="<f2")
    good = np.arange(6, dtype=np.float16).reshape(2, 3)
    assert np.array_equal(parse_feature(npy(good), info, "t5"), good)
    for array in (
        good.astype(np.float32),
        good[0],
        good.astype(">f2"),
        np.asfortranarray(good),
        np.array([[{}]]),
    ):
        with pytest.raises(ValueError, match=r"t5 are no \.npy of float16"):
            parse_feature(npy(array), info, "t5")
    with pytest.raises(ValueError, match="is 2 wide, the dataset says 3"):
        parse_feature(npy(good[:, :2].copy()), info, "t5")
    with pytest.raises(ValueError, match="NaN"):
        parse_feature(npy(np.full_like(good, np.inf)), info, "t5")
    with pytest.raises(ValueError, match="should have 12 bytes, they have 11"):
        parse_feature(npy(good)[:-1], info, "t5")
    with pytest.raises(ValueError, match=r"no \.npy of <i8"):
        parse_array(npy(good.astype(np.int64)), dtype="<i8", what="x")
