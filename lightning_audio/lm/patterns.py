"""At which step of the sequence each code is written: one matrix says all there is to say about a pattern.

A codec gives K codes per frame, which a language model writes over several steps, so that a code can depend
on others of its frame. `pattern.steps(T)` is an int64 matrix [K, T]: the step at which the code of codebook
k, frame t, stands. Steps that no code falls on hold the special token. Step 0 does everywhere (the start
token), and what the model says at step s is about step s + 1. For three codebooks and the delays 0, 1, 2,
with frames 0 1 2:

    step         0 1 2 3 4 5
    codebook 0   . 0 1 2 . .
    codebook 1   . . 0 1 2 .
    codebook 2   . . . 0 1 2
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Pattern:
    """What follows from the matrix of steps; a pattern has only to give this matrix.

    num_codebooks: K.
    max_delay: so many steps at the end hold late codebooks only; training leaves them out.
    has_start: step 0 holds the special token. Without it (MAGNeT) step s is about itself, not about s + 1.
    """

    num_codebooks: int
    max_delay: int = 0
    has_start: bool = True

    def steps(self, num_frames: int) -> Tensor:
        """[K, T] int64"""
        raise NotImplementedError

    def num_steps(self, num_frames: int) -> int:
        """Length S of a sequence that holds all codes, start token included."""
        return int(self.steps(num_frames).max()) + 1

    def num_training_steps(self, num_frames: int) -> int:
        """Length of the sequence without the steps at its end that lack the early codebooks."""
        return self.num_steps(num_frames) - self.max_delay

    def build(self, codes: Tensor, special: int, num_steps: int | None = None) -> Tensor:
        """Codes as a sequence, cut to `num_steps`.  codes [B, K, T] -> [B, K, S]"""
        steps = self.steps(codes.shape[-1]).to(codes.device)
        shape = (*codes.shape[:-1], self.num_steps(codes.shape[-1]))
        sequence = codes.new_full(shape, special).scatter(-1, steps.expand_as(codes), codes)
        return sequence if num_steps is None else sequence[..., :num_steps]

    def revert(self, sequence: Tensor, num_frames: int, missing: int = -1) -> Tensor:
        """Codes in the order of frames, `missing` where a cut sequence lacks them.  [B, K, S] -> [B, K, T]"""
        steps, there = self._places(num_frames, sequence.shape[-1], sequence.device)
        return sequence.gather(-1, steps.expand(*sequence.shape[:-1], -1)).where(there, missing)

    def revert_predictions(self, logits: Tensor, num_frames: int) -> tuple[Tensor, Tensor]:
        """The prediction for each code, and whether there is one: a cut sequence lacks the last codes' steps.

        logits [B, K, S, card], those of step s about step s + 1 -> [B, K, T, card] and [K, T] bool. Where
        there is none the numbers mean nothing: choose by the mask, do not multiply by it.
        """
        steps, there = self._places(num_frames, logits.shape[2], logits.device)
        index = (steps - int(self.has_start))[..., None].expand(logits.shape[0], -1, -1, logits.shape[-1])
        return logits.gather(2, index), there

    def _places(self, num_frames: int, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Each code's step, held within a sequence of this length, and whether it is in it.  [K, T] both"""
        steps = self.steps(num_frames).to(device)
        return steps.clamp(max=length - 1), steps < length


class DelayPattern(Pattern):
    """Codebook k comes `delays[k]` steps late (arXiv 2306.05284).  Stereo: 0, 0, 1, 1, 2, 2, 3, 3.

    flatten_first: so many frames at the beginning are written one code a step, before the delays begin.
    empty_initial: so many steps are left empty after the start token.
    """

    def __init__(
        self, delays: Sequence[int] = (0, 1, 2, 3), *, flatten_first: int = 0, empty_initial: int = 0
    ) -> None:
        if list(delays) != sorted(delays) or delays[0] != 0:
            raise ValueError(f"delays begin at 0 and do not decrease, got {list(delays)}")
        self.delays = list(delays)
        self.num_codebooks, self.max_delay = len(delays), int(delays[-1])
        self.flatten_first, self.empty_initial = flatten_first, empty_initial

    def steps(self, num_frames: int) -> Tensor:
        first = 1 + self.empty_initial
        frame, codebook = torch.arange(num_frames), torch.arange(self.num_codebooks)[:, None]
        flat = min(num_frames, self.flatten_first)
        one_by_one = first + frame * self.num_codebooks + codebook
        delayed = first + flat * self.num_codebooks + frame - flat + torch.tensor(self.delays)[:, None]
        return torch.where(frame < flat, one_by_one, delayed)

    def num_steps(self, num_frames: int) -> int:
        flat = min(num_frames, self.flatten_first)
        delayed = max(num_frames + self.max_delay - self.flatten_first, 0)
        return 1 + self.empty_initial + flat * self.num_codebooks + delayed


