"""Style equals the original's numbers, from the excerpt to the tokens; and what its options promise."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_audio.checkpoints.audiocraft.conditioners import read_conditioning
from lightning_audio.checkpoints.audiocraft.lm import lm_node
from lightning_audio.checkpoints.audiocraft.lm_state import convert_state
from lightning_audio.checkpoints.keymap import load_strict
from lightning_audio.checkpoints.stored import build
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.codec.quantizer import ResidualVectorQuantizer
from lightning_audio.conditioning.base import WavCondition
from lightning_audio.conditioning.conditioning import with_seeds
from lightning_audio.conditioning.features import MertFeatures, StyleFeatures
from lightning_audio.conditioning.style import StyleConditioner
from lightning_audio.lm.autoregressive import generate_codes
from lightning_audio.lm.sampling import PerItemSampler, SamplingSettings, greedy
from lightning_audio.lm.token_lm import TokenLM


@pytest.fixture(scope="module")
def case(reference_path: Callable[..., Path]) -> dict[str, Any]:
    return torch.load(reference_path("lm", "style.pt"), weights_only=True)


@pytest.fixture(scope="module")
def style_lm(
    case: dict[str, Any], reference_path: Callable[..., Path], read_codec: Callable[..., EnCodec]
) -> Callable[..., tuple[TokenLM, StyleConditioner]]:
    """The model of the vectors, which heard the middle of each waveform unless it says otherwise."""
    package = reference_path("pkg", "musicgen_tiny", "compression_state_dict.bin")
    codec = read_codec(torch.load(package, weights_only=True)["best_state"])

    def read(*, middle: bool = True, dropout: float = 0.0) -> tuple[TokenLM, StyleConditioner]:
        conditioning = read_conditioning(
            case["config"], text_encoder=reference_path("t5"), state=case["state_dict"]
        )
        conditioning["conditioners"]["style"] |= {"middle": middle, "dropout": dropout}
        lm = build(lm_node(case["config"], conditioning))
        load_strict(lm, convert_state(case["state_dict"]))
        lm.conditioning.use_codec(codec)
        return lm.eval(), lm.conditioning.conditioners["style"]

    return read


@pytest.fixture(scope="module")
def items(case: dict[str, Any]) -> list[dict[str, Any]]:
    inputs = case["inputs"]
    return [
        {"description": text, "style": WavCondition(wav, 32000)}
        for text, wav in zip(inputs["texts"], inputs["wavs"], strict=True)
    ]


def conditions(lm: TokenLM, items: list[dict[str, Any]]) -> Tensor:
    return lm.conditioning.encode(lm.conditioning.prepare(items))["style"].embedding


def test_condition_logits_and_tokens_equal_the_original(
    case: dict[str, Any], style_lm: Callable[..., Any], items: list[dict[str, Any]]
) -> None:
    lm, style = style_lm()
    expected = case["outputs"]
    close: dict[str, Any] = {"rtol": 1e-5, "atol": 2e-6}
    torch.testing.assert_close(
        conditions(lm, items), expected["condition_tensors"]["self_wav"]["cond"], **close
    )
    null = lm.conditioning.encode(lm.conditioning.prepare([{}, {}]))["style"]
    assert torch.equal(null.embedding, expected["condition_null"]["self_wav"]["cond"])
    assert not null.mask.any()
    counted = style.counted(style.prepare([item["style"] for item in items]), 100)
    assert torch.equal(counted, expected["loss_mask_eval"][:, 0])
    logits, there = lm.predictions(case["inputs"]["codes"], lm.conditioning(items))
    torch.testing.assert_close(logits[:, there], expected["logits"][:, there], rtol=1e-5, atol=1e-5)
    plain = generate_codes(lm, items, num_frames=12, sampler=greedy, cfg_coef=3.0)
    assert torch.equal(plain, expected["greedy_cfg3"])
    double = generate_codes(lm, items, num_frames=12, sampler=greedy, cfg_coef=3.0, cfg_coef_beta=5.0)
    assert torch.equal(double, expected["greedy_double_cfg"])


def test_double_guidance_in_one_pass_or_three(style_lm: Callable[..., Any], items: list[Any]) -> None:
    lm, _ = style_lm()
    lm.conditioning.mask_padding = True  # else the passes' own padding counts
    options: dict[str, Any] = {"num_frames": 12, "sampler": greedy, "cfg_coef": 3.0}
    one = generate_codes(lm, items, cfg_coef_beta=4.0, **options)
    assert torch.equal(generate_codes(lm, items, cfg_coef_beta=4.0, two_step_cfg=True, **options), one)
    assert not torch.equal(generate_codes(lm, items, **options), one)
    plain = generate_codes(lm, items, cfg_coef_beta=1.0, **options)
    assert torch.equal(plain, generate_codes(lm, items, **options))


def test_a_random_excerpt_is_the_original_s(
    case: dict[str, Any], style_lm: Callable[..., Any], items: list[dict[str, Any]]
) -> None:
    lm, style = style_lm(middle=False)
    wavs = [item["style"] for item in items]
    for rng in (random.Random(5), None):
        random.seed(5)  # AudioCraft draws from Python's global generator
        assert style.prepare(wavs, rng=rng)["start"].tolist() == [case["outputs"]["random_start"]] * 2
    random.seed(5)
    expected = case["outputs"]["condition_random_excerpt"]["self_wav"]["cond"]
    torch.testing.assert_close(conditions(lm, items), expected, rtol=1e-5, atol=2e-6)


def test_a_training_step_s_condition_is_the_original_s(
    case: dict[str, Any], style_lm: Callable[..., Any], items: list[dict[str, Any]]
) -> None:
    """Excerpt, normalisation by the batch, mask. The original's quantiser had drawn 2 levels."""
    lm, style = style_lm(middle=False)
    expected = case["outputs"]["train_seed42"]
    before = style.batch_norm.running_mean.clone()
    style.train()
    style.quantizer.num_codebooks, style.quantizer.dropout = 2, False
    random.seed(42)
    prepared = style.prepare([item["style"] for item in items])
    assert prepared["length"].tolist() == [expected["length_subwav"]] * 2
    assert torch.equal(style.counted(prepared, 100), expected["loss_mask"][:, 0])
    embedding = lm.conditioning.output_proj["style"](style(prepared).embedding)
    torch.testing.assert_close(embedding, expected["cond"], rtol=1e-5, atol=2e-6)
    assert not torch.equal(style.batch_norm.running_mean, before)


