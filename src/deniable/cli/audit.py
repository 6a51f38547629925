"""`deniable audit`: what can be measured of a run, against what is claimed of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from deniable import words
from deniable.cli import options
from deniable.cli.stating import number_columns
from deniable.report import render
from deniable.runfolder import RunFolder

if TYPE_CHECKING:
    from deniable.audit.findings import Audit, Finding

ABOVE_CLAIM = 1


def audit_command(
    run_folder: options.Run,
    fail_above_claim: Annotated[
        bool,
        typer.Option(
            "--fail-above-claim",
            help="Exit with status 1 when what was measured exceeds what is claimed.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what audit.json holds on standard output.")
    ] = False,
) -> None:
    """Test what a run claims: its step, its noise, its batches, and its canaries if it has any.

    Writes audit.json, and the report again.
    """
    RunFolder(run_folder).read()  # mistakes must not wait for torch
    found = audited(run_folder, Console(stderr=True))
    render(run_folder)
    if as_json:
        typer.echo(json.dumps(found.to_json(), allow_nan=False))
    else:
        show(found, Console())
    if fail_above_claim and not found.holds:
        raise typer.Exit(ABOVE_CLAIM)


def audited(run_folder: Path, console: Console) -> Audit:
    """The audit of a run, which says what it is about while it lasts."""
    with console.status("Auditing") as status:
        from deniable.audit.gate import audit

        return audit(run_folder, lambda what: status.update(f"Auditing {what}"))


def show(found: Audit, console: Console) -> None:
    """The findings as a table, and what follows from them."""
    from deniable.audit.findings import CONFIDENCE, TOGETHER

    table = Table(title="Audit", title_justify="left")
    table.add_column("what was tested")
    number_columns(table, "claimed", "measured, at least", "stands")
    for each in found.findings:
        table.add_row(each.name, *_row(each))
    console.print(table)
    lines = [
        f"Epsilon at delta {found.delta:g}. Each measurement is a lower bound, and holds with "
        f"{100 * CONFIDENCE:g}% confidence by itself; the verdict, with {100 * TOGETHER:g}% for "
        "all of them together."
    ]
    if any(each.claim not in (None, found.claim) for each in found.findings):
        lines.append(
            "What is claimed of one step is of that step alone, with everyone in it, which can be "
            "more than of a run whose steps take few."
        )
    if found.lower is None:
        lines.append("The run itself is measured where it was trained with --audit.")
    for each in found.failed():
        lines.append(f"REFUTED: {each.name}. {each.says}")
    lines.append(verdict(found))
    console.print("\n".join(lines), soft_wrap=True, highlight=False, markup=False)


def verdict(found: Audit) -> str:
    """The outcome in a sentence."""
    claim = words.rounded_up(found.claim)
    if not found.holds:
        return f"What was measured exceeds what is claimed: epsilon {claim} does not hold."
    if found.lower is None or found.lower.bound is None:
        return f"Nothing refutes the claim of epsilon {claim}."
    return (
        f"Nothing refutes the claim of epsilon {claim}; of the run itself, at least "
        f"{words.rounded_down(found.lower.bound.epsilon)} was measured."
    )


def _row(finding: Finding) -> tuple[str, str, str]:
    stands = "yes" if finding.holds else "NO"
    if finding.bound is None or finding.claim is None:
        return words.ABSENT, words.ABSENT, stands
    measured = finding.bound.epsilon
    return words.rounded_up(finding.claim), words.rounded_down(measured), stands
