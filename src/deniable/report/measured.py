"""What audit.json says, safe to show: what is absent or of a wrong type is left out.

Importable without torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deniable import words
from deniable.report import charts
from deniable.report.figures import Figure
from deniable.report.record import Record, mapping, number
from deniable.units import PrivacyCurve, Spent

# What tests of the whole run are called on the page, and what they rest on.
_NAMES = {
    "gradient canaries": "white box, nothing assumed",
    "gradient canaries, if Gaussian": "white box, if Gaussian",
    "mislabelled examples": "black box, nothing assumed",
}


@dataclass(frozen=True)
class Row:
    """One test as the page shows it."""

    name: str
    claimed: str
    measured: str
    stands: bool
    says: str


@dataclass(frozen=True)
class Measured:
    """An audit as the page shows it.

    Attributes:
        holds: whether nothing that was measured exceeds what is claimed.
        rows: every test.
        figures: the charts, by name.
        lowest: the largest lower bound on the whole run's epsilon for which nothing is assumed, in
            words; None without one.
        alone: the confidence of each bound, in percent.
        together: the confidence of the verdict, in percent.
        canaries: how many the run was trained with; None where it was without.
    """

    holds: bool
    rows: list[Row]
    figures: dict[str, Figure]
    lowest: str | None
    alone: str
    together: str
    canaries: str | None


def measured(path: Path, record: Record, limit: Spent | PrivacyCurve | None) -> Measured | None:
    """The audit of a run; None where there is none that can be read.

    Args:
        path: of audit.json.
        record: of the run.
        limit: what is claimed of every attacker.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(values, Mapping) or not isinstance(values.get("findings"), list):
        return None
    findings = [each for each in values["findings"] if isinstance(each, Mapping)]
    whole = [
        (each, value)
        for each in findings
        if each.get("kind") == "whole run" and (value := _bound(each)) is not None
    ]
    named = [(_NAMES.get(str(each.get("name")), str(each.get("name"))), v) for each, v in whole]
    assuming_nothing = [v for each, v in whole if number(mapping(each, "bound"), "mu") is None]
    claim = number(mapping(values, "claim"), "epsilon")
    confidence, kinds = mapping(values, "confidence"), record.section("canaries")
    canaries = sum(number(kinds, each) or 0.0 for each in ("gradients", "examples"))
    return Measured(
        holds=values.get("holds") is True,
        rows=[_row(each) for each in findings],
        figures=_figures(named, claim, values.get("roc"), limit),
        lowest=words.rounded_down(max(assuming_nothing), 3) if assuming_nothing else None,
        alone=words.percent(number(confidence, "alone"), 0),
        together=words.percent(number(confidence, "together"), 0),
        canaries=words.significant(canaries) if canaries else None,
    )


def _bound(finding: Mapping[str, Any]) -> float | None:
    return number(mapping(finding, "bound"), "epsilon")


def _row(finding: Mapping[str, Any]) -> Row:
    return Row(
        str(finding.get("name")),
        words.rounded_up(number(finding, "claim")),
        words.rounded_down(_bound(finding)),
        finding.get("holds") is True,
        str(finding.get("says")),
    )


def _figures(
    whole: list[tuple[str, float]],
    claim: float | None,
    points: Any,
    limit: Spent | PrivacyCurve | None,
) -> dict[str, Figure]:
    found = {}
    if whole and claim is not None:
        caption = (
            "The dot is what was measured, the line on the right what is claimed. The true epsilon "
            "is no smaller than the one and, if the claim is right, no larger than the other."
        )
        title = "Measured and claimed"
        said = "; ".join(
            f"{name}: at least {words.rounded_down(value, 3)}" for name, value in whole
        )
        chart = charts.brackets("brackets", whole, claim, label=f"{title}. {said}")
        found["brackets"] = Figure(title, caption, chart)
    rates = _rates(points)
    if rates and limit is not None and limit.is_private:
        title = "The best any attacker can do, and what one did"
        caption = (
            "The line is the ceiling that is claimed. The points are the white-box attack on the "
            "canaries of this run: it sees every release, and knows what it looks for."
        )
        chart = charts.attacker("measured-roc", limit, label=f"{title}. {caption}", found=rates)
        found["roc"] = Figure(title, caption, chart)
    return found


def _rates(points: Any) -> list[tuple[float, float]]:
    if not isinstance(points, list):
        return []
    pairs = [each for each in points if isinstance(each, list) and len(each) == 2]
    named = [{"x": x, "y": y} for x, y in pairs]
    rates = [(number(each, "x"), number(each, "y")) for each in named]
    return [
        (x, y) for x, y in rates if x is not None and y is not None and 0 <= x <= 1 and 0 <= y <= 1
    ]
