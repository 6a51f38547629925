"""`deniable attack`: what an attacker finds in a finished run. No guarantee, whatever it finds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from deniable import words
from deniable.audit.roc import ATTACKS, NO_GUARANTEE, RATES
from deniable.canvas import check_place
from deniable.cli import options
from deniable.cli.stating import number_columns
from deniable.errors import SettingsError

if TYPE_CHECKING:
    from deniable.audit.roc import Estimate, Roc
    from deniable.audit.subject import Subject
    from deniable.units import PrivacyCurve

attack_app = typer.Typer(
    help="Attack a finished run, as an attacker would: attacks, no guarantees.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
Run = Annotated[Path, typer.Argument(help="The folder of a complete run.", metavar="RUN")]
DataDir = Annotated[Path | None, typer.Option(help="Folder with the data files [that of the run].")]
Out = Annotated[
    Path | None, typer.Option(help="Picture to write: .png, .svg or .pdf [in the run's folder].")
]

NOT_COVERED = (
    "This was measured on the training data, and epsilon does not cover it: keep it as private as "
    "the data."
)


@attack_app.command("membership")
def membership_command(
    run: Run,
    shadows: Annotated[
        int,
        typer.Option(
            min=0,
            help="How many shadow models to train, each for as long as the run took; 16 are a "
            "good number, 0 leaves out the attacks that need them.",
        ),
    ] = 0,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of who is in which shadow model [at random].")
    ] = None,
    data_dir: DataDir = None,
    out: Out = None,
    as_json: options.AsJson = False,
) -> None:
    """Try to tell training examples from others: an attack, no guarantee.

    Members are the training rows, non-members every other test row; the remaining test rows teach
    the attack by quantile regression what a confidence looks like on rows that were not trained on.
    """
    if shadows == 1:
        raise SettingsError("--shadows must be 0, or at least 2.")
    console = Console(stderr=True)
    subject = _load(run, data_dir, console, out)
    from deniable.audit.membership import Candidates, membership_inference
    from deniable.audit.pictures import Curves, draw_curves
    from deniable.audit.shadows import train_shadows

    inputs, targets = subject.test_rows
    candidates = Candidates.of(subject.train_rows, (inputs[::2], targets[::2]))
    public = (inputs[1::2], targets[1::2])
    trained = None
    if shadows:
        with _counted(console, "shadow models", shadows) as watch:
            trained = train_shadows(
                subject.train_another,
                candidates.inputs,
                candidates.targets,
                shadows,
                share=float(candidates.members.mean()),
                seed=seed,
                watch=watch,
            )
    with console.status(f"Asking the model about {len(candidates.inputs):,} rows"):
        found = membership_inference(
            subject.model,
            candidates,
            shadows=trained,
            public=None if targets.dim() > 1 else public,
        )
    guarantee = subject.guarantee()
    path = out or run / "attack-membership.png"
    draw_curves(
        path,
        [Curves.of(f"{subject.name}: {NO_GUARANTEE}", found, guarantee)],
        len(found["loss"].non_members),
    )
    if as_json:
        typer.echo(json.dumps(_membership_json(found, guarantee, path), allow_nan=False))
        return
    Console().print(_membership_table(subject.name, found, guarantee))
    others = len(found["loss"].non_members)
    lines = [
        f"{len(found['loss'].members):,} members, {others:,} non-members; intervals hold with 95%.",
        *([] if shadows else ["Calibrated loss and LiRA need shadow models: --shadows 16."]),
        "An attack that finds nothing proves nothing: another may find more.",
        NOT_COVERED,
        f"Curves: {path}",
    ]
    typer.echo("\n".join(lines))


@attack_app.command("inversion")
def inversion_command(
    run: Run,
    steps: Annotated[int, typer.Option(min=1, help="Most steps of gradient descent.")] = 300,
    rate: Annotated[float, typer.Option(min=0.0, help="How far a step goes, as a norm.")] = 0.5,
    raw: Annotated[
        bool, typer.Option("--raw", help="Leave out the smoothing between steps.")
    ] = False,
    data_dir: DataDir = None,
    out: Out = None,
    as_json: options.AsJson = False,
) -> None:
    """Look for what the model takes each class to be, on a sheet: an attack, no guarantee.

    What is recovered is what a class looks like, not an example. That harms a person where a class
    is a person, as in face recognition, or where few examples make up a class.
    """
    console = Console(stderr=True)
    subject = _load(run, data_dir, console, out)
    from deniable.audit.inversion import Inversion, class_means, correlation, smoothed, stretched
    from deniable.audit.pictures import draw_sheet, inversion_strips
    from deniable.data import class_names

    inputs, targets = subject.train_rows
    if inputs.dim() != 4:
        raise SettingsError(
            f"Inversion descends on images, and {subject.data.name} holds none. Choose a run on "
            "images."
        )
    classes = range(subject.data.classes)
    attack = Inversion(steps=steps, rate=rate, process=None if raw else smoothed)
    with console.status(f"Descending from {subject.data.classes} classes, {steps:,} steps each"):
        images = attack(subject.model, inputs.shape[1:], classes)
    means = class_means(inputs, targets, classes)
    alike = correlation(images, means)
    names = class_names(subject.data.name)
    path = out or run / "attack-inversion.png"
    sheet = {"mean of the class": list(means.numpy()), "recovered": list(stretched(images).numpy())}
    draw_sheet(path, inversion_strips(names, sheet))
    if as_json:
        found = {
            "attack": "model inversion",
            "guarantee": None,
            "correlation": dict(zip(names, alike.tolist(), strict=True)),
            "sheet": str(path),
        }
        typer.echo(json.dumps(found, allow_nan=False))
        return
    typer.echo(
        "Model inversion: an attack, no guarantee.\n"
        "Correlation of what was recovered with the mean of its class (1: the same picture, 0: "
        f"nothing in common): {alike.mean():.2f} on average, {alike.min():.2f} to "
        f"{alike.max():.2f}. The sheet shows it in full contrast.\n{NOT_COVERED}\nSheet: {path}"
    )


@attack_app.command("rare")
def rare_command(
    run: Run,
    plain: Annotated[
        Path,
        typer.Argument(help="A complete run on the same data without privacy.", metavar="PLAIN"),
    ],
    count: Annotated[int, typer.Option(min=1, help="How many examples to show.")] = 24,
    data_dir: DataDir = None,
    out: Out = None,
    as_json: options.AsJson = False,
) -> None:
    """Show the training images that a private run has learned least, beside one without privacy.

    They are the ones that stand alone in the data. The sheet shows them: it is not private.
    """
    console = Console(stderr=True)
    subject, other = _load(run, data_dir, console, out), _load(plain, data_dir, console)
    from deniable.audit.disagreement import cases, disagreement
    from deniable.audit.pictures import case_strips, draw_sheet
    from deniable.data import class_names

    if other.plan.epsilon <= subject.plan.epsilon:
        raise SettingsError(
            f"{plain} must be a run with less privacy than {run}, or none: its plan's epsilon is "
            f"{other.plan.epsilon:.4g}, beside {subject.plan.epsilon:.4g}. Train one with "
            "--noise-multiplier 0."
        )
    inputs, targets = subject.train_rows
    if subject.data.fingerprint != other.data.fingerprint or inputs.dim() != 4:
        raise SettingsError(
            "Two runs on the same images are needed; got runs on "
            f"{subject.data.name} and {other.data.name}."
        )
    found = disagreement(subject.model, other.model, inputs, targets)
    rows = found.most(count)
    path = out or run / "attack-rare.png"
    title = f"Training examples that {subject.name} has learned least, beside {other.name}"
    chosen = cases(found, inputs, targets, rows, class_names(subject.data.name))
    draw_sheet(path, case_strips(chosen, 6, title, (subject.name, other.name)), scale=1.5)
    if as_json:
        values = {
            "agreement": found.agreement,
            "examples": [
                {
                    "row": row,
                    "label": int(targets[row]),
                    "losses": [float(found.private.losses[row]), float(found.plain.losses[row])],
                }
                for row in rows
            ],
            "sheet": str(path),
        }
        typer.echo(json.dumps(values, allow_nan=False))
        return
    typer.echo(
        f"Both classify {words.percent(found.agreement, 2)} of the training rows alike.\n"
        f"The sheet shows training examples: keep it as private as the data.\nSheet: {path}"
    )


def _load(run: Path, data_dir: Path | None, console: Console, out: Path | None = None) -> Subject:
    if out is not None:
        check_place(out)  # not after hours of shadow models
    from deniable.audit.subject import Subject
    from deniable.cli import display

    with display.downloads(console) as progress:
        return Subject.load(run, data_dir, progress)


def _membership_table(name: str, found: dict[str, Roc], guarantee: PrivacyCurve | None) -> Table:
    table = Table(title=f"Membership inference on {name}: {NO_GUARANTEE}", title_justify="left")
    table.add_column("attack")
    rates = (f"members found, at {100 * rate:g}% wrongly accused" for rate in RATES)
    number_columns(table, "AUC (0.5: blind guessing)", *rates)
    for each, roc in found.items():
        table.add_row(ATTACKS[each], _plain(roc.auc), *(_found(roc, rate) for rate in RATES))
    if guarantee is not None:
        most = [guarantee.attacker_true_positive_rate(rate) for rate in RATES]
        table.add_section()
        table.add_row(
            "the most that any attack can find",
            "",
            *(f"{words.out_of_hundred(rate)}%" for rate in most),
        )
    return table


def _plain(found: Estimate) -> str:
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _found(roc: Roc, rate: float) -> str:
    if not roc.resolves(rate):
        return f"needs {round(1 / rate):,} others"
    found = roc.at(rate).true_positive_rate
    low, high = words.percent(found.low, 2), words.percent(found.high, 2)
    return f"{words.percent(found.value, 2)} ({low} to {high})"


def _membership_json(
    found: dict[str, Roc], guarantee: PrivacyCurve | None, path: Path
) -> dict[str, object]:
    most = None
    if guarantee is not None:
        most = {str(rate): guarantee.attacker_true_positive_rate(rate) for rate in RATES}
    return {
        "attack": "membership inference",
        "guarantee": None,
        "found": {
            name: {
                "auc": roc.auc.to_json(),
                "true_positive_rate": {
                    str(rate): roc.at(rate).true_positive_rate.to_json()
                    for rate in RATES
                    if roc.resolves(rate)
                },
            }
            for name, roc in found.items()
        },
        "the_most_that_any_attack_can_find": most,
        "curves": str(path),
    }


@contextmanager
def _counted(console: Console, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows how many of them there are."""
    with console.status(f"0 of {total} {what}") as status:
        yield lambda done: status.update(f"{done} of {total} {what}")
