"""One training step beside a plain one, written here the way AudioCraft does it.

    python benchmarks/training.py              # the language model and the codec GAN
    python benchmarks/training.py --only lm

lm: 4 layers of width 512, 4 clips of 500 frames in 4 codebooks of 2048, cross-attention to text, AdamW, clipping. The
    plain step has a table and a head per codebook, stacks all logits, puts them back into the order of frames and takes
    one cross-entropy after another.
gan: 4 clips of 1 s at 24 kHz, EnCodec and the MS-STFT discriminator at their published sizes, the losses and balancer
    of AudioCraft's recipe. The plain step reconstructs once; the discriminator's turn is a pass for decoded and one for
    real audio; every loss of the generator is computed with the discriminator's parameters in the graph, and the
    balancer goes back through each by itself.

Both sides start from the same weights and must lose the same in the first step, or the run fails.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import measure
import torch
import torch.nn.functional as F
from measure import in_turn, median, timed
from torch import Tensor, nn

from lightning_audio.codec.adversarial import FeatureMatchingLoss, HingeLoss
from lightning_audio.codec.balancer import Balancer
from lightning_audio.codec.codebooks import CodebookLearning
from lightning_audio.codec.discriminators import MultiScaleSTFTDiscriminator
from lightning_audio.codec.encodec import EnCodec
from lightning_audio.codec.gan import discriminator_objectives, generator_gradients
from lightning_audio.codec.losses import L1Loss, MultiScaleMelLoss
from lightning_audio.codec.quantizer import ResidualVectorQuantizer
from lightning_audio.codec.seanet import SEANetDecoder, SEANetEncoder
from lightning_audio.conditioning.base import Conditioner, FusedConditions
from lightning_audio.conditioning.conditioning import Conditioning
from lightning_audio.lm.patterns import DelayPattern
from lightning_audio.lm.token_lm import TokenLM

CODEBOOKS, CARDINALITY, TEXT_STEPS = 4, 2048, 16


class PlainLayer(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm_cross, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.in_proj, self.out_proj = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.query, self.key_value = nn.Linear(dim, dim, bias=False), nn.Linear(dim, 2 * dim, bias=False)
        self.cross_out = nn.Linear(dim, dim, bias=False)
        self.linear1, self.linear2 = nn.Linear(dim, 4 * dim, bias=False), nn.Linear(4 * dim, dim, bias=False)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        q, k, v = (self._split(part) for part in self.in_proj(self.norm1(x)).chunk(3, dim=-1))
        x = x + self.out_proj(self._join(F.scaled_dot_product_attention(q, k, v, is_causal=True)))
        q = self._split(self.query(self.norm_cross(x)))
        k, v = (self._split(part) for part in self.key_value(text).chunk(2, dim=-1))
        x = x + self.cross_out(self._join(F.scaled_dot_product_attention(q, k, v)))
        return x + self.linear2(F.gelu(self.linear1(self.norm2(x))))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _join(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)


class PlainLM(nn.Module):
    def __init__(self, dim: int, heads: int, layers: int) -> None:
        super().__init__()
        self.dim = dim
        self.emb = nn.ModuleList(nn.Embedding(CARDINALITY + 1, dim) for _ in range(CODEBOOKS))
        self.layers = nn.ModuleList(PlainLayer(dim, heads) for _ in range(layers))
        self.out_norm = nn.LayerNorm(dim)
        self.linears = nn.ModuleList(nn.Linear(dim, CARDINALITY, bias=False) for _ in range(CODEBOOKS))

    def forward(self, sequence: Tensor, text: Tensor) -> Tensor:
        """[B, K, S] -> logits [B, K, S, card]"""
        x = sum(emb(sequence[:, k]) for k, emb in enumerate(self.emb))
        half = self.dim // 2
        steps = torch.arange(sequence.shape[-1])[:, None]
        phase = steps / 10_000 ** (torch.arange(half) / (half - 1))
        x = x + torch.cat([phase.cos(), phase.sin()], dim=-1)
        for layer in self.layers:
            x = layer(x, text)
        x = self.out_norm(x)
        return torch.stack([linear(x) for linear in self.linears], dim=1)


def plain_lm_loss(model: PlainLM, codes: Tensor, text: Tensor) -> Tensor:
    """Delay the codes, foretell, undo the delay of all logits, one cross-entropy per codebook."""
    batch, _, frames = codes.shape
    sequence = torch.full((batch, CODEBOOKS, frames + 1), CARDINALITY)
    for k in range(CODEBOOKS):
        sequence[:, k, k + 1 :] = codes[:, k, : frames - k]
    logits = model(sequence, text)
    step = torch.arange(frames) + torch.arange(CODEBOOKS)[:, None]  # [K, T]: which step foretells each code
    valid = (step < frames).expand(batch, -1, -1)
    index = step.clamp(max=frames)[None, :, :, None].expand(batch, -1, -1, CARDINALITY)
    aligned = logits.gather(2, index).masked_fill(~valid[..., None], float("nan"))
    losses = []
    for k in range(CODEBOOKS):
        there = valid[:, k].reshape(-1)
        losses.append(
            F.cross_entropy(aligned[:, k].reshape(-1, CARDINALITY)[there], codes[:, k].reshape(-1)[there])
        )
    return sum(losses, torch.zeros(())) / CODEBOOKS


def weights_of(plain: PlainLM) -> dict[str, Tensor]:
    """The plain model's weights under this project's names."""
    weights = {
        "embedding.weight": torch.cat([emb.weight for emb in plain.emb]),
        "heads.weight": torch.cat([linear.weight for linear in plain.linears]),
        "norm.weight": plain.out_norm.weight,
        "norm.bias": plain.out_norm.bias,
    }
    names = {
        "in_proj": "self_attention.qkv",
        "out_proj": "self_attention.output",
        "query": "cross_attention.query",
        "key_value": "cross_attention.key_value",
        "cross_out": "cross_attention.output",
        "linear1": "feedforward.expand",
        "linear2": "feedforward.contract",
        "norm1": "norm_self",
        "norm_cross": "norm_cross",
        "norm2": "norm_feedforward",
    }
    for n, layer in enumerate(plain.layers):
        for name, tensor in layer.named_parameters():
            module, kind = name.rsplit(".", 1)
            weights[f"transformer.layers.{n}.{names[module]}.{kind}"] = tensor
    return {name: tensor.detach() for name, tensor in weights.items()}


class TextGiven(Conditioner):
    """Stands where a text encoder would: the states come ready made, so that both sides have the same."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim


