"""Progress on long work: a Rich bar in a terminal, a plain line now and then in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, TypeVar

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from rich.progress import Progress
from rich.progress import track as rich_track

Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 10.0


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """The same items, with the progress shown as they are used up."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stdout.isatty():
        yield from rich_track(items, description=description, total=total)
        return
    last_line = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        if time.monotonic() - last_line >= SECONDS_BETWEEN_LINES:
            print(f"  {description}: {done}/{total or '?'}", flush=True)
            last_line = time.monotonic()


@contextmanager
def progress_report(description: str) -> Iterator[Callable[[int, int], None]]:
    """A function of (done, total) that shows how far a long step is; for work that reports by itself."""
    if sys.stdout.isatty():
        with Progress() as bars:
            bar = bars.add_task(description, total=None)
            yield lambda done, total: bars.update(bar, completed=done, total=total)
        return
    last_line = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last_line
        if time.monotonic() - last_line >= SECONDS_BETWEEN_LINES:
            print(f"  {description}: {done}/{total}", flush=True)
            last_line = time.monotonic()

    yield report


class PlainProgress(L.Callback):
    """A line with step, speed, time left and the logged numbers, every so many seconds."""

    def __init__(self, *, seconds: float = SECONDS_BETWEEN_LINES) -> None:
        self.seconds = seconds
        self._last_line = 0.0
        self._start: tuple[float, int] = (0.0, 0)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        now = time.monotonic()
        self._start, self._last_line = (now, trainer.global_step), now

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        now = time.monotonic()
        if now - self._last_line < self.seconds or not trainer.is_global_zero:
            return
        self._last_line = now
        began, first_step = self._start
        rate = (trainer.global_step - first_step) / max(now - began, 1e-9)
        left = (
            (trainer.max_steps - trainer.global_step) / rate if trainer.max_steps > 0 and rate > 0 else None
        )
        numbers = "  ".join(
            f"{name.removeprefix('train/')} {float(value):.3f}"
            for name, value in sorted(trainer.logged_metrics.items())
            if name in ("train/loss", "train/mel", "train/adversarial", "valid/loss", "valid/si_sdr")
        )
        total = trainer.max_steps if trainer.max_steps > 0 else "?"
        eta = f"{left:.0f} s left" if left is not None else ""
        print(f"  step {trainer.global_step}/{total}  {rate:.2f} steps/s  {eta}  {numbers}", flush=True)


def progress_callback() -> L.Callback:
    """Rich's bar where somebody watches, plain lines where the output is a file."""
    return RichProgressBar(leave=True) if sys.stdout.isatty() else PlainProgress()
