"""What a person sees of a training run, all of it on standard error."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from deniable import words
from deniable.accounting import nominal_spent, privacy_curve

if TYPE_CHECKING:
    from deniable.data import Progress as Downloaded
    from deniable.training import Moment, Run
    from deniable.training.loop import Watch

NOT_PRIVATE = (
    "NOT PRIVATE: the noise multiplier is 0, so epsilon is infinite and nothing limits what this "
    "model tells about its training data."
)
SEEDED = (
    "Seeded: the noise can be computed again by whoever knows the seed, and against them the model "
    "is not private. Leave --seed out for a model that you release."
)


def opening(run: Run) -> str:
    """The first lines of a run: what is trained, why batches vary, what epsilon bounds."""
    plan, record = run.private.plan, run.record
    sensitivity = record["bound"]["sensitivity"]
    examples, tested = record["data"]["examples"], len(run.test[0])
    lines = [
        f"{record['data']['name']}: {examples:,} training examples, {tested:,} test examples. "
        f"{record['model']['name']} with {record['model']['parameters']:,} parameters, "
        f"{run.settings.optimizer} at learning rate {run.settings.lr:g}, on {run.device}.",
        plan.in_words,
        f"{plan.steps:,} steps, each a sum of gradients {record['bound']['in_words']}, which one "
        f"example can move by {sensitivity:.4g}, under noise of standard deviation "
        f"{words.span(each.noise_multiplier * sensitivity for each in plan.phases)}.",
    ]
    canaries = run.private.canaries
    if canaries is not None:
        lines.append(
            f"Audited: {canaries.gradients:,} gradient canaries are members of the plan beside the "
            f"data, and {canaries.examples:,} examples are mislabelled, each in or out by a fair "
            "coin."
        )
    if run.settings.workers:
        lines.append(_together(run))
    if run.is_private:
        lines += [
            f"Epsilon will be at most {words.rounded_up(plan.epsilon)} at delta {plan.delta:g} "
            f"({plan.neighbouring}: of two data sets, {plan.neighbouring.in_words}).",
            "What that means: " + " ".join(words.meaning(privacy_curve(plan.event))),
        ]
        nominal = nominal_spent(plan.event, plan.delta, record["bound"], plan.accountant)
        if nominal is not None:
            lines.append(_nominal(nominal.epsilon, nominal.notes[-1]))
    else:
        lines.append(NOT_PRIVATE)
    if run.record["seeded"] and run.is_private:
        lines.append(SEEDED)
    if record["ledger"] is not None:
        lines.append(
            f"Releases are recorded in {record['ledger']}, which runs on these data share."
        )
    lines.append(f"Run folder: {run.folder.path}. Ctrl-C saves, and says how to go on.")
    if run.private.steps:
        lines.append(f"Going on after step {run.private.steps:,}.")
    return "\n".join(lines)


def _together(run: Run) -> str:
    """Who computes, who adds the noise, and against whom epsilon holds."""
    workers = run.settings.workers or 0
    return (
        f"{workers} {'worker' if workers == 1 else 'workers'} and a coordinator, in the mode "
        f"{run.settings.mode}. {run.settings.worker_mode().guarantee}"
    )


def _nominal(epsilon: float | None, says: str) -> str:
    """An epsilon that is no guarantee, with the sentence that says so first."""
    return f"{says} By that count, epsilon would be {words.rounded_up(epsilon)}."


def resume_command(path: Path) -> str:
    """What to type to go on with a run.

    >>> resume_command(Path("my runs/a"))
    "deniable train --resume 'my runs/a'"
    """
    return f"deniable train --resume {shlex.quote(path.as_posix())}"


def closing(record: Mapping[str, Any]) -> str:
    """The results of a complete run, from its run.json."""
    results = record["results"]
    lines = [f"Test accuracy  {words.percent(results['test_accuracy'], 2)}"]
    if "test_perplexity" in results:
        perplexity, loss = results["test_perplexity"], results["test_loss"]
        lines.append(
            f"Perplexity     {words.significant(perplexity)} per character of the test text, "
            f"which is {words.significant(loss)} nats"
        )
    lines += _of_workers(record.get("collaboration", {}))
    if results["non_private"]:
        lines.append("Epsilon        infinite: NOT PRIVATE, there was no noise")
    else:
        seeded = " (seeded: not private against who knows the seed)" * record["seeded"]
        lines.append(
            f"Epsilon        {words.rounded_up(results['epsilon'])} at delta "
            f"{results['delta']:g}{seeded}"
        )
        lines += results.get("notes", [])
        if nominal := results.get("nominal"):
            lines.append(_nominal(nominal["epsilon"], nominal["says"]))
    return "\n".join(lines)


def _of_workers(about: Mapping[str, Any]) -> Iterator[str]:
    """What each worker's own ledger proves, where it has one, and what was sent."""
    for each in about.get("claims") or ():
        if each["epsilon"] is not None:
            yield (
                f"Worker {each['worker']}       {each['units']:,} units, epsilon "
                f"{words.rounded_up(each['epsilon'])} by its own ledger"
            )
    if traffic := about.get("bytes"):
        yield f"Sent           {traffic['up']:,} bytes by workers, {traffic['down']:,} to them"


@contextmanager
def training(run: Run, console: Console) -> Iterator[Watch]:
    """Shows each step: a live bar in a terminal, a line for each row of the history elsewhere."""
    if not console.is_terminal:
        yield _Lines(run, console)
        return
    columns = (
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield _Bar(bar, bar.add_task("", total=run.private.plan.steps, completed=run.private.steps))


@contextmanager
def downloads(console: Console) -> Iterator[Downloaded]:
    """Shows the files that are downloaded, if any are."""
    bar = Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn(), console=console)
    tasks: dict[str, TaskID] = {}

    def show(name: str, so_far: int, total: int | None) -> None:
        if name not in tasks:
            bar.start()
            tasks[name] = bar.add_task(name, total=total)
        bar.update(tasks[name], completed=so_far, total=total)

    try:
        yield show
    finally:
        if tasks:  # or it would end nothing with an empty line
            bar.stop()


class _Bar:
    """Moves a bar."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar, self._task = bar, task

    def __call__(self, moment: Moment) -> None:
        self._bar.update(self._task, completed=moment.step, description=_said(moment))


class _Lines:
    """Prints a line for each row of the history."""

    def __init__(self, run: Run, console: Console) -> None:
        self._console, self._steps = console, run.private.plan.steps
        self._first, self._started = run.private.steps, time.monotonic()

    def __call__(self, moment: Moment) -> None:
        if not moment.is_row:
            return
        elapsed = time.monotonic() - self._started
        left = elapsed * (self._steps - moment.step) / (moment.step - self._first)
        self._console.print(
            f"step {moment.step:,} of {self._steps:,}, {_said(moment)}, "
            f"{words.duration(left)} left",
            soft_wrap=True,
            highlight=False,
        )


def _said(moment: Moment) -> str:
    infinite = math.isinf(moment.epsilon)
    epsilon = "infinite: NOT PRIVATE" if infinite else words.rounded_up(moment.epsilon)
    measured = (
        f"test accuracy {words.percent(moment.accuracy)}"
        if moment.perplexity is None
        else f"validation perplexity {words.significant(moment.perplexity, 3)}"
    )
    return f"loss {words.significant(moment.loss, 3)}, {measured}, epsilon {epsilon}"
