"""`deniable train`: a private run, from the data to its report."""

from __future__ import annotations

import json
import os
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from deniable.cli import options
from deniable.cli.audit import audited, verdict
from deniable.errors import BudgetError, DeniableError, SettingsError
from deniable.runfolder import RunFolder
from deniable.settings import Settings

if TYPE_CHECKING:
    from deniable.training import Run
    from deniable.training.loop import Watch

INTERRUPTED = 130  # what a shell reports after Ctrl-C


def train_command(
    context: typer.Context,
    data: Annotated[
        str, typer.Option(help="digits, mnist, fashion-mnist, cifar10 or ptb.")
    ] = "digits",
    data_dir: options.DataDir = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="digits-mlp, mnist-cnn, abadi-mlp, cifar-cnn, char-lstm, char-transformer, or "
            "your own as module:factory, called as factory(input_shape, classes) [by data set]."
        ),
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(help="sgd, adam, adam-bc, adamw, adagrad, rmsprop or nadam [by data set]."),
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate [by data set].")] = None,
    momentum: Annotated[
        float | None, typer.Option(help="Momentum of sgd and rmsprop [0.9].")
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Examples that a step draws on average [by data set; the most that epsilon, "
            "noise and epochs allow, where all three are given]."
        ),
    ] = None,
    sampling: Annotated[
        str, typer.Option(help="poisson, truncated-poisson, fixed-size or shuffled.")
    ] = "poisson",
    max_batch_size: options.MaxBatchSize = None,
    neighbouring: Annotated[
        str | None, typer.Option(help="add-or-remove or replace [by sampling].")
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(help="Passes over the data [by data set].")
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="What may be spent; solves the noise [3].")
    ] = None,
    noise_multiplier: Annotated[
        float | None,
        typer.Option(
            help="Noise over the sensitivity, which is the clip norm (under replace: twice that), "
            "in place of epsilon; 0 is NOT private."
        ),
    ] = None,
    no_privacy: Annotated[
        bool,
        typer.Option(
            "--no-privacy",
            help="No noise, and a bound that changes nothing, for comparison: NOT private.",
        ),
    ] = False,
    delta: Annotated[float | None, typer.Option(help="Delta of the guarantee [1e-5].")] = None,
    noise_schedule: options.NoiseSchedule = None,
    batch_schedule: options.BatchSchedule = None,
    bound: Annotated[
        str,
        typer.Option(
            help="What limits one example's gradient: clip, per-layer, adaptive, automatic, tanh "
            "or tanh-clip."
        ),
    ] = "clip",
    clip: Annotated[
        float | None,
        typer.Option(
            help="Largest norm of one example's gradient; of adaptive, at first [by data set]."
        ),
    ] = None,
    quantile: Annotated[
        float | None,
        typer.Option(help="Share of gradients that adaptive leaves as they are [0.5]."),
    ] = None,
    output_range: Annotated[
        float | None, typer.Option(help="Largest coordinate that tanh lets through [1].")
    ] = None,
    active_range: Annotated[
        float | None, typer.Option(help="Coordinates up to which tanh is close to linear [1].")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Makes the run reproducible, and its noise known to who has the seed."),
    ] = None,
    secure: Annotated[
        bool, typer.Option("--secure", help="Draw the noise from an AES keystream.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or another torch device [what there is].")
    ] = None,
    rows: Annotated[
        int | None, typer.Option(help="Most rows in memory at once [the whole batch].")
    ] = None,
    audit: Annotated[
        bool,
        typer.Option("--audit", help="Train with canaries, and audit the claim at the end."),
    ] = False,
    canaries: Annotated[
        int | None,
        typer.Option(help="Gradient canaries of the audit [a quarter of the weights, to 5000]."),
    ] = None,
    mislabelled: Annotated[
        int | None,
        typer.Option(help="Training examples to mislabel, as canaries, too [none]."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Train with so many processes, and one that coordinates [this alone]."),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            help="Who adds noise, with several workers: central (the coordinator, which is "
            "trusted), local (each worker all of it) or shares (each worker a part) [central]."
        ),
    ] = None,
    upload: Annotated[
        float | None,
        typer.Option(help="Share of coordinates that a worker sends; of local [1]."),
    ] = None,
    carry: Annotated[
        bool, typer.Option("--carry", help="Carry what was not sent to the next round; of local.")
    ] = False,
    survives: Annotated[
        int | None,
        typer.Option(help="Workers that may be gone, or pool what they know; of shares [0]."),
    ] = None,
    patience: Annotated[
        float | None, typer.Option(help="Seconds that a round waits for a worker [30].")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to make [runs/DATA-TIME].")] = None,
    ledger: Annotated[
        Path | None,
        typer.Option(help="The data set's ledger, which its runs share [one in the run folder]."),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace a run in that folder, its ledger included."),
    ] = False,
    resume: Annotated[
        Path | None,
        typer.Option(help="Run folder to go on with, under its own settings."),
    ] = None,
    checkpoint_seconds: Annotated[
        float | None, typer.Option(help="Seconds between checkpoints [30].")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output, last.")
    ] = False,
) -> None:
    """Train privately on a known data set, and write model, ledger and report to a run folder."""
    # Torch takes seconds to import: help and mistakes in the options must not wait for it.
    place = _place()
    if place is not None and place[0] > 0:
        _work(resume or out, data_dir)
        return
    if resume is not None:
        _refuse_settings_with_resume(context)
        _go_on(resume, as_json)
        return
    if place is not None:
        workers = place[1] - 1
    given = {name: context.params[name] for name in Settings.names() & context.params.keys()}
    given |= {
        "data_dir": None if data_dir is None else str(data_dir.resolve()),
        "workers": workers,
        "carry": carry or None,
    }
    settings = Settings.choose(privacy=not no_privacy, **given)
    path = out or _fresh_folder(data)
    is_new = not path.exists()
    if place is not None and not overwrite and RunFolder(path).run_json.exists():
        _go_on(path, as_json)  # torchrun starts everybody again after a fault
        return
    if not overwrite:
        RunFolder(path).create()  # refuses before anything slow
    try:
        _start(settings, path, ledger, overwrite, as_json)
    except DeniableError:
        if is_new:
            RunFolder(path).remove_empty()
        raise


def _start(
    settings: Settings, path: Path, ledger: Path | None, overwrite: bool, as_json: bool
) -> None:
    console = Console(stderr=True)
    from deniable.cli import display
    from deniable.training import begin

    is_new = ledger is not None and not ledger.exists()
    with display.downloads(console) as progress:
        run = begin(
            settings, path, progress, ledger=ledger, overwrite=overwrite, **_session(settings)
        )
    if is_new:
        _say(console, f"There was no ledger at {ledger}: a new one begins there.")
    if settings.workers and "RANK" not in os.environ:
        run.save()
        run.private.detach()
        _launch(path, settings.workers, as_json)
    _train(run, console, as_json)


def _go_on(path: Path, as_json: bool) -> None:
    console = Console(stderr=True)
    record = RunFolder(path).read("settings")
    if record.get("status") == "complete":
        _complete(RunFolder(path), record, console, as_json)
        return
    from deniable.cli import display
    from deniable.training import resume

    settings = Settings.from_json(record["settings"])
    if settings.workers and "RANK" not in os.environ:
        _launch(path, settings.workers, as_json)
    with display.downloads(console) as progress:
        run = resume(path, progress, **_session(settings))
    _train(run, console, as_json)


def _session(settings: Settings) -> dict[str, Any]:
    """What makes the session of a run: the coordinator's is one of its own."""
    if not settings.workers:
        return {}
    from deniable.collaborate.training import merging

    return {"session": merging(settings)}


def _launch(path: Path, workers: int, as_json: bool) -> NoReturn:
    """Start coordinator and workers, and end as the coordinator does."""
    from deniable.collaborate.launch import launch, own_command

    RunFolder(path).let_go()  # the coordinator holds it
    arguments = ["train", "--resume", str(path), *(["--json"] if as_json else [])]
    raise typer.Exit(launch(own_command(arguments), workers))


def _place() -> tuple[int, int] | None:
    """The rank and the number of processes, where torchrun started this one; else None.

    Raises:
        SettingsError: what should say so says something else.
    """
    found = [os.environ.get(name) for name in ("RANK", "WORLD_SIZE")]
    if found == [None, None]:
        return None
    try:
        rank, size = (int(each or "") for each in found)
    except ValueError:
        raise SettingsError(
            f"RANK and WORLD_SIZE must be whole numbers, as torchrun sets them, got {found[0]!r} "
            f"and {found[1]!r}. Unset both to train with one process."
        ) from None
    return rank, size


def _work(folder: Path | None, data_dir: Path | None) -> None:
    """Be a worker: what to train, the coordinator says."""
    from deniable.collaborate import Place
    from deniable.collaborate.training import work

    work(Place.from_environment(), folder, None if data_dir is None else str(data_dir.resolve()))


def _fit(run: Run, watch: Watch) -> bool:
    """Train alone, or coordinate."""
    if not run.settings.workers:
        from deniable.training import fit

        return fit(run, watch)
    from deniable.collaborate import Place
    from deniable.collaborate.training import coordinate

    return coordinate(run, Place.from_environment(), watch)


def _train(run: Run, console: Console, as_json: bool) -> None:
    """The run from where it stands to its report, or to the command that goes on with it."""
    from deniable.cli import display

    say = partial(_say, console)
    say(display.opening(run))
    go_on = display.resume_command(run.folder.path)
    try:
        with display.training(run, console) as watch:
            complete = _fit(run, watch)
    except KeyboardInterrupt:
        say(f"Stopped at once. What came after the last checkpoint is repeated by: {go_on}")
        raise typer.Exit(INTERRUPTED) from None
    except BudgetError as problem:
        raise BudgetError(
            f"{problem} The run is saved after step {run.private.steps:,} of "
            f"{run.private.plan.steps:,}; when there is room again, go on with: {go_on}"
        ) from None
    if complete:
        _complete(run.folder, run.record, console, as_json)
        return
    say(
        f"Saved after step {run.private.steps:,} of {run.private.plan.steps:,}. Go on with: "
        f"{go_on}\n{run.folder.checkpoint} holds the state of the noise: keep it to yourself."
    )
    if as_json:
        _print_object(run.folder, run.record | {"results": run.spent_json()}, resume=go_on)
    raise typer.Exit(INTERRUPTED)


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def _complete(folder: RunFolder, record: dict[str, Any], console: Console, as_json: bool) -> None:
    """The report of a complete run, and its results."""
    from deniable.cli import display
    from deniable.report import render

    folder.remove_checkpoint()
    audit = None
    if record["settings"].get("audit") and not record["results"]["non_private"]:
        audit = audited(folder.path, console)
    report = render(folder.path)
    console.print(
        "Complete; the checkpoint, which held the state of the noise, is removed.",
        soft_wrap=True,
        highlight=False,
    )
    if as_json:
        said = {} if audit is None else {"audit": verdict(audit)}
        _print_object(folder, record, report=str(report), **said)
        return
    typer.echo(display.closing(record))
    if audit is not None:
        typer.echo(f"Audit          {verdict(audit)}")
    typer.echo(f"Report         {report}")
    typer.echo(f"Claim          {folder.claim}")


def _print_object(folder: RunFolder, record: dict[str, Any], **more: str) -> None:
    values = {
        "status": record["status"],
        **(record["results"] or {}),
        "seeded": record["seeded"],
        "out": str(folder.path),
        **more,
    }
    typer.echo(json.dumps(values, allow_nan=False))


def _refuse_settings_with_resume(context: typer.Context) -> None:
    """A run goes on under the settings that it began with."""
    given = [
        name
        for name in context.params
        if name not in ("resume", "as_json")
        and (source := context.get_parameter_source(name)) is not None
        and source.name == "COMMANDLINE"
    ]
    if given:
        options = ", ".join("--" + name.replace("_", "-") for name in given)
        raise SettingsError(
            f"--resume takes every setting from the run's folder; leave out {options}, or start a "
            "new run."
        )


def _fresh_folder(data: str) -> Path:
    """runs/DATA-TIME, numbered when two runs begin in one second."""
    base = Path("runs") / f"{data}-{datetime.now():%Y%m%d-%H%M%S}"
    number, path = 1, base
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path
