"""`deniable ledger`: what was released on one data set, and what may be."""

from __future__ import annotations

import json
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from deniable import words
from deniable.accounting import spent
from deniable.claim import planned_delta
from deniable.cli import options
from deniable.cli.spend import runs_table
from deniable.cli.stating import RELATIONS, say, table
from deniable.errors import LedgerError
from deniable.events import to_json
from deniable.ledger import Budget, Contents, Ledger
from deniable.runfolder import ledger_at
from deniable.units import finite

ledger_app = typer.Typer(
    help="Show, limit or close the ledger of a data set.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
Where = Annotated[
    Path, typer.Argument(help="A ledger, or the folder of a run in it.", metavar="LEDGER")
]


@ledger_app.command("show")
def show_command(path: Where, as_json: options.AsJson = False) -> None:
    """Show what was released on a data set, its budget, and what is left of it.

    Reading checks every hash of the ledger's chain: one that was changed is refused.
    """
    where = ledger_at(path)
    with Ledger(where, create=False) as book:
        contents = book.contents()
    if as_json:
        typer.echo(json.dumps(_as_json(where, contents), allow_nan=False))
        return
    console = Console()
    console.print(table(f"Ledger {where.name}", _rows(contents)))
    if contents.runs:
        console.print(runs_table(contents.records()))
    if len(contents.budgets) > 1:
        for at, budget in contents.budgets:
            say(console, f"Set at {_time(at)}: {_in_words(budget)}.")
    if contents.budget is not None:
        say(
            console,
            "What is left is no promise for a plan: costs of releases do not simply add up, and "
            "each plan is held against the budget with everything else.",
        )


@ledger_app.command("budget")
def budget_command(
    path: Where,
    epsilon: Annotated[
        float, typer.Option(help="The most that all releases on the data may cost together.")
    ],
    delta: Annotated[float, typer.Option(help="Delta at which that is counted.")],
    accountant: Annotated[
        str, typer.Option(help="Who counts: pld (tight) or rdp (quick).")
    ] = "pld",
    new: Annotated[bool, typer.Option("--new", help="Begin a ledger where there is none.")] = False,
) -> None:
    """Limit what all releases on a data set may cost together, from now on."""
    where = ledger_at(path)
    if not new and not where.exists():
        raise LedgerError(
            f"A ledger was expected at {where}, but there is no such file. Give the path of a "
            "ledger or of a run folder, or begin a ledger there with --new."
        )
    budget = Budget(epsilon, delta, accountant)  # refused before a file is made
    with Ledger(where) as book:
        book.set_budget(epsilon, delta, accountant)
        totals = book.contents().totals()
    typer.echo(f"{where}: {_in_words(budget)}; {words.rounded_up(budget.cost(totals))} is spent.")


@ledger_app.command("close")
def close_command(
    path: Where,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Forbid every further release on a data set, for good."""
    where = ledger_at(path)
    with Ledger(where, create=False) as book:
        book.contents().check_open()
        if not yes:
            typer.confirm(
                f"Nothing more can be released on the data of {where} after this, and it cannot "
                "be undone. Close it?",
                abort=True,
            )
        book.close_spending()
    typer.echo(f"{where} is closed: what was released stands, and nothing more may be.")


def _rows(contents: Contents) -> dict[str, str]:
    budget, relation = contents.budget, contents.neighbouring
    rows = {
        "data": contents.name or words.ABSENT,
        "fingerprints of the data": ", ".join(contents.fingerprints) or words.ABSENT,
        "protected": contents.unit or words.ABSENT,
        "neighbouring relation": RELATIONS[relation] if relation else words.ABSENT,
        "state": f"closed at {_time(contents.closed)}" if contents.closed else "open",
        "hash chain": f"holds, {contents.entries:,} entries",
        "first entry": f"{contents.identity[:16]}...",
        "last entry": f"{contents.head[:16]}...",
    }
    if budget is None:
        delta = planned_delta(contents.records())
        cost = spent(contents.event(), delta).epsilon
        return rows | {
            "budget": "none is set",
            "spent": f"epsilon {words.rounded_up(cost)} at delta {delta:g}",
        }
    cost = budget.cost(contents.totals())
    return rows | {
        "budget": _in_words(budget),
        "spent": f"epsilon {words.rounded_up(cost)}",
        "left": f"epsilon {_rounded_down(max(0.0, budget.epsilon - cost))}",
    }


def _as_json(where: Path, contents: Contents) -> dict[str, Any]:
    budget = contents.budget
    delta = budget.delta if budget else planned_delta(contents.records())
    cost = budget.cost(contents.totals()) if budget else spent(contents.event(), delta).epsilon
    return {
        "ledger": str(where),
        "data": contents.name,
        "fingerprints": contents.fingerprints,
        "unit": contents.unit,
        "neighbouring": contents.neighbouring.value if contents.neighbouring else None,
        "entries": contents.entries,
        "first_entry": contents.identity,
        "last_entry": contents.head,
        "chain": "holds",
        "closed": contents.closed,
        "budget": _budget_json(budget) if budget else None,
        "budgets": [{"at": at} | _budget_json(each) for at, each in contents.budgets],
        "spent": {"epsilon": finite(cost), "delta": delta},
        "left": max(0.0, budget.epsilon - cost) if budget else None,
        "runs": [
            {
                "run": each.run_id,
                "opened": each.opened,
                "steps": each.steps,
                "planned": each.planned,
                "event": to_json(each.event),
            }
            for each in contents.records()
        ],
    }


def _budget_json(budget: Budget) -> dict[str, Any]:
    return {
        "epsilon": budget.epsilon,
        "delta": budget.delta,
        "accountant": budget.accountant,
    }


def _in_words(budget: Budget) -> str:
    return (
        f"at most epsilon {budget.epsilon:g} at delta {budget.delta:g}, counted by "
        f"{budget.accountant}"
    )


def _rounded_down(value: float) -> str:
    return f"{Decimal(f'{value:.12g}').quantize(Decimal('0.001'), rounding=ROUND_FLOOR):f}"


def _time(at: str) -> str:
    return at[:16].replace("T", " ") + " UTC"
