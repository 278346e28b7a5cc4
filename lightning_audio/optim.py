"""How parameters move: learning-rate schedules, parameter groups, D-Adaptation Adam, the weights' average."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def parameter_groups(
    model: nn.Module, *, weight_decay: float, decay_vectors: bool = True
) -> list[dict[str, Any]]:
    """Trainable parameters as optimiser groups.

    decay_vectors: AudioCraft decays everything; False leaves biases, norms and other 1-d parameters
        undecayed.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trainable if decay_vectors or p.dim() > 1]
    spared = [p for p in trainable if not decay_vectors and p.dim() <= 1]
    groups = [(decayed, weight_decay), (spared, 0.0)]
    return [{"params": params, "weight_decay": decay} for params, decay in groups if params]


# Schedules. Each is a function of the optimiser, to be stepped once per optimiser step.


def _schedule(optimizer: Optimizer, learning_rate: Callable[[float, int], float]) -> LambdaLR:
    """A scheduler out of learning_rate(base rate, step); steps count from 0."""

    def factor(base: float) -> Callable[[int], float]:
        return lambda step: learning_rate(base, step) / base if base else 0.0

    bases = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
    return LambdaLR(optimizer, [factor(float(base)) for base in bases])


def linear_warmup(optimizer: Optimizer, *, warmup_steps: int, warmup_init_lr: float = 0.0) -> LambdaLR:
    """Linear from `warmup_init_lr` to the base rate, then constant."""
    return _schedule(optimizer, lambda base, step: _warmup(base, step, warmup_steps, warmup_init_lr))


def _warmup(base: float, step: int, warmup_steps: int, start: float = 0.0) -> float:
    return base if step >= warmup_steps else start + (base - start) * step / warmup_steps


def cosine_warmup(
    optimizer: Optimizer,
    *,
    warmup_steps: int,
    total_steps: int,
    lr_min_ratio: float = 0.0,
    cycle_length: float = 1.0,
) -> LambdaLR:
    """Linear warm-up from 0, then half a cosine down to `lr_min_ratio` of the base rate at `total_steps`.

    cycle_length: above 1 ends the run before the cosine reaches its foot.
    """
    _check_steps(warmup_steps, total_steps)

    def learning_rate(base: float, step: int) -> float:
        if step < warmup_steps:
            return _warmup(base, step, warmup_steps)
        if step > total_steps:
            return base * lr_min_ratio
        progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * progress / cycle_length))
        return base * (lr_min_ratio + (1 - lr_min_ratio) * cosine)

    return _schedule(optimizer, learning_rate)


def inverse_sqrt(optimizer: Optimizer, *, warmup_steps: int, warmup_init_lr: float = 0.0) -> LambdaLR:
    """Linear warm-up, then base * sqrt(warmup_steps / n).  n counts from 1, as in AudioCraft."""

    def learning_rate(base: float, step: int) -> float:
        n = step + 1
        if n < warmup_steps:
            return _warmup(base, n, warmup_steps, warmup_init_lr)
        return base * math.sqrt(max(1, warmup_steps) / n)

    return _schedule(optimizer, learning_rate)


def polynomial(
    optimizer: Optimizer,
    *,
    warmup_steps: int,
    total_steps: int,
    end_lr: float = 0.0,
    zero_lr_warmup_steps: int = 0,
    power: float = 1.0,
) -> LambdaLR:
    """Zero for `zero_lr_warmup_steps`, linear warm-up, then (1 - progress) ** power down to `end_lr`."""
    first = zero_lr_warmup_steps + warmup_steps
    _check_steps(first, total_steps)

    def learning_rate(base: float, step: int) -> float:
        if step <= first and first > 0:
            return _warmup(base, max(0, step - zero_lr_warmup_steps), warmup_steps)
        if step >= total_steps:
            return end_lr
        remaining = 1 - (step - first) / (total_steps - first)
        return end_lr + (base - end_lr) * remaining**power

    return _schedule(optimizer, learning_rate)


def _check_steps(warmup_steps: int, total_steps: int) -> None:
    if total_steps < warmup_steps:
        raise ValueError(f"the warm-up takes {warmup_steps} steps, the whole schedule only {total_steps}")


