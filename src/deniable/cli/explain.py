"""`deniable explain`: what one plan costs under every accountant, and why they differ."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from deniable import words
from deniable.accounting import spent
from deniable.accounting.ladder import Rung, ladder
from deniable.accounting.slides import DELTA, EVENT, NOISE, SLIDES, STEPS
from deniable.cli import options, stating
from deniable.errors import PlanError
from deniable.plan import Plan, Schedule
from deniable.units import finite

WHY = (
    "All of these bound the same run, each by what it knows, so the smallest may be stated. The "
    "first three know of one step only its epsilon and delta: they are theorems about any release, "
    "and pay for that. The last three follow the noise that is really added through all steps, and "
    "differ in how little they throw away."
)
FORMULAS = (
    "The formulas of the slides leave out constants to show how much each idea saves: what they "
    "give is not a guarantee. What holds, at the same delta, stands beside it."
)


def explain_command(
    examples: Annotated[
        int | None, typer.Option(help="Examples in the data set [without any: the slides' plan].")
    ] = None,
    batch_size: options.BatchSize = None,
    epochs: options.Epochs = None,
    steps: options.Steps = None,
    epsilon: options.Epsilon = None,
    noise_multiplier: options.NoiseMultiplier = None,
    delta: options.Delta = DELTA,
    noise_schedule: options.NoiseSchedule = None,
    batch_schedule: options.BatchSchedule = None,
    sampling: options.Sampling = "poisson",
    max_batch_size: options.MaxBatchSize = None,
    neighbouring: Annotated[
        str | None, typer.Option(help="add-or-remove or replace [as is usual for the sampling].")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw epsilon against steps to this .svg, .png or .pdf.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Show what one plan costs under each accountant, and why they differ.

    Without a plan, the one of the slides to Abadi et al., 2016: 10,000 steps at noise multiplier 4
    on 1% of the data each, beside the figures that the slides print.
    """
    asked = {
        "batch_size": batch_size,
        "epochs": epochs,
        "steps": steps,
        "epsilon": epsilon,
        "noise_multiplier": noise_multiplier,
    }
    plan = _plan(
        examples,
        asked,
        delta=delta,
        sampling=sampling,
        max_batch_size=max_batch_size,
        neighbouring=neighbouring,
        noise_schedule=Schedule.parse(noise_schedule),
        batch_schedule=Schedule.parse(batch_schedule),
    )
    found = ladder(plan.event, plan.delta)
    of_slides = plan.event == EVENT and plan.delta == DELTA
    if figure is not None:
        from deniable.report.ladder import draw_ladder

        draw_ladder(
            lambda steps: plan.part(0, steps),
            plan.steps,
            plan.delta,
            figure,
            period=plan.sampler().period,
            with_slides=of_slides,
        )
    if as_json:
        typer.echo(json.dumps(_as_json(plan, found, of_slides), allow_nan=False))
        return
    console = Console()
    _print(console, plan, found)
    if of_slides:
        _print_slides(console)
    if figure is not None:
        stating.say(console, f"Figure: {figure}")


def _plan(examples: int | None, asked: dict[str, Any], **chosen: Any) -> Plan:
    if examples is not None:
        return Plan(examples, **asked, **chosen)
    if set(asked.values()) == {None}:
        asked |= {"batch_size": 600, "steps": STEPS, "noise_multiplier": NOISE}
        return Plan(60_000, **asked, **chosen)
    raise PlanError(
        "A plan needs --examples, and three of --batch-size, --epsilon, --noise-multiplier and "
        "--epochs (or --steps). Without any of these, the plan of the slides is explained."
    )


def _print(console: Console, plan: Plan, found: tuple[Rung, ...]) -> None:
    made = Table(
        title=f"{plan.steps:,} steps on {words.span(each.batch_size for each in plan.phases)} of "
        f"{plan.examples:,} examples each, noise multiplier "
        f"{words.span(each.noise_multiplier for each in plan.phases)}, at delta {plan.delta:g}",
        title_justify="left",
    )
    made.add_column("accountant", style="bold")
    stating.number_columns(made, "epsilon")
    made.add_column("what it knows of the steps")
    for rung in found:
        made.add_row(
            rung.accountant.name,
            words.rounded_up(rung.epsilon),
            rung.accountant.summary if rung.refusal is None else f"not valid here: {rung.refusal}",
        )
    console.print(made)
    stating.say(console, f"{plan.in_words} Relation: {stating.RELATIONS[plan.neighbouring]}.")
    stating.say(console, WHY)
    if all(rung.epsilon == math.inf for rung in found):
        stating.say(console, stating.NOT_PRIVATE)


def _print_slides(console: Console) -> None:
    made = Table(title="The slides of Abadi et al.", title_justify="left")
    made.add_column("", style="bold")
    for name in ("printed", "their formula", "gives", "at delta", "what holds"):
        made.add_column(name, justify="left" if name == "their formula" else "right", no_wrap=True)
    for slide in SLIDES:
        holds = spent(EVENT, slide.given.delta, slide.accountant).epsilon
        made.add_row(
            slide.accountant,
            slide.printed,
            slide.formula,
            f"{slide.given.epsilon:,.4g}"
            if slide.given.epsilon < 1000
            else f"{slide.given.epsilon:,.0f}",
            f"{slide.given.delta:g}",
            words.rounded_up(holds),
        )
    console.print()
    console.print(made)
    stating.say(console, FORMULAS)
    for slide in SLIDES:
        stating.say(console, f"{slide.accountant}: {slide.note}")


def _as_json(plan: Plan, found: tuple[Rung, ...], of_slides: bool) -> dict[str, Any]:
    values: dict[str, Any] = {
        "plan": plan.to_json(),
        "accountants": {
            rung.accountant.name: {
                "epsilon": finite(rung.epsilon),
                "valid": rung.refusal is None,
                "says": rung.refusal or rung.accountant.summary,
            }
            for rung in found
        },
    }
    if of_slides:
        values["slides"] = {
            slide.accountant: {
                "printed": slide.printed,
                "formula": slide.formula,
                "epsilon": slide.given.epsilon,
                "delta": slide.given.delta,
                "holds": spent(EVENT, slide.given.delta, slide.accountant).epsilon,
                "note": slide.note,
            }
            for slide in SLIDES
        }
    return values
