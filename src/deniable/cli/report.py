"""`deniable report`: the page of a run, written again."""

from __future__ import annotations

import typer

from deniable.cli import options
from deniable.report import render


def report_command(
    run_folder: options.Run,
) -> None:
    """Write report.html of a run again, from its record and its ledger, and print where it is."""
    typer.echo(render(run_folder))
