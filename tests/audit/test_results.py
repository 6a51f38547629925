"""What docs/audit.md says was measured is what was measured, and is what was promised."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.audits import PAGE, RESULTS, written
from benchmarks.planted import BUGS


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return dict(json.loads(RESULTS.read_text(encoding="utf-8")))


def test_the_page_is_written_from_the_results(results: dict[str, Any]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == written(text, results), "`python -m benchmarks.audits page` writes it again"


def test_no_estimator_is_above_the_truth_more_often_than_it_says(results: dict[str, Any]) -> None:
    """Of 1,000 repetitions, each at 95%."""
    assert {row["repetitions"] for row in results["estimators"]} == {1000}
    assert max(row["above"] for row in results["estimators"]) <= 50


def test_the_audit_of_a_step_is_within_a_fifth_of_the_truth(results: dict[str, Any]) -> None:
    assert [row["noise_multiplier"] for row in results["step"]] == [0.5, 1.0, 2.0]
    for row in results["step"]:
        assert row["share"] >= 0.8
        assert row["above"] <= 0.05 * row["repetitions"]


def test_the_gate_catches_every_planted_bug_and_passes_correct_code(
    results: dict[str, Any],
) -> None:
    gate = results["gate"]
    assert set(gate) == {"correct", *BUGS}
    assert len(gate["correct"]) == 100
    assert sum(row["holds"] for row in gate["correct"]) >= 97
    for bug in BUGS:
        assert sum(not row["holds"] for row in gate[bug]) >= 0.9 * len(gate[bug])


def test_the_audit_of_the_demo_is_quick_and_shows_much(results: dict[str, Any]) -> None:
    for row in results["gate"]["correct"]:
        assert row["claim"] <= 3
        assert max(row["lower"].values()) >= 0.75
        assert row["seconds"] < 60