Step = Callable[[], float]
"""Takes one optimiser step, gives the loss before it."""


def lm_steps(dim: int = 512, heads: int = 8, layers: int = 4) -> dict[str, Step]:
    plain = PlainLM(dim, heads, layers)
    ours = TokenLM(
        num_codebooks=CODEBOOKS,
        cardinality=CARDINALITY,
        dim=dim,
        num_heads=heads,
        num_layers=layers,
        pattern=DelayPattern(list(range(CODEBOOKS))),
        conditioning=Conditioning(
            conditioners={"description": TextGiven(dim)}, dim=dim, fuse={"cross": ["description"]}
        ),
    )
    projection = {k: v for k, v in ours.state_dict().items() if k.startswith("conditioning.")}
    ours.load_state_dict(weights_of(plain) | projection)
    ours.conditioning.requires_grad_(False)
    codes = torch.randint(CARDINALITY, (4, CODEBOOKS, 500))
    text = torch.randn(4, TEXT_STEPS, dim)

    def step(model: nn.Module, loss_of: Callable[[], Tensor]) -> Step:
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)

        def once() -> float:
            optimizer.zero_grad()
            loss = loss_of()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            return float(loss.detach())

        return once

    conditions = FusedConditions(cross=text)
    return {
        "ours": step(ours, lambda: ours.loss(codes, conditions).loss),
        "plain": step(plain, lambda: plain_lm_loss(plain, codes, text)),
    }


