"""`make bench`: time and memory of one training step, against plain PyTorch and its peers.

    python -m benchmarks.run --workload MNIST --seconds 60

Every candidate takes its turns between plain PyTorch's, in one process; the median of the ratios
turn by turn is reported. Before that, its clipped sum on a few rows and without noise is held
against the definition. The results file is written after each workload, and `--resume` goes on
where a run was cut off.
"""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks import charts, machine, results
from benchmarks.candidates import CANDIDATES, Choices, Setting, Step
from benchmarks.correctness import TOLERANCE, error, few_rows, one_row_at_a_time
from benchmarks.measure import in_turns, quartiles, warm_up
from benchmarks.memory import peak
from benchmarks.operators import profiled
from benchmarks.pages import WRONG, speed_table
from benchmarks.phases import phases
from benchmarks.workloads import chosen

# Of the seconds a workload has for turns; Opacus stands for the quickest of its modes.
SHARES = {"deniable": 0.6, "vmap": 0.2, "opacus": 0.2}
PHASE_SECONDS = 4.0

METHOD = {
    "step": "the batch picked by index from data in memory, forward, backward, bound to norm 1, "
    "Gaussian noise of multiplier 1, SGD, zero_grad",
    "time": "one process; plain, candidate, plain, candidate, ..., plain; a turn is about 30 ms of "
    "steps, one at least, after an untimed step if steps are below 100 ms; a ratio is a turn over "
    "the mean of plain's turns beside it; quartiles over turns",
    "first step": "a candidate's first in the same process, after plain PyTorch has run; it "
    "includes the trial of strategies",
    "error": "of the clipped sum on a few rows without noise, relative, against float64 one row at "
    "a time",
    "memory": "each candidate in a fresh process, model and data and gradients included; on a CPU "
    "the running sum of what torch's allocator reports to its profiler ('first': the first two "
    "steps; 'steady': the third) and, for plain PyTorch and deniable, the growth of resident "
    "memory up to the peak of the third step ('resident'); on a GPU max_memory_allocated",
    "phases": "medians in milliseconds; on a GPU with a wait wherever a phase ends",
    "load": "processes that wanted to run in the minute before the row",
}


def main(
    workload: Annotated[str, typer.Option(help="Only workloads with this in their name.")] = "",
    seconds: Annotated[float, typer.Option(help="How long to take turns, per workload.")] = 45.0,
    out: Annotated[Path | None, typer.Option(help="The results file (JSON).")] = None,
    resume: Annotated[bool, typer.Option(help="Leave out what this code has measured.")] = False,
    replace: Annotated[bool, typer.Option(help="Begin the results file anew.")] = False,
    quick: Annotated[bool, typer.Option(help="Small batches, no file: does it run?")] = False,
    threads: Annotated[int, typer.Option(help="Threads of torch on a CPU.")] = 2,
) -> None:
    """Measure, print the table, write it as JSON; the chart is drawn from the usual file."""
    warnings.simplefilter("ignore")  # Opacus warns at every step
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    usual = results.FOLDER / ("speed.json" if device == "cpu" else "speed-gpu.json")
    path = None if quick else out or usual
    found = results.begin(
        path, {**machine.header("benchmarks.run", device), "method": METHOD}, replace
    )
    console = Console(stderr=True)
    for each in chosen(workload):
        if resume and results.holds(found, each.name, machine.code()):
            continue
        started = time.perf_counter()
        setting = Setting(each, 4 if quick else each.batch_on(device), device)
        with console.status(each.name) as status:
            row = measured(setting, 0.0 if quick else seconds, status.update)
        results.put(found, row)
        if path is not None:
            results.save(path, found)
        if path == usual:
            charts.speed(found, usual.stem)
        console.print(f"{in_short(row)}; {time.perf_counter() - started:.0f} s")
    print(speed_table(found))


@dataclass(frozen=True)
class Entrant:
    """A candidate that is right and warm, with the seconds of its first and quickest step."""

    name: str
    step: Step
    first: float
    quickest: float


