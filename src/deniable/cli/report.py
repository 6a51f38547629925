"""`deniable report`: the page of a run, written again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deniable.report import render


def report_command(
    run_folder: Annotated[
        Path,
        typer.Argument(help="The folder that `deniable train` wrote: it holds run.json."),
    ],
) -> None:
    """Write report.html of a run again, from its record and its ledger, and print where it is."""
    typer.echo(render(run_folder))