class PlainDiscriminator(nn.Module):
    """The MS-STFT discriminator of a `MultiScaleSTFTDiscriminator`, its passes as AudioCraft writes them."""

    def __init__(self, source: MultiScaleSTFTDiscriminator) -> None:
        super().__init__()
        self.discriminators = source.discriminators

    def forward(self, wav: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        logits, features = [], []
        for d in self.discriminators:
            spec = torch.stft(
                wav[:, 0], d.n_fft, d.hop_length, d.win_length, d.window, center=False, return_complex=True
            )[:, None]
            x = torch.cat([spec.real, spec.imag], dim=1).transpose(2, 3)
            maps = []
            for conv in d.convs:
                x = F.leaky_relu(conv(x), d.negative_slope)
                maps.append(x)
            logits.append(d.conv_post(x))
            features.append(maps)
        return logits, features


def plain_generator_losses(judge: PlainDiscriminator, fake: Tensor, real: Tensor) -> dict[str, Tensor]:
    parameters = list(judge.parameters())
    for parameter in parameters:
        parameter.requires_grad_(False)
    logits, found = judge(fake)
    _, wanted = judge(real)
    for parameter in parameters:
        parameter.requires_grad_(True)
    distances = [
        torch.stack([F.l1_loss(f, w) for f, w in zip(fs, ws, strict=True)]).mean()
        for fs, ws in zip(found, wanted, strict=True)
    ]
    return {"adv": torch.stack([-x.mean() for x in logits]).mean(), "feat": torch.stack(distances).mean()}


WEIGHTS = {"adv": 4.0, "feat": 4.0, "l1": 0.1, "mel": 2.0}


def gan_steps(filters: int = 32, judge_filters: int = 32) -> dict[str, Step]:
    options: dict[str, Any] = {"num_filters": filters, "causal": True}
    codec = EnCodec(
        encoder=SEANetEncoder(**options),
        decoder=SEANetDecoder(**options),
        quantizer=ResidualVectorQuantizer(num_codebooks=8, learning=CodebookLearning(kmeans_iterations=10)),
        sample_rate=24_000,
    )
    judge = MultiScaleSTFTDiscriminator(filters=judge_filters)
    wav = 0.1 * torch.randn(4, 1, 24_000)
    with torch.no_grad():
        codec(wav)  # the codebooks are set from data: not part of a step
    reconstruction: dict[str, nn.Module] = {"l1": L1Loss(), "mel": MultiScaleMelLoss(sample_rate=24_000)}
    return {
        "ours": our_gan_step(copy.deepcopy(codec), copy.deepcopy(judge), reconstruction, wav),
        "plain": plain_gan_step(codec, PlainDiscriminator(judge), reconstruction, wav),
    }


def _adam(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(module.parameters(), lr=3e-4, betas=(0.5, 0.9))


def our_gan_step(codec: EnCodec, judge: nn.Module, reconstruction: dict[str, nn.Module], wav: Tensor) -> Step:
    """What `CodecTask.training_step` does."""
    balancer, generator = Balancer(weights=WEIGHTS), torch.Generator().manual_seed(0)
    optimizer, judge_optimizer = _adam(codec), _adam(judge)
    judges, hinge, matching = {"msstft": judge}, HingeLoss(), FeatureMatchingLoss()

    def once() -> float:
        decoded = codec(wav, generator=generator)
        judge_optimizer.zero_grad()
        objective = discriminator_objectives(judges, hinge, decoded.wav, wav)["msstft"]
        objective.backward()
        judge_optimizer.step()
        losses = generator_gradients(reconstruction, judges, hinge, matching, decoded.wav, wav)
        balanced = balancer(losses.gradients)
        optimizer.zero_grad()
        ((decoded.wav * balanced.gradient).sum() + decoded.penalty).backward()
        optimizer.step()
        return float(sum(WEIGHTS[name] * value for name, value in losses.values.items()))

    return once


def plain_gan_step(
    codec: EnCodec, judge: PlainDiscriminator, reconstruction: dict[str, nn.Module], wav: Tensor
) -> Step:
    balancer, generator = Balancer(weights=WEIGHTS), torch.Generator().manual_seed(0)
    optimizer, judge_optimizer = _adam(codec), _adam(judge)

    def once() -> float:
        decoded = codec(wav, generator=generator)
        fakes, _ = judge(decoded.wav.detach())
        reals, _ = judge(wav)
        pairs = zip(fakes, reals, strict=True)
        objective = torch.stack([F.relu(1 + f).mean() + F.relu(1 - r).mean() for f, r in pairs]).mean()
        judge_optimizer.zero_grad()
        objective.backward()
        judge_optimizer.step()
        losses = {name: loss(decoded.wav, wav) for name, loss in reconstruction.items()}
        losses |= plain_generator_losses(judge, decoded.wav, wav)
        # The commitment goes back through the encoder first, then each loss to the audio, then their balanced sum.
        optimizer.zero_grad()
        decoded.penalty.backward(retain_graph=True)
        gradients = {
            name: torch.autograd.grad(loss, decoded.wav, retain_graph=True)[0]
            for name, loss in losses.items()
        }
        decoded.wav.backward(balancer(gradients).gradient)
        optimizer.step()
        return float(sum(WEIGHTS[name] * value.detach() for name, value in losses.items()))

    return once


ABOUT = {
    "lm": ("language model, 4 layers x 512, 4 x 500 frames x 4 codebooks", lm_steps),
    "gan": ("codec GAN, 4 x 1 s at 24 kHz, MS-STFT", gan_steps),
}


def main() -> None:
    arguments = measure.parser(__doc__)
    arguments.add_argument("--only", choices=ABOUT, help="one of the two")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for name in [options.only] if options.only else ABOUT:
        about, steps_of = ABOUT[name]
        torch.manual_seed(0)
        steps = steps_of()
        first = {side: step() for side, step in steps.items()}
        if abs(first["ours"] - first["plain"]) > 1e-3 * abs(first["plain"]):
            raise SystemExit(f"{name}: the first step's losses differ: {first}")
        seconds = in_turn({side: timed(step) for side, step in steps.items()}, repeats=options.repeats or 5)
        ours, plain = median(seconds["ours"]), median(seconds["plain"])
        rows.append({"step": about, "seconds": ours, "plain": plain, "ratio": plain / ours})
    measure.save(
        options.out,
        "training",
        about="Seconds of one training step beside a plain one with the same weights, written AudioCraft's way.",
        rows=rows,
    )


if __name__ == "__main__":
    main()
