"""Where deniable's remaining time goes: `python -m benchmarks.profile "MNIST CNN"`."""

from __future__ import annotations

from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.candidates import CANDIDATES, Setting
from benchmarks.measure import warm_up
from benchmarks.operators import Profile, profiled
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
            console.print(
                operator_table(profile_of("plain", setting), profile_of("deniable", setting))
            )


def profile_of(name: str, setting: Setting) -> Profile:
    """The profile of a candidate that is made for it."""
    step = CANDIDATES[name](setting)
    warm_up(step, setting.device)
    return profiled(step, setting.device)


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
    table.caption = f"{private / plain:.2f} times plain; the floor (plain, noise, and reading all "
    table.caption += f"inputs and outputs once) is {found['floor']:.2f}"
    return table


def operator_table(plain: Profile, private: Profile) -> Table:
    """The operators in which deniable spends most time itself."""
    most = sorted(private.operators.items(), key=lambda each: -each[1][0])[:OPERATORS]
    table = Table(title="operators: milliseconds and calls a step, by themselves")
    for column in ("operator", "plain", "calls", "deniable", "calls"):
        table.add_column(column, justify="left" if column == "operator" else "right")
    for operator, (milliseconds, calls) in most:
        before, calls_before = plain.operators.get(operator, (0.0, 0.0))
        row = f"{before:.2f}", f"{calls_before:g}", f"{milliseconds:.2f}", f"{calls:g}"
        table.add_row(operator, *row)
    table.caption = f"Python between operators: {plain.python:.2f} and {private.python:.2f} ms; "
    table.caption += (
        f"the host asks for a value {plain.waits or 'never'} and {private.waits or 'never'}"
    )
    return table


if __name__ == "__main__":
    typer.run(main)
