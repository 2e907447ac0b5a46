"""How benchmarks take times, and where their tables go."""

from __future__ import annotations

import csv
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch as th

from sb3_rlx2.files import replacing

RESULTS = Path(__file__).parent / "results"


def processor() -> str:
    """The name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown processor")


def best_times(
    functions: Mapping[str, Callable[[], object]],
    rounds: int,
    budget: float = 0.15,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Seconds of one call of each function: the best of some rounds in which all take turns.

    :param functions: what to time, by name
    :param rounds: number of rounds
    :param budget: seconds for each function in each round
    :param clock: tells seconds; ``time.process_time`` for one thread on a machine that others use too
    """
    repeats, best = {}, dict.fromkeys(functions, float("inf"))
    for name, function in functions.items():
        function()
        times = []
        for _ in range(5):  # one that happens to be slow would make for a few calls only, with cold caches
            start = clock()
            function()
            times.append(clock() - start)
        repeats[name] = max(1, int(budget / min(times)))
    for _ in range(rounds):
        for name, function in functions.items():
            start = clock()
            for _ in range(repeats[name]):
                function()
            best[name] = min(best[name], (clock() - start) / repeats[name])
    return best


def write(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a table and write it as CSV."""
    columns = list(rows[0])
    widths = [max(len(column), *(len(str(row[column])) for row in rows)) for column in columns]
    for line in [columns, *([str(row[column]) for column in columns] for row in rows)]:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"speed_{name}.csv"
    with replacing(path, "w", newline="") as file:
        file.write(f"# python {shlex.join(sys.argv)}\n# {processor()}, torch {th.__version__}\n")
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    print(path)


def read(name: str) -> list[dict[str, str]]:
    """What ``write`` has written; nothing if it has not."""
    path = RESULTS / f"speed_{name}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))
