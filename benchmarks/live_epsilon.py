"""What the live epsilon costs while `deniable train` trains.

    python -m benchmarks.live_epsilon
    python -m benchmarks.live_epsilon --data mnist --epochs 1

Trains as the command does, with a clock around every reading of epsilon, for the watcher and for
the rows of the history. What is done once, before the first step and after the last, is not in it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from benchmarks import machine
from deniable.settings import Settings
from deniable.training import begin, fit, loop


class Clocked(loop.LiveEpsilon):
    """Counts its readings and the time in them."""

    prepared = spent = 0.0
    readings = -1  # the preparation makes one

    def __init__(self, *arguments: object) -> None:
        started = time.perf_counter()
        super().__init__(*arguments)  # type: ignore[arg-type]
        Clocked.prepared = time.perf_counter() - started

    def recent(self) -> float:
        with _clock():
            return super().recent()

    def _read(self, ahead: int) -> float:
        Clocked.readings += 1
        return super()._read(ahead)


@contextmanager
def _clock() -> Iterator[None]:
    started = time.perf_counter()
    yield
    Clocked.spent += time.perf_counter() - started


def main(
    data: Annotated[str, typer.Option(help="Which data set.")] = "digits",
    epsilon: Annotated[float, typer.Option(help="Of the plan.")] = 3.0,
    epochs: Annotated[float | None, typer.Option(help="Passes over the data.")] = None,
    threads: Annotated[int, typer.Option(help="Threads of torch on a CPU.")] = 2,
) -> None:
    """Train once and print the share of the time that the live epsilon took."""
    torch.set_num_threads(threads)
    loop.LiveEpsilon = Clocked  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        run = begin(Settings.choose(data, epsilon=epsilon, epochs=epochs), Path(folder) / "run")
        fit(run, lambda _: None)
    steps, seconds = run.private.steps, run.seconds
    Console().print_json(
        data={
            "machine": machine.description("cpu"),
            "data": data,
            "steps": steps,
            "milliseconds a step": round(1e3 * seconds / steps, 3),
            "readings": Clocked.readings,
            "milliseconds a reading": round(1e3 * Clocked.spent / Clocked.readings, 3),
            "milliseconds once, before the first step": round(1e3 * Clocked.prepared, 1),
            "share of the time of the steps": f"{Clocked.spent / seconds:.2%}",
        }
    )


if __name__ == "__main__":
    typer.run(main)
