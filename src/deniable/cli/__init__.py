"""The command line: `deniable train`, `plan`, `explain`, `spend` and so on.

A command parses, calls and prints; what it knows lives further down. No command module imports
torch when it is itself imported, so that most of them answer without loading it.
"""

from __future__ import annotations

import errno
import logging
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, TextIO

import typer

from deniable import __version__
from deniable.cli.attack import attack_app
from deniable.cli.audit import audit_command
from deniable.cli.claim import claim_command
from deniable.cli.compare import compare_command, generate_command
from deniable.cli.explain import explain_command
from deniable.cli.ledger import ledger_app
from deniable.cli.plan import plan_command
from deniable.cli.report import report_command
from deniable.cli.reproduce import reproduce_command
from deniable.cli.search import search_command
from deniable.cli.spend import spend_command
from deniable.cli.train import train_command
from deniable.errors import DeniableError, DeniableWarning

# Plain help reads the same in a terminal, a pipe and docs/cli.md. A bug shows Python's own
# traceback: typer's prints local variables, and those may hold private data.
app = typer.Typer(
    name="deniable",
    help="Train PyTorch models with differential privacy, and prove what is claimed.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"deniable {__version__}")
        raise typer.Exit


@app.callback()
def _whole(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_say_version, is_eager=True, help="Say which version this is."
        ),
    ] = False,
) -> None:
    """What is asked of the program rather than of a command."""


app.command("train")(train_command)
app.command("plan")(plan_command)
app.command("explain")(explain_command)
app.command("search")(search_command)
app.command("spend")(spend_command)
app.command("claim")(claim_command)
app.add_typer(attack_app, name="attack")
app.add_typer(ledger_app, name="ledger")
app.command("audit")(audit_command)
app.command("report")(report_command)
app.command("compare")(compare_command)
app.command("generate")(generate_command)
app.command("reproduce")(reproduce_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit; `arguments` default to those of the process.

    An error that deniable raises on purpose, or a file that cannot be read or written, is a message
    on standard error and exit status 2; anything else is a bug and keeps its traceback. A warning
    that deniable gives on purpose is a message, too.

    Raises:
        SystemExit: always, with the exit status.
    """
    log = logging.getLogger("deniable")
    log.disabled = True  # commands say it themselves
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            app(args=arguments)
    except DeniableError as problem:
        print(f"deniable: {problem}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as problem:
        if problem.filename is None and problem.errno != errno.ENOSPC:
            raise
        print(
            f"deniable: {problem.strerror}: {problem.filename or 'the disk'}. Files that were "
            "written before are whole; give another place, or make room, and run it again (a "
            "training goes on by `deniable train --resume`).",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    finally:
        log.disabled = False


_SHOW_OTHER = warnings.showwarning


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if issubclass(category, DeniableWarning):
        print(f"deniable: {message}", file=sys.stderr)
    else:
        _SHOW_OTHER(message, category, filename, lineno, file, line)


__all__ = ["app", "main"]
