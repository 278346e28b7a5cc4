"""A function over many tasks, in this process or several."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from itertools import islice
from typing import Any, TypeVar

import torch

Task = TypeVar("Task")
Result = TypeVar("Result")
Progress = Callable[[int, int], None]
"""Called with (done, total) as work goes on."""

_SECONDS_BETWEEN_REPORTS = 0.5
# So many tasks are handed out for each worker; more would only take memory, theirs and that of results.
_TASKS_AHEAD = 4
# Who hears of `advance`: one list a process, because a task runs far from the loop that waits for it.
_listeners: list[Callable[[int], None]] = []


def advance(count: int = 1) -> None:
    """Called by a task as it gets on: so much of the `total` that `run_all` was given is done."""
    for listener in _listeners:
        listener(count)


def run_all(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    workers: int,
    progress: Progress | None = None,
    done: int = 0,
    total: int | None = None,
) -> Iterator[Result]:
    """The results in the order of the tasks, for any number of workers. An error ends the other tasks.

    total: progress counts what the tasks tell `advance`, on top of `done`.   None: it counts tasks.
    A task computes with one thread of torch wherever it runs, so that its numbers are the same everywhere.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    counts_tasks = total is None
    whole = len(tasks) if total is None else total
    report = progress or (lambda done, total: None)
    report(done, whole)
    if workers == 1 or len(tasks) < 2:

        def heard(count: int) -> None:
            nonlocal done
            done += count
            report(done, whole)

        for task in tasks:
            with _one_thread(), _listening(heard if not counts_tasks else None):
                result = function(task)
            yield result
            if counts_tasks:
                heard(1)
        return
    # Not fork: a fork of a process with threads can hang. Not spawn: each worker would import torch anew,
    # seconds of work; a fork server imports it once.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__])
    counter = context.Value("q", 0)
    with ProcessPoolExecutor(min(workers, len(tasks)), context, _start_worker, (counter,)) as pool:
        waiting = iter(tasks)
        futures: deque[Future[Result]] = deque()
        number = 0
        try:
            while True:
                futures.extend(
                    pool.submit(function, task)
                    for task in islice(waiting, workers * _TASKS_AHEAD - len(futures))
                )
                if not futures:
                    return
                while not wait([futures[0]], timeout=_SECONDS_BETWEEN_REPORTS).done:
                    if not counts_tasks:
                        report(done + counter.value, whole)
                yield futures.popleft().result()
                number += 1
                report(done + (number if counts_tasks else counter.value), whole)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _listening(listener: Callable[[int], None] | None) -> Iterator[None]:
    if listener is None:
        yield
        return
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _start_worker(counter: Any) -> None:
    torch.set_num_threads(1)

    def heard(count: int) -> None:
        with counter.get_lock():
            counter.value += count

    _listeners.append(heard)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
