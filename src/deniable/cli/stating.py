"""How commands state privacy: epsilon by every accountant, and what it bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from deniable import words
from deniable.accounting import STATED, spent
from deniable.events import Event
from deniable.units import Neighbouring, PrivacyCurve, Spent, finite

FALSE_POSITIVE_RATE = 0.01
NOT_PRIVATE = (
    "NOT PRIVATE: the noise multiplier is 0, so epsilon is infinite and nothing limits what the "
    "result tells about its training data."
)
RELATIONS = {
    Neighbouring.ADD_OR_REMOVE: "add-or-remove: one example more or less",
    Neighbouring.REPLACE: "replace: one example is another",
}


def claims(event: Event, delta: float) -> dict[str, Spent]:
    """What the event costs, by each accountant."""
    return {name: spent(event, delta, name) for name in STATED}


def number_columns(made: Table, *titles: str, style: str = "") -> None:
    """Columns at whose right edge the digits stand; in a narrow terminal none of them is lost."""
    for title in titles:
        made.add_column(title, justify="right", overflow="fold", style=style)


def table(title: str, rows: Mapping[str, str]) -> Table:
    """Names and values, one a line."""
    made = Table(title=title, title_justify="left", show_header=False)
    made.add_column(style="bold")
    number_columns(made, "")
    for name, value in rows.items():
        made.add_row(name, value)
    return made


def epsilon_rows(found: Mapping[str, Spent]) -> dict[str, str]:
    """The rows of the table that state epsilon, rounded up."""
    notes = {"rdp": "upper bound, quick", "pld": "upper bound, tight"}
    return {
        f"epsilon, {name.upper()} ({notes.get(name, 'upper bound')})": words.rounded_up(
            each.epsilon
        )
        for name, each in found.items()
    }


def explain(console: Console, curve: PrivacyCurve) -> None:
    """Says in plain words what a guarantee means for a person in the data."""
    say(console, " ".join(words.meaning(curve)) if curve.is_private else NOT_PRIVATE)


def say(console: Console, text: str) -> None:
    """Prints a paragraph as it is."""
    console.print(f"\n{text}", highlight=False, markup=False)


def as_json(found: Mapping[str, Spent], curve: PrivacyCurve) -> dict[str, Any]:
    """The claims as plain JSON values; None stands for an infinite epsilon."""
    return {
        "epsilons": {name: finite(each.epsilon) for name, each in found.items()},
        "attacker": {
            "false_positive_rate": FALSE_POSITIVE_RATE,
            "true_positive_rate": curve.attacker_true_positive_rate(FALSE_POSITIVE_RATE),
        },
        "non_private": not curve.is_private,
    }
