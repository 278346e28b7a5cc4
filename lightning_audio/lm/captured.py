"""Decoding steps as CUDA graphs: the kernels of a step are recorded once and launched together for each.

A step of batch 1 is a thousand small kernels, which the host launches more slowly than a GPU does them; a graph
is one launch. See "CUDA Graphs" in PyTorch's CUDA semantics for what recorded work must not do.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Protocol

import torch

from lightning_audio.lm.steps import PlainSteps, StaticSteps, Work

WARM_UP = 3
"""Steps done before one is recorded: kernels are loaded and libraries take their workspaces on the first."""


class Recorder(Protocol):
    """What `Replayed` asks of a device."""

    def warm_up(self, work: Work) -> None:
        """Does the work, where it will be recorded."""

    def record(self, work: Work) -> Callable[[], None]:
        """What does the work each time it is called; recording does not."""


class CudaGraphs:
    """Records on one CUDA device.  The graphs share their memory: they run one after the other."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    def warm_up(self, work: Work) -> None:
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            work()
        current.wait_stream(self.stream)

    def record(self, work: Work) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        # Weights that autocast has cast and kept would be freed with its context, and read by the graph after.
        no_kept_casts = torch.autocast("cuda", enabled=torch.is_autocast_enabled("cuda"), cache_enabled=False)
        # The threads of a data loader may pin memory meanwhile.
        recording = torch.cuda.graph(
            graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"
        )
        with torch.cuda.device(self.device), no_kept_casts, recording:
            work()
        return graph.replay


class Replayed:
    """Does work a few times, and from then on replays its recording; again whenever its shapes change.

    The first times are not in vain: work that changes what it works on is done once per call.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._shape: Hashable = None
        self._times = 0
        self._replay: Callable[[], None] | None = None

    def __call__(self, work: Work, shape: Hashable) -> None:
        if shape != self._shape:
            self._shape, self._times = shape, 0
        self._times += 1
        if self._times <= WARM_UP:
            self.recorder.warm_up(work)
            return
        if self._times == WARM_UP + 1 or self._replay is None:
            # The last recording lives until here, and keeps the memory that they share.
            self._replay = self.recorder.record(work)
        self._replay()


def captured_steps(plain: PlainSteps) -> StaticSteps:
    """Goes on where `plain` stopped on a CUDA device: a step is one launch, and waits for nothing."""
    return StaticSteps(plain, Replayed(CudaGraphs(plain.sequence.device)))