class ParallelPattern(Pattern):
    """All codes of a frame in one step, blind to each other.  has_start: begin with the special token."""

    def __init__(self, num_codebooks: int = 4, *, has_start: bool = True) -> None:
        self.num_codebooks, self.has_start = num_codebooks, has_start

    def steps(self, num_frames: int) -> Tensor:
        return (torch.arange(num_frames) + self.has_start).repeat(self.num_codebooks, 1)


class FlatteningPattern(Pattern):
    """Every frame takes several steps: codebook k is written in the frame's step `order[k]`.

    0, 1, 2, 3 flattens fully; 0, 1, 1, 1 writes the first codebook, then all the others at once. Codebooks of
    one step may come some frames late together (`delays`, one per codebook).
    """

    def __init__(self, order: Sequence[int] = (0, 1, 2, 3), *, delays: Sequence[int] | None = None) -> None:
        delays = [0] * len(order) if delays is None else list(delays)
        groups = dict(zip(order, delays, strict=True))
        if any(groups[step] != delay for step, delay in zip(order, delays, strict=True)):
            raise ValueError(
                f"codebooks written together share their delay, got {list(order)} delayed {delays}"
            )
        self.order = list(order)
        self.num_codebooks, self.max_delay = len(self.order), max(delays)
        # Of the groups that fall on one time the latest comes first: its frame is the earliest. A step
        # that no codebook uses is there and empty.
        inner = range(max(order) + 1)
        self.groups = sorted(inner, key=lambda step: (step in groups, -groups.get(step, 0), step))
        self.delays = {step: groups.get(step, 0) for step in inner}

    def steps(self, num_frames: int) -> Tensor:
        frame = torch.arange(num_frames)
        written = {step: self._step_of(step, frame + self.delays[step]) for step in set(self.order)}
        return torch.stack([written[step] for step in self.order])

    def num_steps(self, num_frames: int) -> int:
        last = torch.tensor(num_frames + self.max_delay)
        return 1 + int(sum((last - delay).clamp(min=0) for delay in self.delays.values()))

    def _step_of(self, group: int, time: Tensor) -> Tensor:
        """Where `group` writes at `time`: after the start, all earlier times, and the groups before it."""
        earlier = torch.stack([(time - delay).clamp(min=0) for delay in self.delays.values()]).sum(dim=0)
        before = self.groups[: self.groups.index(group)]
        now = sum(((time >= self.delays[other]).long() for other in before), torch.zeros_like(time))
        return 1 + earlier + now


class CoarseFirstPattern(Pattern):
    """The whole first codebook, then the others side by side, delayed by `delays` (VALL-E's order)."""

    def __init__(self, num_codebooks: int = 4, *, delays: Sequence[int] | None = None) -> None:
        rest = [0] * (num_codebooks - 1) if delays is None else list(delays)
        if len(rest) != num_codebooks - 1:
            raise ValueError(
                f"{num_codebooks} codebooks need {num_codebooks - 1} delays after the first, got {rest}"
            )
        self.num_codebooks, self.max_delay = num_codebooks, max(rest)
        self.delays = rest

    def steps(self, num_frames: int) -> Tensor:
        frame = 1 + torch.arange(num_frames)
        return torch.cat([frame[None], frame + num_frames + torch.tensor(self.delays)[:, None]])


class GroupedPattern(Pattern):
    """Groups of `group_size` codebooks one after the other, each group flattened (MusicLM's order)."""

    def __init__(self, num_codebooks: int = 4, *, group_size: int = 2) -> None:
        if num_codebooks % group_size:
            raise ValueError(f"{num_codebooks} codebooks do not divide into groups of {group_size}")
        self.num_codebooks, self.group_size = num_codebooks, group_size

    def steps(self, num_frames: int) -> Tensor:
        codebook, frame = torch.arange(self.num_codebooks)[:, None], torch.arange(num_frames)
        group, inner = codebook // self.group_size, codebook % self.group_size
        return 1 + (group * num_frames + frame) * self.group_size + inner
