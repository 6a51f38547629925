"""Options that several commands share, each in the words of one place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Examples = Annotated[int, typer.Option(help="Examples in the data set; a public number.")]
BatchSize = Annotated[int | None, typer.Option(help="Examples that a step draws on average.")]
Sampling = Annotated[
    str,
    typer.Option(
        help="How batches come about: poisson, truncated-poisson, fixed-size, shuffled or "
        "own-loader."
    ),
]
MaxBatchSize = Annotated[int | None, typer.Option(help="The largest batch of truncated-poisson.")]
Neighbouring = Annotated[
    str | None, typer.Option(help="add-or-remove or replace [what is usual for the sampling].")
]
Epochs = Annotated[float | None, typer.Option(help="Passes over the data.")]
Steps = Annotated[int | None, typer.Option(help="Steps, in place of epochs.")]
Epsilon = Annotated[float | None, typer.Option(help="The most that may be spent.")]
NoiseMultiplier = Annotated[
    float | None,
    typer.Option(
        help="Noise over the clip norm (under replace: over twice that); 0 is NOT private."
    ),
]
Delta = Annotated[float, typer.Option(help="Delta of the guarantee; well below 1 / examples.")]
NoiseSchedule = Annotated[
    str | None,
    typer.Option(
        help="What the noise is multiplied by over the steps: linear:FIRST:LAST, "
        "exponential:FIRST:LAST, stairs:RATIO, or LENGTH:FACTOR,LENGTH:FACTOR,..."
    ),
]
BatchSchedule = Annotated[str | None, typer.Option(help="The same for the batch size.")]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder with the data files [DENIABLE_DATA, or a download]."),
]
Run = Annotated[
    Path,
    typer.Argument(help="The folder that `deniable train` wrote: it holds run.json."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
