"""`deniable plan`: what a training will cost, or what can be had for an epsilon."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deniable import words
from deniable.accounting import privacy_curve
from deniable.cli import options, stating
from deniable.plan import Phase, Plan, Schedule
from deniable.plan.trade import trade


def plan_command(
    examples: options.Examples,
    batch_size: options.BatchSize = None,
    sampling: options.Sampling = "poisson",
    max_batch_size: options.MaxBatchSize = None,
    neighbouring: options.Neighbouring = None,
    epochs: options.Epochs = None,
    steps: options.Steps = None,
    epsilon: options.Epsilon = None,
    noise_multiplier: options.NoiseMultiplier = None,
    delta: options.Delta = 1e-5,
    noise_schedule: options.NoiseSchedule = None,
    batch_schedule: options.BatchSchedule = None,
    accountant: Annotated[
        str, typer.Option(help="The accountant that solves the plan: pld (tight) or rdp (quick).")
    ] = "pld",
    figure: Annotated[
        Path | None,
        typer.Option(help="Draw epsilon against noise and epochs to this .svg, .png or .pdf."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Solve a plan: of batch size, epsilon, noise multiplier and epochs (or steps), leave out one.

    Below it stands what the same training costs with other noise and other lengths.
    """
    plan = Plan(
        examples,
        batch_size,
        delta=delta,
        epsilon=epsilon,
        noise_multiplier=noise_multiplier,
        steps=steps,
        epochs=epochs,
        sampling=sampling,
        max_batch_size=max_batch_size,
        neighbouring=neighbouring,
        accountant=accountant,
        noise_schedule=Schedule.parse(noise_schedule),
        batch_schedule=Schedule.parse(batch_schedule),
    )
    if figure is not None:
        from deniable.report.trade import draw_trade

        draw_trade(plan, figure)
    found = stating.claims(plan.event, plan.delta)
    curve = privacy_curve(plan.event)
    if as_json:
        values = plan.to_json() | {"sampling_rate": plan.sampling_rate, "epochs": plan.epochs}
        typer.echo(json.dumps(values | stating.as_json(found, curve), allow_nan=False))
        return
    console, sampler = Console(), plan.sampler()
    phases = plan.phases
    share = f"{plan.batch_size:,}/{plan.examples:,} = {plan.sampling_rate:.6g}"
    rows = {
        "examples": f"{plan.examples:,}",
        "sampling": plan.sampling,
        "sampling rate" if sampler.amplifies else "share in a batch": share
        if len(phases) == 1
        else f"{plan.sampling_rate:.6g} on average",
        "expected batch size": _over(phases, lambda each: f"{each.batch_size:,}"),
        "steps": f"{plan.steps:,}",
        "epochs": f"{plan.epochs:,.6g}",
        "noise multiplier": _over(phases, lambda each: f"{each.noise_multiplier:.6g}"),
        "delta": f"{plan.delta:g}",
        "neighbouring relation": stating.RELATIONS[plan.neighbouring],
    }
    console.print(stating.table("Plan", rows | stating.epsilon_rows(found)))
    if len(phases) > 1:
        console.print(_phases(phases))
    if math.isfinite(plan.epsilon):
        console.print(_alternatives(plan))
    stating.explain(console, curve)
    stating.say(console, plan.in_words)
    if plan.delta * plan.examples >= 1:
        stating.say(
            console,
            f"Delta is too large to mean much: at {plan.delta:g}, not below 1 / examples = "
            f"{words.scientific(1 / plan.examples)}, publishing one example at random would count "
            "as private. Take a smaller --delta.",
        )
    if figure is not None:
        stating.say(console, f"Figure: {figure}")


def _over(phases: Sequence[Phase], say: Callable[[Phase], str]) -> str:
    """A value that may change over the steps: the first and the last one."""
    first, last = say(phases[0]), say(phases[-1])
    return first if first == last else f"{first} to {last}"


def _phases(phases: Sequence[Phase]) -> Table:
    made = Table(title="Phases", title_justify="left")
    stating.number_columns(made, "steps", "expected batch size", "noise multiplier")
    for each in phases:
        made.add_row(
            f"{each.start:,} to {each.stop - 1:,}",
            f"{each.batch_size:,}",
            f"{each.noise_multiplier:.6g}",
        )
    return made


def _alternatives(plan: Plan) -> Table:
    """What the plan costs with other noise and other lengths, rounded up."""
    found = trade(plan)
    by = plan.accountant.upper()
    made = Table(title=f"Epsilon by {by}, with other noise and other lengths", title_justify="left")
    stating.number_columns(made, "noise multiplier", style="bold")
    for epochs in found.epochs:
        stating.number_columns(made, f"{epochs:,.4g} {'epoch' if epochs == 1 else 'epochs'}")
    for noise, epsilons in zip(found.noise_multipliers, found.epsilons, strict=True):
        made.add_row(f"{noise:.4g}", *(words.rounded_up(each, 3) for each in epsilons))
    return made
