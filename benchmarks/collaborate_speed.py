"""How much faster two workers are than one, of one thread each: the MNIST CNN, in turns.

    python -m benchmarks.collaborate_speed --turns 4 --rounds 40

A turn trains with one worker and then with two, each with a coordinator in a process of its own; a
plain private loop in one process, of one thread, goes between them. What counts is the time of a
round, from the coordinator asking to the coordinator having stepped: the median of each turn, and
of the turns their median.
"""

from __future__ import annotations

import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import nn

import deniable
from benchmarks import machine, results
from benchmarks.processes import together
from benchmarks.workloads import digits, mnist_cnn
from deniable.collaborate import Place
from deniable.plan import Plan

EXAMPLES = 12_000
OUT = results.FOLDER / "collaborate_speed.json"
FIRST = 8  # rounds in which ways are still being tried


def script(place: Place, plan: dict[str, Any]) -> list[float] | None:
    """What every process runs; the coordinator returns how long each round took."""
    torch.manual_seed(place.rank)
    data = digits(EXAMPLES)
    model = mnist_cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    private = deniable.collaborate(model, optimizer, Plan.from_json(plan), place=place)
    ends = []
    if private.is_coordinator:
        for _ in private.rounds():
            ends.append(time.perf_counter())
        return [after - before for before, after in pairwise(ends)][FIRST:]
    for images, labels in private.batches(data):
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return None


def alone(_place: Place, plan: dict[str, Any]) -> list[float]:
    """The same in one process, without a coordinator."""
    data, model = digits(EXAMPLES), mnist_cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    private = deniable.attach(model, optimizer, Plan.from_json(plan))
    ends = []
    for images, labels in private.batches(data):
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        ends.append(time.perf_counter())
    return [after - before for before, after in pairwise(ends)][FIRST:]


def measured(batch_size: int, rounds: int, turns: int) -> dict[str, Any]:
    """A row of the results."""
    plan = Plan(EXAMPLES, batch_size, steps=rounds + FIRST + 1, noise_multiplier=1.0, delta=1e-5)
    seconds: dict[str, list[float]] = {"alone": [], "one worker": [], "two workers": []}
    for _ in range(turns):
        for name, workers, run in (
            ("one worker", 1, script),
            ("two workers", 2, script),
            ("alone", 0, alone),
        ):
            seconds[name].append(statistics.median(together(workers, run, plan.to_json())[0]))
    usual = {name: statistics.median(each) for name, each in seconds.items()}
    return {
        "name": f"batch {batch_size}",
        "batch_size": batch_size,
        "rounds": rounds,
        "seconds": seconds,
        "speedup": usual["one worker"] / usual["two workers"],
        "speedup_over_alone": usual["alone"] / usual["two workers"],
        **machine.moment(),
    }


def main(
    batch_sizes: Annotated[str, typer.Option(help="Separated by commas.")] = "256,1024",
    rounds: Annotated[int, typer.Option(help="Of a training.")] = 40,
    turns: Annotated[int, typer.Option(help="How often each comes.")] = 4,
    out: Annotated[Path, typer.Option(help="Results file.")] = OUT,
) -> None:
    """Measure, and write the results file."""
    found = results.begin(out, machine.header("benchmarks.collaborate_speed", "cpu"), False)
    for batch_size in map(int, batch_sizes.split(",")):
        row = measured(batch_size, rounds, turns)
        results.put(found, row)
        results.save(out, found)
        usual = {name: f"{1e3 * statistics.median(each):.1f}" for name, each in
                 row["seconds"].items()}  # fmt: skip
        Console(stderr=True).print(
            f"batch {batch_size}: {row['speedup']:.2f} times one worker, "
            f"{row['speedup_over_alone']:.2f} times alone; milliseconds {usual}"
        )


if __name__ == "__main__":
    typer.run(main)
