"""`make bench`: time and memory of one training step, against plain PyTorch and its peers.

    python -m benchmarks.run --workload MNIST --seconds 20

All candidates of a workload are timed in one process and in turns; ratios are taken within each
round, and their median is reported. Before a candidate is timed, its clipped sum without noise is
held against the definition, one row at a time in float64.
"""

from __future__ import annotations

import gc
import json
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import Progress, TaskID

from benchmarks import charts, machine
from benchmarks.candidates import CANDIDATES, Setting, Step, error, one_row_at_a_time
from benchmarks.measure import in_turns, quartiles, ratios, warm_up
from benchmarks.memory import peak
from benchmarks.pages import RESULTS, speed_table
from benchmarks.phases import phases
from benchmarks.workloads import chosen

# float32 against float64, on sums of a few hundred clipped gradients; a wrong rule is off by 0.1.
TOLERANCE = 0.01

METHOD = {
    "step": "forward, backward, bound to norm 1, Gaussian noise of multiplier 1, SGD, zero_grad",
    "time": "one process, candidates in turns; a turn is an untimed step and then about 30 ms of "
    "steps; ratios within each round, then quartiles over rounds",
    "memory": "each candidate in a fresh process, model and data and gradients included; on a CPU "
    "the running sum of what torch's allocator reports to its profiler ('peak': steps after the "
    "warm-up; 'first': the warm-up, in which strategies are tried) and the growth of resident "
    "memory ('resident'); on a GPU max_memory_allocated",
    "error": "of the clipped sum without noise, relative, against float64 one row at a time",
    "phases": "medians in milliseconds; on a GPU with a wait wherever a phase ends",
}


def main(
    workload: Annotated[str, typer.Option(help="Only workloads with this in their name.")] = "",
    seconds: Annotated[float, typer.Option(help="How long to take turns, per workload.")] = 30.0,
    out: Annotated[Path | None, typer.Option(help="The results file (JSON).")] = None,
    quick: Annotated[bool, typer.Option(help="Small batches: does it run at all?")] = False,
    threads: Annotated[int, typer.Option(help="Threads of torch on a CPU.")] = 2,
) -> None:
    """Measure, print the table, and write it as JSON; charts are drawn for the usual file."""
    warnings.simplefilter("ignore")  # Opacus warns at every step
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    usual = RESULTS / ("speed.json" if device == "cpu" else "speed-gpu.json")
    if out is None and not quick:
        out = usual
    console = Console(stderr=True)
    settings = [
        Setting(each, 4 if quick else each.batch_on(device), device) for each in chosen(workload)
    ]
    rows = []
    with Progress(console=console) as progress:
        for setting in settings:
            task = progress.add_task(setting.workload.name, total=None)
            rows.append(measured(setting, seconds, quick, progress, task))
            progress.update(task, total=1, completed=1, description=setting.workload.name)
    found = {
        "command": " ".join(["python -m benchmarks.run", *sys.argv[1:]]),
        "device": device,
        "machine": machine.description(device),
        "method": METHOD,
        "rows": rows,
    }
    if out is not None:
        found = beside_earlier(found, out)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        console.print(f"Written: {out}")
    if out == usual:
        console.print(f"Drawn: {charts.speed(found, usual.stem)}")
    print(speed_table(found))


def measured(
    setting: Setting, seconds: float, quick: bool, progress: Progress, task: TaskID
) -> dict[str, Any]:
    """One row of the table, as JSON."""

    def say(words: str) -> None:
        progress.update(task, description=f"{setting.workload.name}: {words}")

    errors, failures = correctness(setting, say)
    steps, tried = ready(setting, errors, failures, say)
    say("taking turns")
    progress.update(task, total=seconds, completed=0)
    times = in_turns(
        steps, setting.device, seconds, lambda passed: progress.update(task, completed=passed)
    )
    progress.update(task, total=None)
    explained = steps["deniable"].explain()
    parameters = sum(each.numel() for each in steps["plain"].model.parameters())
    kept = list(steps)
    steps.clear()
    _let_go(setting.device)
    memory: dict[str, Any] = {}
    for name in kept:
        say(f"memory of {name}")
        try:
            memory[name] = peak(name, setting)
        except Exception as problem:
            failures[f"{name}, memory"] = in_a_line(problem)
    say("phases")
    return {
        "workload": setting.workload.name,
        "batch": setting.batch,
        "parameters": parameters,
        "date": machine.today(),
        "code": machine.code(),
        "rounds": len(times["plain"]),
        "candidates": {
            name: {
                "milliseconds": quartiles([1000 * each for each in times[name]]),
                "ratio": ratios(times[name], times["plain"]),
                "memory": memory.get(name),
                "error": errors.get(name),
            }
            for name in kept
        },
        "opacus_milliseconds": {
            name: 1000 * took for name, took in tried.items() if name.startswith("opacus")
        },
        "failures": failures,
        "explain": explained,
        "phases": phases(setting, 0.1 if quick else 5.0),
    }


def correctness(setting: Setting, say: Any) -> tuple[dict[str, float], dict[str, str]]:
    """Each candidate's error at the workload's own batch size, and why others do not run."""
    smaller = Setting(setting.workload, min(setting.batch, setting.workload.batch), setting.device)
    say("one row at a time")
    expected = one_row_at_a_time(smaller)
    errors: dict[str, float] = {}
    failures: dict[str, str] = {}
    for name in CANDIDATES:
        if name == "plain":
            continue
        say(f"checking {name}")
        try:
            errors[name] = error(name, smaller, expected)
        except Exception as problem:
            failures[name] = in_a_line(problem)
        else:
            if not errors[name] <= TOLERANCE:
                failures[name] = f"runs, but its clipped sum is off by {errors[name]:.2g}"
        _let_go(setting.device)
    if "deniable" in failures:
        raise RuntimeError(f"deniable on {setting.workload.name}: {failures['deniable']}")
    return errors, failures


def ready(
    setting: Setting, errors: dict[str, float], failures: dict[str, str], say: Any
) -> tuple[dict[str, Step], dict[str, float]]:
    """What takes turns (of Opacus's modes the quickest), and seconds a step in the warm-up."""
    steps: dict[str, Step] = {}
    took: dict[str, float] = {}
    for name in ("plain", *errors):
        if name in failures:
            continue
        say(f"warming up {name}")
        try:
            step = CANDIDATES[name](setting)
            took[name] = warm_up(step, setting.device)
        except Exception as problem:
            failures[name] = in_a_line(problem)
        else:
            steps[name] = step
            _only_the_quickest(steps, took)
        _let_go(setting.device)
    return steps, took


def _only_the_quickest(steps: dict[str, Step], took: dict[str, float]) -> None:
    modes = sorted((name for name in steps if name.startswith("opacus")), key=took.__getitem__)
    for name in modes[1:]:
        del steps[name]


def in_a_line(problem: Exception) -> str:
    """What went wrong, short enough for a table."""
    words = " ".join(f"{type(problem).__name__}: {problem}".split())
    return words if len(words) <= 300 else words[:297] + "..."


def beside_earlier(found: dict[str, Any], out: Path) -> dict[str, Any]:
    """The new rows in place of the old ones, where the file is of the same machine."""
    if not out.exists():
        return found
    earlier = json.loads(out.read_text(encoding="utf-8"))
    if earlier.get("machine") != found["machine"]:
        return found
    fresh = {row["workload"]: row for row in found["rows"]}
    kept = [fresh.pop(row["workload"], row) for row in earlier["rows"]]
    return {**found, "rows": [*kept, *fresh.values()]}


def _let_go(device: str) -> None:
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    typer.run(main)
