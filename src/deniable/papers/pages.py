"""The page of a paper: each claim, what was found here, and whether that agrees.

Importable without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from deniable import words
from deniable.papers.claims import Experiment, Paper
from deniable.papers.results import Results
from deniable.runfolder import replaced

QUICK = (
    "**A quick run:** small points on data that comes with the package. It shows that the "
    "experiments run, and says nothing about the paper."
)


def write_page(
    path: Path,
    paper: Paper,
    results: Mapping[str, Results],
    figures: Mapping[str, Path],
    *,
    quick: bool = False,
) -> None:
    """Write the page of a paper, whole.

    Args:
        path: the Markdown file.
        paper: the document.
        results: by experiment.
        figures: by experiment; files that do not exist are left out.
        quick: whether the results are of quick points.
    """
    parts = [
        f"# {paper.title}",
        f"{paper.source}",
        *([QUICK] if quick else []),
        paper.about,
        "Written by `deniable reproduce`; the numbers behind the figures stand beside this page, "
        "as JSON.",
    ]
    for experiment in paper.experiments:
        parts += _section(
            paper, experiment, results[experiment.name], figures[experiment.name], quick
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as file:
        file.write(("\n\n".join(parts) + "\n").encode())


def _section(
    paper: Paper, experiment: Experiment, results: Results, figure: Path, quick: bool
) -> list[str]:
    parts = [f"## {experiment.title}", experiment.settings]
    if figure.exists() and results.entries:
        parts.append(f"![{experiment.title}]({figure.name})")
    rows = ["| the paper | here | verdict | why |", "| --- | --- | --- | --- |"]
    for claim in experiment.claims:
        verdict = claim.verdict(results)
        rows.append(f"| {claim.paper} | {verdict.ours} | **{verdict.word}** | {verdict.why} |")
    command = f"deniable reproduce {paper.name}/{experiment.name}{' --quick' * quick}"
    parts += ["\n".join(rows), f"`{command}`" + _made(experiment, results, quick)]
    if experiment.detail is not None and results.entries:
        parts.append(experiment.detail(results))
    return parts


def _made(experiment: Experiment, results: Results, quick: bool) -> str:
    points = experiment.quick if quick else experiment.points
    if not results.entries:
        return ": not run yet."
    machines = "; ".join(
        f"{each['cpu']}, {each['threads']} thread{'s' * (each['threads'] != 1)}, torch "
        f"{each['torch']}, deniable {each['deniable']}"
        for each in results.made()
    )
    return (
        f": {len(results.entries)} of {len(points)} trainings, "
        f"{words.duration(results.seconds())} on {machines}."
    )
