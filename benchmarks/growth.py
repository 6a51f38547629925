"""`make growth`: how time and memory grow with batch, width, length and depth.

A causal transformer, because all four mean something to it. Each size is measured as `make bench`
measures a workload: candidates in turns in one process, memory in a process of its own.
"""

from __future__ import annotations

import gc
import json
import math
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from benchmarks import charts, machine
from benchmarks.candidates import CANDIDATES, Setting, Step
from benchmarks.measure import in_turns, quartiles, ratios, warm_up
from benchmarks.memory import process, tensors
from benchmarks.pages import RESULTS
from benchmarks.run import METHOD, in_a_line
from benchmarks.workloads import Transformer, Workload, token_loss

COMPARED = ("plain", "deniable", "vmap", "opacus hooks")
VOCABULARY = 1000
MODEL = (
    "A causal transformer of width 64, 2 blocks, 4 heads, 1,000 tokens, on 16 rows of length 64; "
    "one of the four grows at a time."
)


@dataclass(frozen=True)
class Size:
    """A transformer and its batch."""

    batch: int = 16
    width: int = 64
    length: int = 64
    depth: int = 2

    def setting(self, device: str) -> Setting:
        build = partial(Transformer, self.width, self.depth, VOCABULARY, self.length)
        data = partial(sequences, length=self.length)
        return Setting(
            Workload("transformer", self.batch, build, data, token_loss), self.batch, device
        )


def sequences(n: int, length: int) -> tuple[Tensor, Tensor]:
    return torch.randint(VOCABULARY, (n, length)), torch.randint(VOCABULARY, (n, length))


SWEEPS: dict[str, tuple[Callable[[int], Size], tuple[int, ...]]] = {
    "batch": (lambda size: Size(batch=size), (4, 8, 16, 32, 64, 128)),
    "width": (lambda size: Size(width=size), (32, 64, 128, 256, 512)),
    "length": (lambda size: Size(length=size), (16, 32, 64, 128, 256, 512)),
    "depth": (lambda size: Size(depth=size), (1, 2, 4, 8, 16)),
}


def main(
    seconds: Annotated[float, typer.Option(help="How long to take turns, per size.")] = 4.0,
    out: Annotated[Path | None, typer.Option(help="The results file (JSON).")] = None,
    quick: Annotated[bool, typer.Option(help="Two small sizes each: does it run?")] = False,
    threads: Annotated[int, typer.Option(help="Threads of torch on a CPU.")] = 2,
) -> None:
    """Measure, write JSON, and draw the chart."""
    warnings.simplefilter("ignore")  # Opacus warns at every step
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    console = Console(stderr=True)
    usual = RESULTS / ("growth.json" if device == "cpu" else "growth-gpu.json")
    if out is None and not quick:
        out = usual
    sweeps = []
    with Progress(console=console) as progress, process() as pool:
        for of, (make, sizes) in SWEEPS.items():
            sizes = sizes[:2] if quick else sizes
            points = [
                {"size": size, **measured(make(size).setting(device), seconds, pool)}
                for size in progress.track(sizes, description=of)
            ]
            sweeps.append(
                {"of": of, "sizes": list(sizes), "points": points, "exponents": exponents(points)}
            )
    found = {
        "command": " ".join(["python -m benchmarks.growth", *sys.argv[1:]]),
        "device": device,
        "machine": machine.description(device),
        "code": machine.code(),
        "date": machine.today(),
        "model": MODEL,
        "method": METHOD,
        "candidates": list(COMPARED),
        "sweeps": sweeps,
    }
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        console.print(f"Written: {out}")
    if out == usual:
        console.print(f"Drawn: {charts.growth(found, usual.stem)}")


def measured(setting: Setting, seconds: float, pool: ProcessPoolExecutor) -> dict[str, Any]:
    """Time and memory of every candidate at one size."""
    steps: dict[str, Step] = {}
    failures: dict[str, str] = {}
    for name in COMPARED:
        try:
            steps[name] = CANDIDATES[name](setting)
            warm_up(steps[name], setting.device)
        except Exception as problem:
            steps.pop(name, None)
            failures[name] = in_a_line(problem)
    times = in_turns(steps, setting.device, seconds)
    steps.clear()
    gc.collect()
    return {
        "candidates": {
            name: {
                "milliseconds": quartiles([1000 * each for each in taken]),
                "ratio": ratios(taken, times["plain"]),
                "memory": tensors(name, setting, pool),
            }
            for name, taken in times.items()
        },
        "failures": failures,
    }


def exponents(points: list[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """By candidate, the power of the size with which time and memory grew at last."""
    found: dict[str, dict[str, float | None]] = {}
    for name in COMPARED:
        before, after = (point["candidates"].get(name) for point in points[-2:])
        if before is None or after is None:
            found[name] = {"time": None, "memory": None}
            continue
        growth = math.log(points[-1]["size"] / points[-2]["size"])
        times = after["milliseconds"]["median"] / before["milliseconds"]["median"]
        bytes_ = after["memory"]["peak"] / before["memory"]["peak"]
        found[name] = {"time": math.log(times) / growth, "memory": math.log(bytes_) / growth}
    return found


if __name__ == "__main__":
    typer.run(main)
