"""Runs experiments point by point, so that nothing that is finished is ever done again.

Importable without torch.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deniable.errors import SettingsError
from deniable.papers.catalogue import PAPERS
from deniable.papers.claims import Experiment, Paper
from deniable.papers.pages import write_page
from deniable.papers.points import Attacked, Language, Point, Recurrent, Together, Watch
from deniable.papers.results import Results, Row


@dataclass(frozen=True)
class Chosen:
    """An experiment of a paper, whole or quick.

    Attributes:
        paper: the document.
        experiment: its figure or table.
        quick: whether the small points stand for the real ones.
    """

    paper: Paper
    experiment: Experiment
    quick: bool = False

    @property
    def name(self) -> str:
        """What the command calls it."""
        return f"{self.paper.name}/{self.experiment.name}"

    @property
    def command(self) -> str:
        """What to type to make it again."""
        return f"deniable reproduce {self.name}{' --quick' * self.quick}"

    @property
    def points(self) -> Mapping[str, Point]:
        """What is run."""
        return self.experiment.quick if self.quick else self.experiment.points

    def results(self, folder: Path) -> Results:
        """The finished points, as far as their settings are still those that they have now."""
        return Results.of(self.paper, self.experiment, folder).of_points(self.points)


@dataclass(frozen=True)
class Progress:
    """How far everything that was chosen is.

    Attributes:
        name: the experiment.
        point: what is being run.
        share: how much of all the work is done.
        said: how the point stands, in words.
        seconds_left: at the pace since the start; None before there is one.
    """

    name: str
    point: str
    share: float
    said: str
    seconds_left: float | None


def choose(name: str, *, quick: bool = False) -> list[Chosen]:
    """What a name stands for: `all`, a paper, or `paper/experiment`.

    Raises:
        SettingsError: nothing is called that.

    >>> [each.name for each in choose("abadi/table")]
    ['abadi/table']
    """
    paper_name, _, experiment_name = name.partition("/")
    papers = [each for each in PAPERS if paper_name in ("all", each.name)]
    if not papers:
        known = ", ".join(each.name for each in PAPERS)
        raise SettingsError(f"No paper is called {paper_name!r}. Choose one of {known}, or all.")
    return [
        Chosen(paper, experiment, quick)
        for paper in papers
        for experiment in (
            (paper.experiment(experiment_name),) if experiment_name else paper.experiments
        )
    ]


def reproduce(
    chosen: Sequence[Chosen],
    folder: Path,
    watch: Callable[[Progress], None],
    data_dir: Path | None = None,
) -> bool:
    """Run what is not finished, then draw and write the pages; False when Ctrl-C asked to stop.

    Args:
        chosen: from `choose`.
        folder: where results, figures and pages are kept. What a point needs to go on stands in
            `runs/` inside, until the point is finished.
        watch: told how far it is.
        data_dir: the folder that holds the data sets' files.
    """
    clock = _Clock(chosen, folder, watch)
    complete = all(_run(each, folder, clock, data_dir) for each in chosen)
    for each in chosen:
        results = each.results(folder)
        if results.entries:
            each.experiment.draw(results, figure(each, folder))
    for paper, quick in {each.paper.name: (each.paper, each.quick) for each in chosen}.values():
        of_paper = [Chosen(paper, experiment, quick) for experiment in paper.experiments]
        write_page(
            folder / f"{paper.name}.md",
            paper,
            {each.experiment.name: each.results(folder) for each in of_paper},
            {each.experiment.name: figure(each, folder) for each in of_paper},
            quick=quick,
        )
    return complete


def figure(chosen: Chosen, folder: Path) -> Path:
    """Where the figure of an experiment is."""
    return folder / f"{chosen.paper.name}-{chosen.experiment.name}.png"


def _run(chosen: Chosen, folder: Path, clock: _Clock, data_dir: Path | None) -> bool:
    stored = Results.of(chosen.paper, chosen.experiment, folder)
    for name, point in chosen.points.items():
        if stored.has(name, point):
            continue
        if known := _known(chosen, folder, point):
            stored.keep(name, known)
            continue
        place = folder / "runs" / f"{chosen.paper.name}-{chosen.experiment.name}" / name
        result = _train(point, place, clock.within(chosen, name, point), data_dir)
        if result is None:
            return False
        stored.add(name, point, result, chosen.command)
        clock.finished(point)
        shutil.rmtree(place, ignore_errors=True)
    return True


def _train(point: Point, folder: Path, watch: Watch, data_dir: Path | None) -> Row | None:
    """What came of it, or None when Ctrl-C asked to stop; torch is loaded here and not before."""
    from deniable.papers import attacks, collaboration, exploding, language, training

    if isinstance(point, Attacked):
        return attacks.attack(point, watch, data_dir)
    if isinstance(point, Together):
        return collaboration.train(point, watch, data_dir)
    if isinstance(point, Recurrent):
        return exploding.train(point, watch)  # a minute: nothing is kept for a second call
    if isinstance(point, Language):
        return language.train(point, folder, watch, data_dir)
    return training.train(point, folder, watch, data_dir)


def _known(chosen: Chosen, folder: Path, point: Point) -> Row | None:
    """The very point, where another figure of the paper has it already."""
    for experiment in chosen.paper.experiments:
        results = Results.of(chosen.paper, experiment, folder)
        for name in results:
            if results.has(name, point):
                return results.entries[name]
    return None


class _Clock:
    """Knows all the work, what is done of it, and since when."""

    def __init__(
        self, chosen: Sequence[Chosen], folder: Path, watch: Callable[[Progress], None]
    ) -> None:
        stored = [(Results.of(each.paper, each.experiment, folder), each) for each in chosen]
        self._total = sum(
            point.work
            for results, each in stored
            for name, point in each.points.items()
            if not results.has(name, point)
        )
        self._done, self._watch, self._started = 0.0, watch, time.monotonic()
        self._skipped = 0.0

    def within(self, chosen: Chosen, name: str, point: Point) -> Watch:
        """A watch of one point."""
        first: list[float] = []

        def told(share: float, said: str) -> None:
            if not first:
                # A point that goes on where it stopped brings work that was not done now.
                first.append(share)
                self._skipped += share * point.work if share > 0.1 else 0.0
            done = self._done + share * point.work
            now = done - self._skipped
            elapsed = time.monotonic() - self._started
            left = elapsed * (self._total - done) / now if now > 0 else None
            self._watch(Progress(chosen.name, name, done / self._total, said, left))

        return told

    def finished(self, point: Point) -> None:
        """The point's work is done."""
        self._done += point.work