class Spectrum(StyleFeatures):
    """Features that need no weights of others: levels of a few bands, and a linear layer."""

    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.dim = dim
        self.embed = torch.nn.Linear(33, dim)

    @torch.no_grad()
    def extract(self, wav: Tensor, sample_rate: int) -> Tensor:
        spectrum = torch.stft(wav[:, 0], 64, 32, window=torch.hann_window(64), return_complex=True)
        return spectrum.abs().transpose(1, 2)

    def nothing(self, batch_size: int, device: torch.device) -> Tensor:
        return torch.zeros(batch_size, 1, 33, device=device)

    def forward(self, extracted: Tensor) -> Tensor:
        return self.embed(extracted)


def make(**options: Any) -> StyleConditioner:
    torch.manual_seed(0)
    quantizer = ResidualVectorQuantizer(dim=16, num_codebooks=4, cardinality=8, dropout=True)
    given: dict[str, Any] = {"num_layers": 1, "num_heads": 2, "downsampling": 5, "code_frame": 20}
    given |= {"sample_rate": 1000, "excerpt": 0.5, "excerpt_range": (0.2, 0.8), **options}
    return StyleConditioner(features=Spectrum(), quantizer=quantizer, **given)


def noise(seconds: float, seed: int = 0) -> WavCondition:
    wav = torch.randn(1, int(seconds * 1000), generator=torch.Generator().manual_seed(seed))
    return WavCondition(wav, 1000)


def test_another_style_says_something_else_and_neighbours_nothing() -> None:
    style = make().eval()
    values = [noise(2.0), noise(0.3, seed=1), None, noise(3.0, seed=2)]
    together = style(style.prepare(values, rng=random.Random(3)))
    assert together.mask.any(dim=1).tolist() == [True, True, False, True]
    assert not torch.equal(together.embedding[0], together.embedding[3])
    for row, value in enumerate(values):
        alone = style(style.prepare([value], rng=random.Random(3)))
        if value is not None:
            torch.testing.assert_close(alone.embedding[0], together.embedding[row])


def test_a_seed_holds_the_excerpt() -> None:
    style = make().eval()
    items = with_seeds([{"style": noise(9.0)}, {"style": noise(9.0)}, {"style": None}], [1, 2, 3])
    first = style.prepare([item["style"] for item in items])
    assert first["start"][0] != first["start"][1]
    random.seed(99)
    again = style.prepare([item["style"] for item in items[::-1]])
    assert again["start"].flip(0).tolist() == first["start"].tolist()


