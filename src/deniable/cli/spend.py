"""`deniable spend`: what a ledger states was spent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from deniable import words
from deniable.accounting import nominal_event, privacy_curve, spent
from deniable.claim import planned_delta
from deniable.cli import options, stating
from deniable.cli.claim import check_claim
from deniable.errors import SettingsError
from deniable.events import ComposedEvent, notes, to_json
from deniable.ledger import Ledger, RunRecord
from deniable.report.statement import releases
from deniable.runfolder import ledger_at
from deniable.units import finite

NOMINAL = (
    "The nominal epsilon is not a guarantee: it counts as if no unit moved a sum by more than what "
    "the source of the bound takes for its sensitivity, and one can move it further."
)


def spend_command(
    path: Annotated[
        Path | None,
        typer.Argument(help="A ledger, or the run folder that holds one.", metavar="LEDGER"),
    ] = None,
    run: Annotated[
        str | None, typer.Option(help="One run of the ledger [all of them, composed].")
    ] = None,
    delta: Annotated[
        float | None,
        typer.Option(help="Delta to state epsilon at [the smallest of the runs' plans, or 1e-5]."),
    ] = None,
    verify: Annotated[
        Path | None,
        typer.Option(
            help="Compute this claim.json again, and fail on any difference [LEDGER: beside it].",
            metavar="CLAIM",
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """State what a ledger's releases cost together, from the ledger alone."""
    if verify is not None:
        _refuse_choices_with_verify(run, delta)
        check_claim(verify, ledger_at(path or verify.parent), as_json)
        return
    if path is None:
        raise SettingsError("Give the ledger, or the run folder, whose spending is to be stated.")
    ledger = ledger_at(path)
    with Ledger(ledger, create=False) as book:
        event = book.event(run)
        records = [each for each in book.runs() if run in (None, each.run_id)]
    stated_at = planned_delta(records) if delta is None else delta
    found = stating.claims(event, stated_at)
    nominal = _nominal(records, stated_at)
    curve = privacy_curve(event)
    if as_json:
        values = {
            "ledger": str(ledger),
            "delta": stated_at,
            "notes": list(notes(event)),
            "runs": [_record(each) for each in records],
            **stating.as_json(found, curve),
            "nominal": None if nominal is None else {"epsilon": finite(nominal), "says": NOMINAL},
        }
        typer.echo(json.dumps(values, allow_nan=False))
        return
    console = Console()
    console.print(runs_table(records))
    relations = dict.fromkeys(stating.RELATIONS[each.neighbouring] for each in records)
    rows = {
        "delta": f"{stated_at:g}",
        "neighbouring relation": ", ".join(relations) or words.ABSENT,
    }
    rows |= stating.epsilon_rows(found)
    if nominal is not None:
        rows["epsilon, nominal (not a guarantee)"] = words.rounded_up(nominal)
    console.print(stating.table("Together", rows))
    stating.explain(console, curve)
    for note in [*notes(event), *([NOMINAL] if nominal is not None else [])]:
        stating.say(console, note)
    stating.say(console, "Steps that a killed process had reserved count as released.")


def _nominal(records: Sequence[RunRecord], delta: float) -> float | None:
    """Epsilon as the sources of the runs' bounds would state it; None where that is what holds."""
    described = [(each.event, each.description.get("bound") or {}) for each in records]
    if not any("nominal_sensitivity" in bound for _, bound in described):
        return None
    events = tuple(nominal_event(event, bound) for event, bound in described)
    return spent(ComposedEvent(events), delta).epsilon


def _refuse_choices_with_verify(run: str | None, delta: float | None) -> None:
    if (run, delta) != (None, None):
        raise SettingsError(
            "--verify takes run and delta from the claim; leave out --run, --delta."
        )


def _record(record: RunRecord) -> dict[str, Any]:
    return {
        "run": record.run_id,
        "opened": record.opened,
        "neighbouring": record.neighbouring.value,
        "steps": record.steps,
        "event": to_json(record.event),
    }


def runs_table(records: Sequence[RunRecord]) -> Table:
    """Every run and other release, and what it released."""
    made = Table(title="Released", title_justify="left")
    made.add_column("run", overflow="fold")
    made.add_column("opened (UTC)", overflow="fold")
    stating.number_columns(made, "releases", "sampling rate", "noise multiplier")
    for record in records:
        for each in releases(record.event):
            count = f"{each.count:,}" + (" (best of runs)" if each.of_best else "")
            rate = "everyone" if each.sampling_rate is None else f"{each.sampling_rate:.6g}"
            made.add_row(
                record.run_id,
                record.opened[:16].replace("T", " "),
                count,
                rate,
                each.noise,
            )
    return made
