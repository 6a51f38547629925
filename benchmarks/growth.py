"""`make growth`: how time and memory grow with batch, width, length and depth.

    python -m benchmarks.growth --of length --seconds 10

A causal transformer, because all four mean something to it. Each size is measured as `make bench`
measures a workload, but memory in a process for all candidates. The results file is written after
each size, and `--resume` goes on where a run was cut off.
"""

from __future__ import annotations

import gc
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import Tensor

from benchmarks import charts, machine, results
from benchmarks.candidates import CANDIDATES, Setting
from benchmarks.measure import in_turns, quartiles, warm_up
from benchmarks.memory import process, tensors
from benchmarks.run import METHOD, in_a_line, in_short
from benchmarks.workloads import Transformer, Workload, token_loss

SHARES = {"deniable": 0.5, "vmap": 0.25, "opacus ew": 0.25}
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


SWEEPS = {
    "batch": (4, 8, 16, 32, 64, 128),
    "width": (32, 64, 128, 256, 512),
    "length": (16, 32, 64, 128, 256, 512),
    "depth": (1, 2, 4, 8, 16),
}


def main(
    of: Annotated[str, typer.Option(help="Only this: batch, width, length or depth.")] = "",
    seconds: Annotated[float, typer.Option(help="How long to take turns, per size.")] = 4.0,
    out: Annotated[Path | None, typer.Option(help="The results file (JSON).")] = None,
    resume: Annotated[bool, typer.Option(help="Leave out what this code has measured.")] = False,
    replace: Annotated[bool, typer.Option(help="Begin the results file anew.")] = False,
    quick: Annotated[bool, typer.Option(help="Small sizes, no file: does it run?")] = False,
    threads: Annotated[int, typer.Option(help="Threads of torch on a CPU.")] = 2,
) -> None:
    """Measure, write JSON, and draw the chart."""
    warnings.simplefilter("ignore")  # Opacus warns at every step
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    usual = results.FOLDER / ("growth.json" if device == "cpu" else "growth-gpu.json")
    path = None if quick else out or usual
    header = {
        **machine.header("benchmarks.growth", device),
        "model": MODEL,
        "method": METHOD,
        "candidates": ["plain", *SHARES],
    }
    found = results.begin(path, header, replace)
    console = Console(stderr=True)
    with process() as pool:
        for point in points(of, quick):
            if resume and results.holds(found, point["name"], machine.code()):
                continue
            started = time.perf_counter()
            setting = Size(**{point["of"]: point["size"]}).setting(device)
            with console.status(point["name"]):
                point |= machine.moment() | measured(setting, 0.0 if quick else seconds, pool)
            results.put(found, point)
            if path is not None:
                results.save(path, found)
            console.print(f"{in_short(point)}; {time.perf_counter() - started:.0f} s")
    if path == usual:
        console.print(f"Drawn: {charts.growth(found, usual.stem)}")


def points(of: str, quick: bool) -> list[dict[str, Any]]:
    """What is measured, in order."""
    return [
        {"name": f"{each} {size}", "of": each, "size": size}
        for each, sizes in SWEEPS.items()
        if of in each
        for size in (sizes[:2] if quick else sizes)
    ]


def measured(setting: Setting, seconds: float, pool: ProcessPoolExecutor) -> dict[str, Any]:
    """Time and memory of every candidate at one size."""
    plain = CANDIDATES["plain"](setting)
    warm_up(plain, setting.device)
    plain_seconds: list[float] = []
    candidates: dict[str, dict[str, Any]] = {"plain": {}}
    failures: dict[str, str] = {}
    for name, share in SHARES.items():
        try:
            step = CANDIDATES[name](setting)
            warm_up(step, setting.device)
            turns = in_turns(plain, step, setting.device, share * seconds)
        except Exception as problem:
            failures[name] = in_a_line(problem)
            continue
        plain_seconds += turns.plain
        candidates[name] = turns.summary()
        del step
        gc.collect()
    candidates["plain"]["milliseconds"] = quartiles([1000 * each for each in plain_seconds])
    for name in candidates:
        candidates[name]["memory"] = tensors(name, setting, pool)
    return {"candidates": candidates, "failures": failures}


if __name__ == "__main__":
    typer.run(main)