class DAdaptAdam(Optimizer):
    """Adam that finds its own step size (D-Adaptation, Defazio and Mishchenko 2023); leave `lr` at about 1.

    The step size is lr * d, where d is a lower bound, growing from `d0`, of the distance D from the start to
    the solution. With s the moving sum of the d-weighted gradients, and Adam's denominator as the metric,

        d_hat = (|s|^2 / (1 - beta2) - sum of weighted |g|^2) / |s|_1
        d <- max(d, min(d_hat, d * growth_rate))

    The three sums run over all parameters: under FSDP2 they are all-reduced over the dimensions on which
    parameters are sharded, so every rank takes the same d. Weight decay is decoupled, as in AdamW. d is
    `param_groups[0]["d"]`.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        d0: float = 1e-6,
        growth_rate: float = math.inf,
    ) -> None:
        if d0 <= 0 or lr < 0 or eps <= 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(
                f"want d0 > 0, lr >= 0, eps > 0, betas in [0, 1); got {d0=}, {lr=}, {eps=}, {betas=}"
            )
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "growth_rate": growth_rate,
        }
        super().__init__(params, {**defaults, "d": d0, "gsq_weighted": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        lr = max(group["lr"] for group in self.param_groups)
        if any(group["lr"] not in (lr, 0.0) for group in self.param_groups):
            raise ValueError(f"one lr for all groups (or 0), got {[g['lr'] for g in self.param_groups]}")
        first = self.param_groups[0]
        d, beta2 = first["d"], first["betas"][1]
        step_size = d * lr

        sums: list[tuple[Tensor, list[Tensor]]] = []
        for group in self.param_groups:
            if group["lr"] > 0:
                sums += self._accumulate(group, step_size)
        if not sums:
            return loss
        g_sq, s_sq, s_l1 = _sum_over_shards(sums)
        if s_l1 == 0:  # no gradient has been seen yet: nothing to learn the scale from
            return loss
        gsq_weighted = beta2 * first["gsq_weighted"] + g_sq * step_size**2 * (1 - beta2)
        d_hat = (s_sq / (1 - beta2) - gsq_weighted) / s_l1
        d = max(d, min(d_hat, d * first["growth_rate"]))
        for group in self.param_groups:
            group["gsq_weighted"], group["d"] = gsq_weighted, d
            if group["lr"] > 0:
                self._move(group, step_size)
        return loss

    def _accumulate(self, group: dict[str, Any], step_size: float) -> list[tuple[Tensor, list[Tensor]]]:
        """Update the moving sums; per parameter the terms of |g|^2, |s|^2 (both weighted) and |s|_1."""
        params = _with_gradient(group)
        if not params:
            return []
        beta1, beta2 = group["betas"]
        for param in params:
            if not self.state[param]:
                self.state[param] = {k: torch.zeros_like(param) for k in ("s", "exp_avg", "exp_avg_sq")}
        grads = [_local(p.grad) for p in params if p.grad is not None]
        mean, square, s = (self._states(params, name) for name in ("exp_avg", "exp_avg_sq", "s"))
        torch._foreach_mul_(mean, beta1)
        torch._foreach_add_(mean, grads, alpha=step_size * (1 - beta1))
        torch._foreach_mul_(square, beta2)
        torch._foreach_addcmul_(square, grads, grads, 1 - beta2)
        torch._foreach_mul_(s, beta2)
        torch._foreach_add_(s, grads, alpha=step_size * (1 - beta2))
        denominator = self._denominator(group, params)
        # Terms are never negative, so a 1-norm is their sum, over all tensors in one call.
        columns = [torch._foreach_norm(_weighted_square(x, denominator), 1) for x in (grads, s)]
        columns.append(torch._foreach_norm(s, 1))
        return [(p, list(terms)) for p, terms in zip(params, zip(*columns, strict=True), strict=True)]

    def _move(self, group: dict[str, Any], step_size: float) -> None:
        params = _with_gradient(group)
        if not params:
            return
        weights = [_local(p) for p in params]
        if group["weight_decay"]:
            torch._foreach_mul_(weights, 1 - group["weight_decay"] * step_size)
        mean = self._states(params, "exp_avg")  # already holds the step size: each gradient had its own d
        torch._foreach_addcdiv_(weights, mean, self._denominator(group, params), -1)

    def _states(self, params: list[Tensor], name: str) -> list[Tensor]:
        return [_local(self.state[param][name]) for param in params]

    def _denominator(self, group: dict[str, Any], params: list[Tensor]) -> list[Tensor]:
        denominator = list(torch._foreach_sqrt(self._states(params, "exp_avg_sq")))
        torch._foreach_add_(denominator, group["eps"])
        return denominator


def _with_gradient(group: dict[str, Any]) -> list[Tensor]:
    return [p for p in group["params"] if p.grad is not None]


def _local(tensor: Tensor) -> Tensor:
    """This rank's shard of a tensor; a plain tensor is its own."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _weighted_square(tensors: list[Tensor], denominator: list[Tensor]) -> list[Tensor]:
    squares = list(torch._foreach_mul(tensors, tensors))
    torch._foreach_div_(squares, denominator)
    return squares


