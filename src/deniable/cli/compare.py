"""`deniable compare` and `deniable generate`: two models beside each other, and what one writes."""

from __future__ import annotations

import json
import math
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from deniable import words
from deniable.cli.stating import number_columns
from deniable.errors import SettingsError
from deniable.runfolder import RunFolder

if TYPE_CHECKING:
    from deniable.audit.comparison import Comparison, Difference


class Part(Enum):
    """Which examples are compared."""

    train = "train"
    validation = "validation"
    test = "test"


def compare_command(
    first: Annotated[Path, typer.Argument(help="The run folder of one model.", metavar="RUN_A")],
    second: Annotated[
        Path, typer.Argument(help="That of another, on the same data.", metavar="RUN_B")
    ],
    rows: Annotated[int, typer.Option(min=1, help="How many examples to list each way.")] = 20,
    part: Annotated[Part, typer.Option(help="Which examples.")] = Part.train,
    accept: Annotated[
        float | None,
        typer.Option(
            help="The perplexity per character below which a model accepts a sequence [that of the "
            "frequencies of the letters alone]."
        ),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with the data files [that of the runs].")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """List the examples on which two models differ most: sentences of text, or rows of images.

    What is listed of the training data is as private as the data.
    """
    if accept is not None and not accept > 1:
        raise SettingsError(f"A perplexity to accept by must be above 1, got {accept!r}.")
    from deniable.audit.comparison import compare, letter_perplexity
    from deniable.audit.subject import Subject
    from deniable.cli import display

    with display.downloads(Console(stderr=True)) as progress:
        subjects = [Subject.load(path, data_dir, progress) for path in (first, second)]
    found = compare(subjects[0], subjects[1], part.value)
    if not found.is_text and accept is not None:
        raise SettingsError(f"--accept is for text, and {first} is of {subjects[0].data.name}.")
    threshold = (accept or letter_perplexity(found.arrays.targets)) if found.is_text else None
    names = first.as_posix(), second.as_posix()
    if as_json:
        typer.echo(json.dumps(_values(found, names, rows, threshold), allow_nan=False))
        return
    typer.echo(_summary(found, names, part, threshold))
    console = Console(width=None if Console().is_terminal else 160)
    for each, (liked, other) in ((found, names), (found.turned(), names[::-1])):
        differences = each.apart(rows)
        if differences:
            console.print(_table(each, differences, liked, other))
        else:
            console.print(f"No example is likelier by {liked} than by {other}.")


def _summary(found: Comparison, names: tuple[str, str], part: Part, threshold: float | None) -> str:
    lines = [f"{len(found.first):,} {part.value} examples"]
    for name, losses in zip(names, (found.first, found.second), strict=True):
        said = f"{name}: mean loss {words.significant(float(losses.mean()))} nats"
        if found.is_text:
            perplexity = math.exp(float(losses.mean()))
            said += f", perplexity {words.significant(perplexity)} per character"
        lines.append(said)
    if threshold is not None:
        shares = [words.percent(each, 2) for each in found.accepted(threshold)]
        lines.append(
            f"Accepted, with a perplexity below {words.significant(threshold)} per character: "
            f"{shares[0]} by the first, {shares[1]} by the second, {shares[2]} by both"
        )
    return "\n".join(lines)


def _table(found: Comparison, differences: list[Difference], liked: str, other: str) -> Table:
    what = "perplexity" if found.is_text else "loss"
    table = Table(
        title=f"Likelier by {liked} than by {other}", title_justify="left", show_lines=False
    )
    number_columns(table, "row")
    table.add_column("sequence" if found.is_text else "label", no_wrap=True)
    number_columns(table, f"{what}, {liked}", f"{what}, {other}")
    for each in differences:
        values = (math.exp(loss) if found.is_text else loss for loss in (each.first, each.second))
        # Brackets in a text are no markup.
        shown = each.shown.replace("[", r"\[")
        table.add_row(str(each.row), shown, *(words.significant(value) for value in values))
    return table


def _values(
    found: Comparison, names: tuple[str, str], rows: int, threshold: float | None
) -> dict[str, Any]:
    def listed(each: Comparison) -> list[dict[str, Any]]:
        return [vars(difference) for difference in each.apart(rows)]

    return {
        "first": names[0],
        "second": names[1],
        "examples": len(found.first),
        "losses": [float(found.first.mean()), float(found.second.mean())],
        "accepted": None
        if threshold is None
        else dict(
            zip(
                ("threshold", "first", "second", "both"),
                (threshold, *found.accepted(threshold)),
                strict=True,
            )
        ),
        "likelier_by_first": listed(found),
        "likelier_by_second": [
            {**each, "first": each["second"], "second": each["first"]}
            for each in listed(found.turned())
        ],
    }


def generate_command(
    run: Annotated[Path, typer.Argument(help="The run folder of a model of text.")],
    prompt: Annotated[str, typer.Option(help="What the text begins with.")] = "",
    characters: Annotated[int, typer.Option(help="How many characters to write.")] = 320,
    temperature: Annotated[
        float,
        typer.Option(help="1 writes as the model expects, less keeps to the likely, 0 to the top."),
    ] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Writes the same text again.")] = None,
) -> None:
    """Write text from a trained character model.

    A text is computed from the model alone: of the training data it gives away what the model does.
    """
    folder = RunFolder(run)
    data = folder.read("data")["data"].get("name")
    if data != "ptb":
        raise SettingsError(
            f"The run in {run} is of {data}, and its model writes no text. Give one that "
            "`deniable train --data ptb` made."
        )
    from deniable.audit.sequences import text_model, write

    text = write(
        text_model(folder),
        prompt,
        characters=characters,
        temperature=temperature,
        seed=seed,
    )
    typer.echo(text)