def measured(setting: Setting, seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """One row of the table, as JSON."""
    row: dict[str, Any] = {
        "name": setting.workload.name,
        "batch": setting.batch,
        **machine.moment(),
        "candidates": {},
        "modes": {},
    }
    say(f"{row['name']}: checking a few rows")
    errors, failures = correctness(setting)
    plain = CANDIDATES["plain"](setting)
    warm_up(plain, setting.device)
    row["parameters"] = sum(each.numel() for each in plain.model.parameters())
    plain_seconds: list[float] = []
    choices: Choices = []
    for who, share in SHARES.items():
        say(f"{row['name']}: {who} in turns with plain PyTorch")
        for entrant in entrants(who, setting, errors, failures, row["modes"]):
            turns = in_turns(plain, entrant.step, setting.device, share * seconds)
            plain_seconds += turns.plain
            row["candidates"][entrant.name] = {
                **turns.summary(),
                "first_milliseconds": 1000 * entrant.first,
                "error": errors[entrant.name],
                "needs": entrant.step.needs,
            }
            if who == "deniable":
                choices = entrant.step.choices()
                row["inside"] = inside(setting, plain, entrant.step, min(seconds, PHASE_SECONDS))
        _let_go(setting.device)
    row["candidates"]["plain"] = {"milliseconds": quartiles([1000 * s for s in plain_seconds])}
    del plain
    for name, candidate in row["candidates"].items():
        say(f"{row['name']}: memory of {name}")
        try:
            candidate["memory"] = peak(name, setting, choices)
        except Exception as problem:
            failures[f"{name}, memory"] = in_a_line(problem)
    return {**row, "failures": failures}


def correctness(setting: Setting) -> tuple[dict[str, float], dict[str, str]]:
    """The errors of the candidates that are right on a few rows, and what the others do."""
    few = few_rows(setting)
    expected = one_row_at_a_time(few)
    errors: dict[str, float] = {}
    failures: dict[str, str] = {}
    for name in CANDIDATES:
        if name == "plain":
            continue
        try:
            off = error(name, few, expected)
        except Exception as problem:
            failures[name] = in_a_line(problem)
        else:
            if off <= TOLERANCE:
                errors[name] = off
            else:
                failures[name] = f"{WRONG}: its clipped sum is off by {off:.2g} of its norm"
        _let_go(setting.device)
    return errors, failures


def entrants(
    who: str,
    setting: Setting,
    errors: dict[str, float],
    failures: dict[str, str],
    modes: dict[str, dict[str, Any]],
) -> list[Entrant]:
    """The candidate, or of several modes the quickest; none where nothing right runs.

    Modes are noted in `modes` with the milliseconds of their quickest step.
    """
    best: list[Entrant] = []
    for name in [name for name in errors if name.startswith(who)]:
        try:
            step = CANDIDATES[name](setting)
            first, quickest = warm_up(step, setting.device)
        except Exception as problem:
            failures[name] = in_a_line(problem)
            continue
        if name != who:
            modes[name] = {"milliseconds": 1000 * quickest, "needs": step.needs}
        if not best or quickest < best[0].quickest:
            best = [Entrant(name, step, first, quickest)]
        del step
        _let_go(setting.device)
    return best


def inside(setting: Setting, plain: Step, private: Step, seconds: float) -> dict[str, Any]:
    """What deniable's step spends its time on, beside plain PyTorch's."""
    return {
        "explain": private.explain(),
        "phases": phases(setting, seconds, private.choices()),
        "profile": {
            "plain": profiled(plain, setting.device).summary(),
            "deniable": profiled(private, setting.device).summary(),
        },
    }


def in_a_line(problem: Exception) -> str:
    """What went wrong, short enough for a table."""
    words = " ".join(f"{type(problem).__name__}: {problem}".split())
    return words if len(words) <= 300 else words[:297] + "..."


def in_short(row: dict[str, Any]) -> str:
    """The row in one line, for those who wait."""
    found = [
        f"{name} {each['ratio']['median']:.2f}×"
        for name, each in row["candidates"].items()
        if name != "plain"
    ]
    return f"{row['name']}: {', '.join(found)}"


def _let_go(device: str) -> None:
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    typer.run(main)
