"""Generation step by step beside `transformers`: MusicGen-small's size, guidance, greedy, the same weights.

    python benchmarks/decoding.py                          # float32 and bfloat16, batch 1 and 4
    python benchmarks/decoding.py --frames 200 --batch 1   # a longer context

One step is one pass for [cond; null] and one code per codebook. Both sides read the same text states, and both are
timed from step to step, prefill left out. The last column says how near a step comes to what memory allows: the bytes
of weights, and of keys and values, that it must read, over the rate at which this machine reads memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import measure
import torch
from measure import in_turn, median
from torch import Tensor
from transformers import (
    EncodecConfig,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    StoppingCriteria,
    StoppingCriteriaList,
    T5Config,
)

from lightning_audio.conditioning.base import Condition, Conditioner
from lightning_audio.conditioning.conditioning import Conditioning
from lightning_audio.lm.autoregressive import Decoding
from lightning_audio.lm.patterns import DelayPattern
from lightning_audio.lm.sampling import greedy
from lightning_audio.lm.token_lm import TokenLM

GUIDANCE = 3.0
CODEBOOKS, CARDINALITY, TEXT_STEPS = 4, 2048, 16


class TextStates(Conditioner):
    """States of a text encoder, given as they are, at the width of the model."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def prepare(self, values: Sequence[Any], *, rng: Any = None) -> dict[str, Tensor]:
        blank = torch.zeros(TEXT_STEPS, self.dim)
        return {
            "states": torch.stack([blank if value is None else value for value in values]),
            "given": torch.tensor([value is not None for value in values]),
        }

    def forward(self, prepared: dict[str, Tensor]) -> Condition:
        return Condition(prepared["states"], prepared["given"][:, None].expand(-1, TEXT_STEPS))


def their_model(dim: int, layers: int, heads: int) -> MusicgenForConditionalGeneration:
    """Their whole model; only the language model has its full size, the text encoder its full width."""
    decoder = MusicgenDecoderConfig(
        vocab_size=CARDINALITY,
        num_codebooks=CODEBOOKS,
        hidden_size=dim,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        ffn_dim=4 * dim,
    )
    text = T5Config(vocab_size=512, d_model=768, num_layers=1, num_heads=12, d_ff=256, dropout_rate=0.0)
    codec = EncodecConfig(
        sampling_rate=32_000, num_filters=4, upsampling_ratios=[8, 5, 4, 4], hidden_size=16, codebook_size=CARDINALITY,
        codebook_dim=16, target_bandwidths=[2.2], num_lstm_layers=1,
    )  # fmt: skip
    model = MusicgenForConditionalGeneration(
        MusicgenConfig(text_encoder=text, audio_encoder=codec, decoder=decoder)
    )
    model.generation_config.update(
        pad_token_id=CARDINALITY, bos_token_id=CARDINALITY, decoder_start_token_id=CARDINALITY
    )
    with torch.no_grad():
        for head in model.decoder.lm_heads:
            head.weight.normal_(std=1.0)  # random logits this wide apart leave no doubt about the greedy code
    return model.eval()


def our_model(theirs: MusicgenForConditionalGeneration) -> TokenLM:
    """The same weights in this project's model."""
    config: Any = theirs.config.decoder
    encoder: Any = theirs.config.text_encoder
    conditioning = Conditioning(
        conditioners={"description": TextStates(encoder.d_model)},
        dim=config.hidden_size,
        fuse={"cross": ["description"]},
    )
    lm = TokenLM(
        num_codebooks=CODEBOOKS,
        cardinality=CARDINALITY,
        dim=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_layers=config.num_hidden_layers,
        pattern=DelayPattern(list(range(CODEBOOKS))),
        conditioning=conditioning,
    )
    states = theirs.state_dict()
    decoder = "decoder.model.decoder."
    weights = {
        "embedding.weight": torch.cat(
            [states[f"{decoder}embed_tokens.{k}.weight"] for k in range(CODEBOOKS)]
        ),
        "heads.weight": torch.cat([states[f"decoder.lm_heads.{k}.weight"] for k in range(CODEBOOKS)]),
        "norm.weight": states[f"{decoder}layer_norm.weight"],
        "norm.bias": states[f"{decoder}layer_norm.bias"],
        "conditioning.output_proj.description.weight": states["enc_to_dec_proj.weight"],
        "conditioning.output_proj.description.bias": states["enc_to_dec_proj.bias"],
    }
    norms = {"self_attn_layer_norm": "norm_self", "encoder_attn_layer_norm": "norm_cross",
             "final_layer_norm": "norm_feedforward"}  # fmt: skip
    for n in range(config.num_hidden_layers):
        theirs_at, ours_at = f"{decoder}layers.{n}.", f"transformer.layers.{n}."
        own, text = theirs_at + "self_attn.", theirs_at + "encoder_attn."
        parts = {
            "self_attention.qkv": [own + "q_proj", own + "k_proj", own + "v_proj"],
            "self_attention.output": [own + "out_proj"],
            "cross_attention.query": [text + "q_proj"],
            "cross_attention.key_value": [text + "k_proj", text + "v_proj"],
            "cross_attention.output": [text + "out_proj"],
            "feedforward.expand": [theirs_at + "fc1"],
            "feedforward.contract": [theirs_at + "fc2"],
        }
        for name, sources in parts.items():
            weights[f"{ours_at}{name}.weight"] = torch.cat([states[f"{s}.weight"] for s in sources])
        for source, name in norms.items():
            for kind in ("weight", "bias"):
                weights[f"{ours_at}{name}.{kind}"] = states[f"{theirs_at}{source}.{kind}"]
    lm.load_state_dict(weights)
    return lm.eval()


