"""`deniable claim`: what a ledger proves, to be published; and its verification."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from deniable import words
from deniable.accounting import spent
from deniable.claim import Claim, Difference, read_claim, verify
from deniable.cli import options
from deniable.cli.display import resume_command
from deniable.cli.stating import say
from deniable.ledger import Ledger
from deniable.runfolder import RunFolder, ledger_at, write_json

REFUTED = 1  # the exit status where a claim is not borne out


def claim_command(
    path: Annotated[
        Path, typer.Argument(help="A run folder, or a ledger.", metavar="RUN", show_default=False)
    ],
    run: Annotated[
        str | None,
        typer.Option(help="One run of the ledger [that of the folder; of a ledger, everything]."),
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="Delta to state epsilon at [that of the plan, or 1e-5].")
    ] = None,
    accountant: Annotated[
        str | None, typer.Option(help="Who states epsilon: pld or rdp [as in the plan].")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the claim to this JSON file.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Say what a run's ledger proves, and on what that rests.

    `deniable spend --verify` holds a claim against its ledger.
    """
    record = _record_of(path)
    with Ledger(ledger_at(path), create=False) as book:
        claim = Claim.of(book.contents(), run or record.get("run_id"), delta, accountant)
    if out is not None:
        write_json(out, claim.to_json())
    if as_json:
        typer.echo(json.dumps(claim.to_json(), allow_nan=False))
        return
    console = Console()
    for paragraph in claim.in_words():
        say(console, paragraph)
    if claim.run == record.get("run_id") and record.get("status", "complete") != "complete":
        say(
            console,
            f"The run in {path} is not complete, and this claim is not true of it any more once it "
            f"goes on: {resume_command(path)}",
        )
    say(console, "This rests on what no ledger can show:")
    for each in claim.assumptions:
        console.print(f"- {each}", highlight=False, markup=False)
    say(
        console,
        f"From ledger {claim.ledger[:16]}..., up to its entry {claim.last_entry[:16]}...",
    )
    if out is not None:
        say(console, f"Written to {out}; `deniable spend --verify {out} {path}` checks it.")


def check_claim(path: Path, ledger: Path, as_json: bool) -> None:
    """Says whether a claim is borne out, and exits with `REFUTED` if not."""
    values = read_claim(path)
    with Ledger(ledger, create=False) as book:
        differences = verify(values, book)
        event = book.event()
    claim = Claim.from_json(values)
    now = spent(event, claim.delta, claim.accountant).epsilon
    if as_json:
        typer.echo(json.dumps(_as_json(differences, now), allow_nan=False))
    elif differences:
        console = Console()
        say(console, f"NOT BORNE OUT: the ledger {ledger} says something else than {path}.")
        console.print(_table(differences))
    else:
        console = Console()
        say(console, f"Verified: the ledger {ledger} bears out {path}, entry for entry.")
        for paragraph in claim.in_words():
            say(console, paragraph)
        if now > claim.everything:
            say(
                console,
                "More was released on these data since then: everything together now costs "
                f"epsilon {words.rounded_up(now)} at delta {claim.delta:g}.",
            )
    if differences:
        raise typer.Exit(REFUTED)


def _record_of(path: Path) -> dict[str, Any]:
    """What the run.json of a folder holds; nothing where the path is a ledger's."""
    folder = RunFolder(path)
    return folder.read("run_id") if folder.run_json.exists() else {}


def _as_json(differences: tuple[Difference, ...], now: float) -> dict[str, Any]:
    return {
        "verified": not differences,
        "differences": [
            {"field": each.field, "claimed": _plain(each.claimed), "found": _plain(each.found)}
            for each in differences
        ],
        "everything_now": _plain(now),
    }


def _plain(value: Any) -> Any:
    return None if value == float("inf") else value


def _table(differences: tuple[Difference, ...]) -> Table:
    made = Table()
    for name in ("field", "the claim says", "the ledger says"):
        made.add_column(name, overflow="fold")
    for each in differences:
        made.add_row(each.field, _shown(each.claimed), _shown(each.found))
    return made


def _shown(value: Any) -> str:
    return "; ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
