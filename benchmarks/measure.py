"""What every benchmark here shares: contestants timed in turn, the machine in words, the results as a file."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

# Threads that spin while they wait take the core of whoever has work; read by OpenMP when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor

FOLDER = Path(__file__).parent
FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_tile")


def parser(description: str | None) -> argparse.ArgumentParser:
    """Arguments that all benchmarks take."""
    arguments = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    arguments.add_argument("--repeats", type=int, help="turns of each contestant")
    arguments.add_argument("--out", type=Path, default=FOLDER, help="folder of the results")
    return arguments


def in_turn(
    contestants: Mapping[str, Callable[[], Sequence[float]]], *, repeats: int
) -> dict[str, list[float]]:
    """Seconds of each contestant's units of work, taken in turn so that all share the machine's moods."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            seconds[name] += run()
    return seconds


def timed(function: Callable[[], Any]) -> Callable[[], list[float]]:
    """The function as a contestant: one call is one unit of work."""

    def run() -> list[float]:
        start = time.perf_counter()
        function()
        return [time.perf_counter() - start]

    return run


def median(seconds: Iterable[float]) -> float:
    return statistics.median(seconds)


def read_rate(megabytes: int = 512, repeats: int = 9) -> float:
    """Bytes per second at which this machine reads memory: the best of some sums over more than its caches."""
    block = torch.ones(megabytes * 2**20 // 4)
    block.amax()
    best = min(run for _ in range(repeats) for run in timed(block.amax)())
    return block.nbytes / best


def largest_difference(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted.float()).abs().max())


def machine() -> dict[str, Any]:
    """The machine in words, without its name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set(fields.get("flags", "").split())
    return {
        "cpu": fields.get("model name", platform.processor() or platform.machine()),
        "flags": [flag for flag in FLAGS if flag in flags],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),  # what else ran: above 0, others took part of the time
        "torch": torch.__version__,
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the same columns as a Markdown table."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([_cell(row[column]) for column in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def save(folder: Path, name: str, *, about: str, rows: Sequence[Mapping[str, Any]], **facts: Any) -> None:
    """Prints the table, writes `name`.json, and renews RESULTS.md out of all such files."""
    record = {"about": about, "date": time.strftime("%Y-%m-%d"), "machine": machine(), **facts, "rows": rows}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    pages = [_page(path) for path in sorted(folder.glob("*.json"))]
    (folder / "RESULTS.md").write_text("# Results\n\n" + INTRODUCTION + "\n" + "\n".join(pages))
    print(_page(folder / f"{name}.json"))


INTRODUCTION = """\
Written by the benchmarks; do not edit. Each table is one run on one machine, whose contestants took turns; figures are
medians. Ratios are what counts: above 1, this project is faster.
"""


def _page(path: Path) -> str:
    record = json.loads(path.read_text())
    host = record["machine"]
    facts = {key: value for key, value in record.items() if key not in ("about", "date", "machine", "rows")}
    lines = [
        f"## {path.stem}",
        "",
        record["about"],
        "",
        table(record["rows"]),
        "",
        f"{record['date']}, {host['threads']} threads on {host['cores']} cores of {host['cpu']} "
        f"({', '.join(host['flags'])}), load {host['load']} by others and itself, torch {host['torch']}.",
        *(f"{key.replace('_', ' ')}: {_cell(value)}." for key, value in facts.items()),
    ]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
