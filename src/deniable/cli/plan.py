"""`deniable plan`: what a training will cost, or what can be had for an epsilon."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

from deniable import words
from deniable.accounting import privacy_curve
from deniable.cli import claim
from deniable.plan import Plan


def plan_command(
    examples: Annotated[int, typer.Option(help="Examples in the data set; a public number.")],
    batch_size: Annotated[int, typer.Option(help="Examples that a step draws on average.")],
    sampling: Annotated[
        str,
        typer.Option(
            help="How batches come about: poisson, truncated-poisson, fixed-size, shuffled or "
            "own-loader."
        ),
    ] = "poisson",
    max_batch_size: Annotated[
        int | None, typer.Option(help="The largest batch of truncated-poisson.")
    ] = None,
    neighbouring: Annotated[
        str | None, typer.Option(help="add-or-remove or replace [what is usual for the sampling].")
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the data.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps, in place of epochs.")] = None,
    epsilon: Annotated[float | None, typer.Option(help="The most that may be spent.")] = None,
    noise_multiplier: Annotated[
        float | None,
        typer.Option(
            help="Noise over the clip norm (under replace: over twice that); 0 is NOT private."
        ),
    ] = None,
    delta: Annotated[
        float, typer.Option(help="Delta of the guarantee; well below 1 / examples.")
    ] = 1e-5,
    accountant: Annotated[
        str, typer.Option(help="The accountant that solves the plan: pld (tight) or rdp (quick).")
    ] = "pld",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Solve a plan: give two of epsilon, noise multiplier and epochs (or steps)."""
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
    )
    found = claim.claims(plan.event, plan.delta)
    curve = privacy_curve(plan.event)
    if as_json:
        values = plan.to_json() | {"sampling_rate": plan.sampling_rate, "epochs": plan.epochs}
        typer.echo(json.dumps(values | claim.as_json(found, curve), allow_nan=False))
        return
    console, sampler = Console(), plan.sampler()
    share = f"{plan.batch_size:,}/{plan.examples:,} = {plan.sampling_rate:.6g}"
    rows = {
        "examples": f"{plan.examples:,}",
        "sampling": plan.sampling,
        "sampling rate" if sampler.amplifies else "share in a batch": share,
        "expected batch size": f"{plan.batch_size:,}",
        "steps": f"{plan.steps:,}",
        "epochs": f"{plan.epochs:,.6g}",
        "noise multiplier": f"{plan.noise_multiplier:.6g}",
        "delta": f"{plan.delta:g}",
        "neighbouring relation": claim.RELATIONS[plan.neighbouring],
    }
    console.print(claim.table("Plan", rows | claim.epsilon_rows(found)))
    claim.explain(console, curve)
    claim.say(console, sampler.in_words)
    if plan.delta * plan.examples >= 1:
        claim.say(
            console,
            f"Delta is too large to mean much: at {plan.delta:g} or above 1 / examples = "
            f"{words.scientific(1 / plan.examples)}, publishing one example at random would count "
            "as private. Take a smaller --delta.",
        )
