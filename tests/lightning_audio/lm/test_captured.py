"""In which order a CUDA device is asked to record; its calls are stand-ins (`test_steps` makes the real ones)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_audio.lm.autoregressive import plain_steps, stepping_for
from lightning_audio.lm.captured import WARM_UP, CudaGraphs, Replayed, captured_steps

DEVICE = torch.device("cuda", 1)


class Stream:
    def __init__(self, calls: list[str], name: str) -> None:
        self.calls, self.name = calls, name

    def wait_stream(self, other: Stream) -> None:
        self.calls.append(f"{self.name} waits for {other.name}")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of `torch.cuda`, in order; contexts have a line for each end."""
    calls: list[str] = []
    main, side = Stream(calls, "main"), Stream(calls, "side")
    signature = inspect.signature(torch.cuda.graph)

    @contextmanager
    def within(name: str) -> Iterator[None]:
        calls.append(f"in {name}")
        yield
        calls.append(f"out of {name}")

    def graph(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        assert given["stream"] is side
        assert given["pool"] == "pool"
        assert given["capture_error_mode"] == "thread_local"
        return within("capture")

    def stream_of(device: torch.device) -> Stream:
        assert device == DEVICE
        return side

    class Graph:
        def replay(self) -> None:
            calls.append("replay")

    monkeypatch.setattr(torch.cuda, "Stream", stream_of)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: within(stream.name))
    monkeypatch.setattr(torch.cuda, "device", lambda device: within(str(device)))
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    return calls


def test_work_warms_up_aside_is_recorded_once_and_replayed(calls: list[str]) -> None:
    def work() -> None:
        calls.append("work")

    run = Replayed(CudaGraphs(DEVICE))
    warm_up = ["side waits for main", "in side", "work", "out of side", "main waits for side"]
    record = ["in cuda:1", "in capture", "work", "out of capture", "out of cuda:1"]
    for shape in ((8,), (16,)):
        calls.clear()
        for _ in range(WARM_UP + 3):
            run(work, shape)
        assert calls == warm_up * WARM_UP + record + ["replay"] * 3


def test_no_cast_that_autocast_keeps_is_recorded(calls: list[str]) -> None:
    kept: list[bool] = []
    CudaGraphs(DEVICE).record(lambda: kept.append(torch.is_autocast_cache_enabled()))
    assert kept == [False]
    assert torch.is_autocast_cache_enabled()


def test_steps_are_captured_where_the_weights_are_on_a_gpu() -> None:
    assert stepping_for(torch.zeros(1)) is plain_steps
    on_gpu: Any = SimpleNamespace(is_cuda=True)
    assert stepping_for(on_gpu) is captured_steps
