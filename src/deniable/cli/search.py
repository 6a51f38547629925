"""`deniable search`: what several runs cost of which the best is kept, and how many to make."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from deniable import words
from deniable.accounting import Search, spent
from deniable.accounting.search import FIXED, SHAPES, TRIALS
from deniable.cli import options
from deniable.cli.stating import number_columns, say
from deniable.errors import SettingsError
from deniable.ledger import Ledger
from deniable.plan import Plan
from deniable.units import finite

WHEN = (
    "A fixed number of runs composes: everything about each of them may be published. A random "
    "number holds only if the number is drawn as stated before the first run, if nothing but the "
    "best run is published (no other model, no score of another, nor how many there were), and if "
    "the best is chosen by other data than those protected here, or by a private score."
)


@dataclass(frozen=True)
class Option:
    """One way to make the search."""

    search: Search
    noise_multiplier: float
    run_epsilon: float
    epsilon: float


def search_command(
    examples: options.Examples,
    batch_size: Annotated[int, typer.Option(help="Examples that a step draws on average.")],
    runs: Annotated[int, typer.Option(help="How many runs: exactly, or on average.")],
    trials: Annotated[
        str | None,
        typer.Option(help=f"One way to draw their number: {', '.join(TRIALS)} [all compared]."),
    ] = None,
    sampling: Annotated[
        str, typer.Option(help="poisson, truncated-poisson, fixed-size, shuffled or own-loader.")
    ] = "poisson",
    max_batch_size: options.MaxBatchSize = None,
    neighbouring: options.Neighbouring = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the data of a run.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of a run, in place of epochs.")] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="What the whole search may cost; solves the noise.")
    ] = None,
    noise_multiplier: Annotated[
        float | None, typer.Option(help="Of each run, in place of epsilon.")
    ] = None,
    delta: options.Delta = 1e-5,
    ledger: Annotated[
        Path | None,
        typer.Option(help="Record the search in this ledger, and draw how many runs to make."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Compare what a search over hyper-parameters costs, by how many runs it makes.

    The runs differ in learning rate, clip norm and the like, and cost as much as one another.
    """
    if (epsilon is None) == (noise_multiplier is None):
        raise SettingsError("Give --epsilon for the whole search, or --noise-multiplier of a run.")
    if ledger is not None and trials in (None, FIXED):
        raise SettingsError(
            "--ledger records a random number of runs: choose --trials from "
            f"{', '.join(SHAPES)}. A fixed number needs no entry of its own: make each run with "
            "`deniable train --ledger`, and the ledger adds them up."
        )
    run = Plan(
        examples,
        batch_size,
        delta=delta,
        noise_multiplier=1.0 if noise_multiplier is None else noise_multiplier,
        steps=steps,
        epochs=epochs,
        sampling=sampling,
        max_batch_size=max_batch_size,
        neighbouring=neighbouring,
        accountant="rdp",
    )
    searches = [Search(runs, each) for each in TRIALS if trials in (None, each)]
    if not searches:
        searches = [Search(runs, str(trials))]  # which says what there is
    found = [_option(each, run, noise_multiplier, epsilon) for each in searches]
    is_new = ledger is not None and not ledger.exists()
    recorded = None if ledger is None else _record(ledger, found[0], run)
    if is_new:
        typer.echo(f"There was no ledger at {ledger}: a new one begins there.", err=True)
    if as_json:
        values = {
            "delta": delta,
            "steps": run.steps,
            "options": [_as_json(each) for each in found],
            "cheapest": _cheapest(found).search.trials,
        }
        typer.echo(json.dumps(values | (recorded or {}), allow_nan=False))
        return
    console = Console()
    console.print(_table(found, run))
    if len(found) > 1:
        best = _cheapest(found).search
        way = "a fixed number" if best.is_fixed else f"a {best.trials} number"
        say(console, f"Cheapest, where what it asks for holds: {way} of runs.")
    say(console, WHEN)
    if recorded is not None:
        say(
            console,
            f"Recorded in {ledger}. Make {recorded['make']:,} runs, each of {run.steps:,} steps at "
            f"noise multiplier {found[0].noise_multiplier:.6g} or more, without --ledger: the "
            "search has paid for all of them. Tell nobody how many there were. The claim of the "
            "best run says what it alone costs, which is too little for the best of several: "
            f"publish that of the search with it, `deniable claim {ledger} "
            f"--run {recorded['run']}`.",
        )


def _option(search: Search, run: Plan, noise: float | None, epsilon: float | None) -> Option:
    if noise is None:
        assert epsilon is not None
        noise = search.noise_multiplier(
            lambda each: run.event_with(each, run.steps), epsilon, run.delta
        )
    event = run.event_with(noise, run.steps)
    return Option(
        search,
        noise,
        spent(event, run.delta).epsilon,
        spent(search.event(event), run.delta).epsilon,
    )


def _record(ledger: Path, option: Option, run: Plan) -> dict[str, Any]:
    """Charges the ledger for the search, by name, and only then draws how many runs to make."""
    run_id = f"search-{secrets.token_hex(6)}"
    event = run.event_with(option.noise_multiplier, run.steps)
    described = {
        "plan": {"examples": run.examples, "delta": run.delta},
        "search": {"runs": option.search.runs, "trials": option.search.trials},
    }
    with Ledger(ledger) as book:
        book.release(
            run_id,
            option.search.event(event),
            description=described,
            neighbouring=run.neighbouring,
        )
    return {"run": run_id, "make": option.search.draw()}


def _table(found: list[Option], run: Plan) -> Table:
    runs = found[0].search.runs
    made = Table(
        title=f"{runs:,} runs, or so many on average, of {run.steps:,} steps each",
        title_justify="left",
    )
    made.add_column("their number", no_wrap=True)
    number_columns(made, "8 of 10 times", "noise multiplier", "epsilon of one", "epsilon of all")
    for each in found:
        search = each.search
        made.add_row(
            search.trials,
            f"{runs:,}"
            if search.is_fixed
            else f"{search.at_most(0.1):,} to {search.at_most(0.9):,}",
            f"{each.noise_multiplier:.6g}",
            words.rounded_up(each.run_epsilon),
            words.rounded_up(each.epsilon),
        )
    return made


def _cheapest(found: list[Option]) -> Option:
    """The one with the least noise, or, at equal noise, with the least epsilon."""
    return min(found, key=lambda each: (each.noise_multiplier, each.epsilon))


def _as_json(option: Option) -> dict[str, Any]:
    search = option.search
    return {
        "trials": search.trials,
        "runs": search.runs,
        "accounted": "composition" if search.is_fixed else "repeat-and-select",
        "runs_8_of_10_times": [search.at_most(0.1), search.at_most(0.9)],
        "noise_multiplier": option.noise_multiplier,
        "epsilon_of_one_run": finite(option.run_epsilon),
        "epsilon": finite(option.epsilon),
    }
