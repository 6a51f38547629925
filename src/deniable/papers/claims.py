"""What a paper claims, as data: the figure or table, the trainings behind it, and a check.

Importable without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from deniable.errors import SettingsError

if TYPE_CHECKING:
    from deniable.papers.points import Point
    from deniable.papers.results import Results


@dataclass(frozen=True)
class Verdict:
    """How a claim stands.

    Attributes:
        agrees: whether what was found here is what the paper says; None before it was run.
        ours: what was found here, in words.
        why: what explains a difference, or limits an agreement.
    """

    agrees: bool | None
    ours: str
    why: str = ""

    @property
    def word(self) -> str:
        """`agrees`, `differs` or `not run`."""
        return "not run" if self.agrees is None else "agrees" if self.agrees else "differs"


NOT_RUN = Verdict(None, "not run")


@dataclass(frozen=True)
class Claim:
    """One thing that a paper says.

    Attributes:
        name: a word that no other claim of the experiment has.
        paper: what the paper says, in words: a number or a trend.
        check: the verdict on it; a `KeyError` means that a point was not run.
        of: how the names of the points begin that it rests on: without one of them there is no
            verdict.
    """

    name: str
    paper: str
    check: Callable[[Results], Verdict]
    of: str = ""

    def verdict(self, results: Results) -> Verdict:
        """How it stands by these results."""
        if any(name.startswith(self.of) for name in results.missing) or not results.entries:
            return NOT_RUN
        try:
            return self.check(results)
        except KeyError:
            return NOT_RUN


@dataclass(frozen=True)
class Experiment:
    """One figure or table.

    Attributes:
        name: a word that no other experiment of the paper has.
        title: what it shows.
        settings: how it was made here, and what the paper leaves open, in sentences.
        points: what it is made of, by name.
        claims: what the paper says about it.
        draw: writes the figure, laid out like the original, to a file.
        quick: fewer and smaller points of the same form, on data that comes with the package.
        detail: what the page shows below the claims, as Markdown; None: nothing.
    """

    name: str
    title: str
    settings: str
    points: Mapping[str, Point]
    claims: tuple[Claim, ...]
    draw: Callable[[Results, Path], None]
    quick: Mapping[str, Point] = field(default_factory=dict)
    detail: Callable[[Results], str] | None = None

    def verdicts(self, results: Results) -> dict[str, Verdict]:
        """How each claim stands, by its name."""
        return {claim.name: claim.verdict(results) for claim in self.claims}


@dataclass(frozen=True)
class Paper:
    """A document, and what is reproduced of it.

    Attributes:
        name: what it is called here.
        title: of the document.
        source: who wrote it, when, and where.
        about: what the reproduction is, in sentences.
        experiments: its figures and tables.
    """

    name: str
    title: str
    source: str
    about: str
    experiments: tuple[Experiment, ...]

    def experiment(self, name: str) -> Experiment:
        """The experiment of that name.

        Raises:
            SettingsError: there is none.
        """
        for each in self.experiments:
            if each.name == name:
                return each
        known = ", ".join(f"{self.name}/{each.name}" for each in self.experiments)
        raise SettingsError(f"No experiment is called {self.name}/{name}. Choose one of {known}.")
