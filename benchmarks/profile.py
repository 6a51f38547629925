"""Where deniable's remaining time goes: `python -m benchmarks.profile "MNIST CNN"`."""

from __future__ import annotations

from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from benchmarks.candidates import CANDIDATES, Setting
from benchmarks.measure import WARM_UP
from benchmarks.phases import ORDER, phases
from benchmarks.workloads import chosen

OPERATORS = 12


def main(
    workload: Annotated[str, typer.Argument(help="The workload, or a part of its name.")],
    seconds: Annotated[float, typer.Option(help="How long to measure the phases.")] = 10.0,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 2,
    operators: Annotated[bool, typer.Option(help="Also list torch's operators.")] = True,
) -> None:
    """Say how long each phase takes, and each operator, beside plain PyTorch."""
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    console = Console()
    for each in chosen(workload):
        setting = Setting(each, each.batch_on(device), device)
        console.print(phase_table(each.name, phases(setting, seconds)))
        if operators:
            console.print(operator_table(setting))


def phase_table(name: str, found: dict[str, Any]) -> Table:
    """Milliseconds by phase, and what that leaves above the floor."""
    plain, private = sum(found["plain"].values()), sum(found["deniable"].values())
    table = Table(title=f"{name}: milliseconds a step")
    for column in ("phase", "plain", "deniable", "more", "of plain's step"):
        table.add_column(column, justify="left" if column == "phase" else "right")
    for phase in ORDER:
        before, now = found["plain"].get(phase, 0.0), found["deniable"].get(phase, 0.0)
        more = now - before
        table.add_row(phase, f"{before:.2f}", f"{now:.2f}", f"{more:+.2f}", f"{more / plain:+.0%}")
    table.add_section()
    more = private - plain
    table.add_row("step", f"{plain:.2f}", f"{private:.2f}", f"{more:+.2f}", f"{more / plain:+.0%}")
    table.caption = f"{private / plain:.2f} times plain; the floor, plain and noise, is "
    table.caption += f"{found['floor']:.2f}"
    return table


def operator_table(setting: Setting) -> Table:
    """The operators in which deniable spends most time itself."""
    found = {name: operators_of(name, setting) for name in ("plain", "deniable")}
    most = sorted(found["deniable"].items(), key=lambda each: -each[1][0])[:OPERATORS]
    table = Table(title="operators: milliseconds and calls a step, by themselves")
    for column in ("operator", "plain", "calls", "deniable", "calls"):
        table.add_column(column, justify="left" if column == "operator" else "right")
    for operator, (milliseconds, calls) in most:
        before, calls_before = found["plain"].get(operator, (0.0, 0.0))
        row = f"{before:.2f}", f"{calls_before:g}", f"{milliseconds:.2f}", f"{calls:g}"
        table.add_row(operator, *row)
    return table


def operators_of(name: str, setting: Setting, steps: int = 5) -> dict[str, tuple[float, float]]:
    """Milliseconds and calls of each operator in one step of a candidate."""
    step = CANDIDATES[name](setting)
    for _ in range(WARM_UP):
        step.run()
    on_gpu = setting.device != "cpu"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as watched:
        for _ in range(steps):
            step.run()
    return {
        each.key: (
            (each.self_device_time_total if on_gpu else each.self_cpu_time_total) / steps / 1000,
            each.count / steps,
        )
        for each in watched.key_averages()
    }


if __name__ == "__main__":
    typer.run(main)
