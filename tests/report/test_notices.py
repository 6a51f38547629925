from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from deniable.events import PoissonSampledEvent
from deniable.report.notices import notices
from deniable.report.page import claim
from deniable.report.record import Record
from deniable.report.statement import Releases, Statement


def titles(run: dict[str, Any], statement: Statement) -> list[str]:
    record = Record(run)
    return [each.title for each in notices(record, statement, claim(record, statement))]


def steps(statement: Statement, count: int) -> Statement:
    (release,) = statement.releases
    return replace(statement, releases=(replace(release, count=count),))


def test_a_complete_private_run_needs_no_warning(run: dict[str, Any], statement: Statement) -> None:
    assert titles(run, statement) == []


def test_a_ledger_that_lacks_steps_is_grave(run: dict[str, Any], statement: Statement) -> None:
    """Pitfall: privacy 10. A step that was released but not accounted."""
    assert titles(run, steps(statement, 3509)) == ["The ledger states fewer steps than the record"]


def test_a_ledger_that_holds_more_than_the_run_is_said(
    run: dict[str, Any], statement: Statement
) -> None:
    assert titles(run, steps(statement, 3511)) == ["The ledger states more than this run"]


@pytest.mark.parametrize(("delta", "warned"), [(1e-5, False), (1 / 60_000, True), (0.1, True)])
def test_a_delta_that_permits_to_publish_someone_is_said(
    run: dict[str, Any], statement: Statement, delta: float, warned: bool
) -> None:
    run["results"]["delta"] = delta
    assert ("Delta is large for these data" in titles(run, statement)) is warned


def test_the_gravest_comes_first(run: dict[str, Any]) -> None:
    run |= {"seeded": True, "status": "interrupted"}
    reserved = Statement(
        {"pld": 3.0, "rdp": 3.6}, (Releases(3520, PoissonSampledEvent, 0.004, 0.7),), 1
    )
    assert titles(run, reserved) == [
        "The noise came from a seed",
        "Interrupted at step 3,510 of 3,510",
    ]


def test_an_epsilon_by_a_convention_that_is_no_guarantee_is_said_to_be_that(
    run: dict[str, Any], statement: Statement
) -> None:
    run["results"]["nominal"] = {"epsilon": 0.5, "says": "Nominal, not a guarantee: ..."}
    [title] = titles(run, statement)
    assert title == "By the convention of its source, this bound would print another epsilon"