def test_frames_of_the_excerpt_are_not_asked_for() -> None:
    style = make(middle=True).eval()
    prepared = style.prepare([noise(2.0), None])
    counted = style.counted(prepared, 100)
    assert counted is not None
    assert (~counted[0]).nonzero()[:, 0].tolist() == list(range(750 // 20, 750 // 20 + 500 // 20))
    assert counted[1].all()
    assert make(code_frame=None).counted(prepared, 100) is None


def test_learning_is_by_what_was_heard_only() -> None:
    style = make().train()
    rng = random.Random(0)
    before = {name: value.clone() for name, value in style.state_dict().items()}
    silent = style(style.prepare([None, None], rng=rng))
    assert all(torch.equal(value, before[name]) for name, value in style.state_dict().items())
    # Every parameter takes part, with no gradient: a rank that dropped its batch must not wait for it.
    (silent.embedding * silent.mask[..., None]).sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in style.parameters())
    heard = style(style.prepare([noise(2.0), None], rng=rng))
    heard.embedding[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in style.parameters())
    assert style.quantizer.codebooks.inited.any()
    assert style.batch_norm is not None
    assert style.batch_norm.running_mean is not None
    assert not torch.equal(style.batch_norm.running_mean, before["batch_norm.running_mean"])


def test_draws_of_training_follow_from_the_generator() -> None:
    results = []
    for _ in range(2):
        style = make().train()
        rng = random.Random(7)
        embeddings = [style(style.prepare([noise(2.0)], rng=rng)).embedding for _ in range(3)]
        torch.rand(5)  # the global generator has no say
        results.append(torch.cat(embeddings, dim=1))
    assert torch.equal(*results)


def test_fewer_levels_say_less() -> None:
    style = make(middle=True).eval()
    full = style(style.prepare([noise(2.0)])).embedding
    style.configure(levels=1, excerpt=0.25)
    less = style(style.prepare([noise(2.0)])).embedding
    assert less.shape[1] < full.shape[1]
    assert len(torch.unique(less[0], dim=0)) <= 8
    for wrong in ({"levels": 5}, {"levels": 0}, {"excerpt": 0.0}):
        with pytest.raises(ValueError, match=r"levels of style|more than 0 s"):
            style.configure(**wrong)
    with pytest.raises(ValueError, match="'a song'"):
        style.prepare(["a song"])


def test_generated_codes_follow_style_and_seed(
    style_lm: Callable[..., Any], items: list[dict[str, Any]]
) -> None:
    lm, _ = style_lm(middle=False)
    seeded = with_seeds(items, [4, 5])

    def codes(rows: list[Any], seeds: list[int]) -> Tensor:
        sampler = PerItemSampler(SamplingSettings(), seeds)
        return generate_codes(lm, rows, num_frames=8, sampler=sampler, cfg_coef=3.0)

    both = codes(seeded, [4, 5])
    assert torch.equal(codes(seeded, [4, 5]), both)
    swapped = [{**seeded[0], "style": seeded[1]["style"]}, seeded[1]]
    assert not torch.equal(codes(swapped, [4, 5])[0], both[0])


def test_mert_is_read_from_a_folder_and_kept_out_of_checkpoints(tmp_path: Path) -> None:
    from transformers import HubertConfig, HubertModel

    torch.manual_seed(0)
    config = HubertConfig(
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8, 8),
        conv_stride=(20, 16),
        conv_kernel=(20, 16),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )
    mert = HubertModel(config).eval()
    mert.save_pretrained(tmp_path)
    features = MertFeatures(dim=16, path=str(tmp_path), hidden_dim=24)
    wav = torch.randn(2, 1, 16000)
    heard = features.extract(wav, 24000)
    torch.testing.assert_close(heard, mert(wav[:, 0]).last_hidden_state)
    assert features(features.extract(wav, 32000)).shape == (2, 12000 // 320, 16)
    assert list(features.state_dict()) == ["embed.weight", "embed.bias"]
    with pytest.raises(ValueError, match="24 wide, 768 here"):
        MertFeatures(dim=16, path=str(tmp_path)).extract(wav, 24000)
    with pytest.raises(FileNotFoundError, match="MERT-v1-95M"):
        MertFeatures(dim=16, path=str(tmp_path / "absent")).extract(wav, 24000)