def our_run(lm: TokenLM, text: Tensor, frames: int) -> tuple[list[float], Tensor]:
    """Seconds of each step but the first, and the codes."""
    items = [{"description": states} for states in text]
    decoding = Decoding(lm, items, num_frames=frames, sampler=greedy, cfg_coef=GUIDANCE)
    stamps = [time.perf_counter() for _ in decoding]
    return [after - before for before, after in pairwise(stamps)], decoding.codes()


class Watch(StoppingCriteria):
    """Stops nothing: looks at the clock after each step, and keeps the codes."""

    def __init__(self) -> None:
        self.stamps: list[float] = []
        self.sequence = torch.empty(0)

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        self.stamps.append(time.perf_counter())
        self.sequence = input_ids  # [B * K, 1 + S], the start token first
        return torch.zeros(len(input_ids), dtype=torch.bool)


@torch.inference_mode()
def their_run(
    model: MusicgenForConditionalGeneration, words: Tensor, frames: int
) -> tuple[list[float], Tensor]:
    """Seconds of each step but the first, and the codes."""
    watch = Watch()
    model.generate(
        input_ids=words,
        attention_mask=torch.ones_like(words),
        guidance_scale=GUIDANCE,
        do_sample=False,
        max_new_tokens=frames + CODEBOOKS - 1,
        stopping_criteria=StoppingCriteriaList([watch]),
    )
    steps = watch.sequence[:, 1:].view(len(words), CODEBOOKS, -1)
    codes = torch.stack([steps[:, k, k : k + frames] for k in range(CODEBOOKS)], dim=1)
    return [after - before for before, after in pairwise(watch.stamps)], codes


def bytes_per_step(lm: TokenLM, rows: int, context: float) -> float:
    """Weights that a step reads, and the keys and values of a context of so many steps."""
    layer_bytes = sum(
        p.nbytes for n, p in lm.transformer.named_parameters() if "cross_attention.key_value" not in n
    )
    size = lm.heads.weight.element_size()
    cached = 2 * rows * lm.dim * len(lm.transformer.layers) * size * (context + TEXT_STEPS)
    return layer_bytes + lm.heads.weight.nbytes + cached


def compare(
    ours: dict[torch.dtype, TokenLM],
    theirs: dict[torch.dtype, MusicgenForConditionalGeneration],
    *,
    batch: int,
    frames: int,
    repeats: int,
    rate: float,
) -> list[dict[str, Any]]:
    words = torch.randint(2, 512, (batch, TEXT_STEPS), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        text = theirs[torch.float32].text_encoder(words).last_hidden_state
    codes: dict[str, Tensor] = {}

    def contestant(
        name: str, run: Callable[..., Any], model: Any, given: Tensor
    ) -> Callable[[], list[float]]:
        def once() -> list[float]:
            seconds, codes[name] = run(model, given, frames)
            return seconds

        return once

    contestants = {
        f"{side} {_name(dtype)}": contestant(f"{side} {_name(dtype)}", run, model, given)
        for side, run, models, given in (("ours", our_run, ours, text), ("theirs", their_run, theirs, words))
        for dtype, model in models.items()
    }
    seconds = {name: median(found) for name, found in in_turn(contestants, repeats=repeats).items()}
    rows = []
    for dtype, lm in ours.items():
        mine = seconds[f"ours {_name(dtype)}"]
        limit = bytes_per_step(lm, 2 * batch, frames / 2) / rate
        same = torch.equal(codes[f"ours {_name(dtype)}"], codes["theirs float32"])
        rows.append(
            {
                "weights": _name(dtype),
                "batch": batch,
                "steps/s": 1 / mine,
                "transformers float32": 1 / seconds["theirs float32"],
                "ratio": seconds["theirs float32"] / mine,
                "transformers, same weights": 1 / seconds[f"theirs {_name(dtype)}"],
                "ratio to it": seconds[f"theirs {_name(dtype)}"] / mine,
                "greedy codes": "equal to float32" if same else "not those of float32",
                "share of memory's rate": f"{100 * limit / mine:.0f} %",
            }
        )
    return rows


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def main() -> None:
    arguments = measure.parser(__doc__)
    arguments.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    arguments.add_argument("--frames", type=int, default=24, help="length of each clip (default: 24)")
    arguments.add_argument("--layers", type=int, default=24)
    arguments.add_argument("--dim", type=int, default=1024)
    arguments.add_argument("--heads", type=int, default=16)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    theirs = {torch.float32: their_model(options.dim, options.layers, options.heads)}
    ours = {torch.float32: our_model(theirs[torch.float32])}
    theirs[torch.bfloat16] = MusicgenForConditionalGeneration(theirs[torch.float32].config).eval().bfloat16()
    theirs[torch.bfloat16].load_state_dict(theirs[torch.float32].state_dict())
    theirs[torch.bfloat16].generation_config = theirs[torch.float32].generation_config
    ours[torch.bfloat16] = our_model(theirs[torch.float32]).bfloat16()
    rate = measure.read_rate()
    rows = []
    for batch in options.batch:
        rows += compare(
            ours, theirs, batch=batch, frames=options.frames, repeats=options.repeats or 3, rate=rate
        )
    measure.save(
        options.out,
        "decoding",
        about=f"Steps per second of greedy generation with guidance: width {options.dim}, {options.layers} layers, "
        f"{options.heads} heads, clips of {options.frames} frames; beside `transformers` with the same weights.",
        rows=rows,
        memory_read_rate=f"{rate / 1e9:.1f} GB/s",
    )


if __name__ == "__main__":
    main()
