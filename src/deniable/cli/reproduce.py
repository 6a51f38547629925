"""`deniable reproduce`: the figures and tables of the papers, made again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from deniable import words
from deniable.cli import options
from deniable.cli.train import INTERRUPTED
from deniable.errors import SettingsError
from deniable.papers import Chosen, Progress, choose, reproduce

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS_BETWEEN_LINES = 10.0


def reproduce_command(
    name: Annotated[
        str | None,
        typer.Argument(help="paper/experiment, a paper, or all; --list shows what there is."),
    ] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="Show every claim with its verdict, and run nothing.")
    ] = False,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Small trainings on data in the package, to see that experiments run."
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for results, figures and pages [docs/papers; runs/quick with --quick]."
        ),
    ] = None,
    data_dir: options.DataDir = None,
) -> None:
    """Make figures and tables of the papers again, and say whether their claims hold.

    Every training is saved when it is done, and Ctrl-C saves the one that is running: the same
    command goes on there.
    """
    folder = out or Path("runs/quick" if quick else "docs/papers")
    if name is None and not listed:
        raise SettingsError("Say what to reproduce: paper/experiment, a paper, or all. Or --list.")
    chosen = choose(name or "all", quick=quick)
    if listed:
        typer.echo(verdicts(chosen, folder))
        if not any(each.results(folder).entries for each in chosen):
            typer.echo(
                f"No results were found in {folder.as_posix()}. Those that come with deniable are "
                "in docs/papers of its repository: give that folder of a clone with --out, or run "
                "without --list."
            )
        return
    console = Console(stderr=True)
    with _watched(console) as watch:
        complete = reproduce(chosen, folder, watch, data_dir)
    if not complete:
        again = f"deniable reproduce {name}{' --quick' * quick}"
        if out is not None:
            again += f" --out {out.as_posix()}"
        console.print(f"Stopped, and saved. Go on with: {again}", soft_wrap=True, highlight=False)
        raise typer.Exit(INTERRUPTED)
    typer.echo(verdicts(chosen, folder))


def verdicts(chosen: list[Chosen], folder: Path) -> str:
    """Every claim, and how it stands."""
    lines = []
    for each in chosen:
        results = each.results(folder)
        lines.append(f"{each.name}  {each.experiment.title}")
        for claim in each.experiment.claims:
            verdict = claim.verdict(results)
            said = "" if verdict.agrees is None else f": {verdict.ours}"
            lines.append(f"  {verdict.word:8} {claim.paper}{said}")
    if chosen and chosen[0].quick:
        lines.append("Quick: small trainings, which say nothing about the papers.")
    return "\n".join(lines)


@contextmanager
def _watched(console: Console) -> Iterator[Callable[[Progress], None]]:
    if console.is_terminal:
        with console.status("") as status:
            yield lambda progress: status.update(_said(progress))
        return
    told = [float("-inf")]

    def show(progress: Progress) -> None:
        if time.monotonic() - told[0] >= SECONDS_BETWEEN_LINES:
            console.print(_said(progress), soft_wrap=True, highlight=False)
            told[0] = time.monotonic()

    yield show


def _said(progress: Progress) -> str:
    left = (
        "" if progress.seconds_left is None else f", {words.duration(progress.seconds_left)} left"
    )
    return (
        f"{words.percent(progress.share)} of all{left}: {progress.name}, {progress.point}, "
        f"{progress.said}"
    )
