"""A function over many tasks, in this process or several."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import torch

Task = TypeVar("Task")
Result = TypeVar("Result")
Progress = Callable[[int, int], None]
"""Called with (done, total) as work goes on."""


def run_all(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    workers: int,
    progress: Progress | None = None,
) -> Iterator[Result]:
    """The results in the order of the tasks, for any number of workers. An error ends the other tasks."""
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    report = progress or (lambda done, total: None)
    report(0, len(tasks))
    if workers == 1 or len(tasks) < 2:
        for done, task in enumerate(tasks, start=1):
            yield function(task)
            report(done, len(tasks))
        return
    # Not fork: a fork of a process with threads can hang. Not spawn: each worker would import torch anew,
    # seconds of work; a fork server imports it once.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__])
    with ProcessPoolExecutor(
        min(workers, len(tasks)), context, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        futures = [pool.submit(function, task) for task in tasks]
        try:
            for done, future in enumerate(futures, start=1):
                yield future.result()
                report(done, len(tasks))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