def _sum_over_shards(sums: list[tuple[Tensor, list[Tensor]]]) -> list[float]:
    """Totals over all parameters and, for sharded ones, over the ranks that hold a shard."""
    groups: dict[Any, list[Tensor]] = defaultdict(list)
    for param, terms in sums:
        mesh = None
        sharded: tuple[int, ...] = ()
        if isinstance(param, DTensor):
            mesh = param.device_mesh
            sharded = tuple(i for i, placement in enumerate(param.placements) if placement.is_shard())
        groups[mesh, sharded].append(torch.stack([term.double() for term in terms]))
    totals = []
    for (mesh, sharded), rows in groups.items():
        total = torch.stack(rows).sum(0)
        for dimension in sharded:
            dist.all_reduce(total, group=mesh.get_group(dimension))
        totals.append(total.cpu())
    return torch.stack(totals).sum(0).tolist()


class EMA:
    """Exponential moving average of a module's weights and float buffers, without the bias of its start.

    With n the number of averages taken, average <- (1 - w) average + w weights, where w = 1 / (1 + decay +
    ... + decay^(n-1)): the first one copies, and w tends to 1 - decay. What is averaged is what
    `module.state_dict()` holds, so frozen parts kept out of it (codec, text encoder) cost nothing. It lives
    in float32 (or wider) beside the weights, wherever the module has been moved to; under FSDP2 it is sharded
    as they are.

    decay: per average taken.   every: average on every n-th call of `update`, called once per optimiser step.
    """

    def __init__(self, module: nn.Module, *, decay: float, every: int = 1) -> None:
        if not 0 <= decay < 1 or every < 1:
            raise ValueError(f"want 0 <= decay < 1 and every >= 1, got {decay=} and {every=}")
        self.module, self.decay, self.every = module, decay, every
        self.calls = 0
        self.weight_sum = 0.0  # 1 + decay + ... + decay^(n-1)
        self.average: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self) -> None:
        """Take note of one optimiser step."""
        self.calls += 1
        if self.calls % self.every:
            return
        live = _float_tensors(self.module)
        weights = [_widened(tensor) for tensor in live.values()]
        self.weight_sum = self.weight_sum * self.decay + 1
        if not self.average:
            self.average = {name: w.clone() for name, w in zip(live, weights, strict=True)}
            return
        _check_names(self.average, live)
        self.average = {name: self.average[name].to(tensor.device) for name, tensor in live.items()}
        averages = [_local(tensor) for tensor in self.average.values()]
        torch._foreach_lerp_(averages, [_local(w) for w in weights], 1 / self.weight_sum)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Write the averages into `module`, of the same structure; nothing before the first average."""
        if self.average:
            _write(self.average, module)

    @contextmanager
    def average_weights(self) -> Iterator[None]:
        """Within it the module has the averaged weights; its own are back afterwards, also after an error."""
        own = {name: tensor.clone() for name, tensor in _float_tensors(self.module).items()}
        self.copy_to(self.module)
        try:
            yield
        finally:
            _write(own, self.module)

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls, "weight_sum": self.weight_sum, "average": dict(self.average)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["average"]:
            _check_names(state["average"], _float_tensors(self.module))
        self.calls, self.weight_sum = int(state["calls"]), float(state["weight_sum"])
        self.average = {name: _widened(tensor).clone() for name, tensor in state["average"].items()}


def _float_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The floating tensors of a module's state, by name, sharing its memory."""
    return {name: t for name, t in module.state_dict().items() if t.is_floating_point()}


def _check_names(average: dict[str, Tensor], live: dict[str, Tensor]) -> None:
    if average.keys() != live.keys():
        raise ValueError(f"the average and the module differ in {sorted(average.keys() ^ live.keys())}")


@torch.no_grad()
def _write(values: dict[str, Tensor], module: nn.Module) -> None:
    """Put `values` into the module's floating tensors, converting device and dtype."""
    live = _float_tensors(module)
    _check_names(values, live)
    for name, tensor in live.items():
        tensor.copy_(values[name])


def _widened(tensor: Tensor) -> Tensor:
    """At least float32: in bfloat16 a step of 1 - decay = 0.01 of a small difference is rounded away."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
