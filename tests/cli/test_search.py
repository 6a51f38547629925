"""`deniable search`: what several runs cost, by how many are made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from deniable.accounting import Search, spent
from deniable.accounting.search import TRIALS
from deniable.cli.search import search_command
from deniable.errors import AccountingError, BudgetError, PlanError, SettingsError
from deniable.events import RepeatAndSelectEvent
from deniable.ledger import Ledger
from deniable.plan import Plan

app = typer.Typer()
app.command()(search_command)

SIZES = ["--examples", "6000", "--batch-size", "60", "--steps", "300", "--runs", "8"]
NOISE = ["--noise-multiplier", "1.5"]
RUN = Plan(6000, 60, steps=300, noise_multiplier=1.5, delta=1e-5)


def search(*arguments: object) -> str:
    given = [str(each) for each in (*SIZES, *arguments)]
    result = CliRunner().invoke(app, given, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


def found(*arguments: object) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(search(*arguments, "--json"), parse_constant=pytest.fail)
    return values


def test_composition_and_repeat_and_select_stand_beside_each_other() -> None:
    """Pitfall: users 12."""
    values = found(*NOISE)
    assert [each["trials"] for each in values["options"]] == list(TRIALS)
    for each in values["options"]:
        event = Search(8, each["trials"]).event(RUN.event)
        assert each["epsilon"] == spent(event, 1e-5).epsilon
        assert each["epsilon_of_one_run"] == RUN.epsilon < each["epsilon"]
    assert {each["accounted"] for each in values["options"]} == {"composition", "repeat-and-select"}
    assert values["cheapest"] == min(values["options"], key=lambda each: each["epsilon"])["trials"]


def test_an_epsilon_for_the_whole_search_solves_the_noise_of_each_way() -> None:
    values = found("--epsilon", "2")
    for each in values["options"]:
        assert 2 * 0.99 < each["epsilon"] <= 2
        assert each["epsilon_of_one_run"] < 2
    least = min(values["options"], key=lambda each: each["noise_multiplier"])
    assert values["cheapest"] == least["trials"]


def test_it_says_when_each_is_valid() -> None:
    said = search(*NOISE)
    assert "A fixed number of runs composes" in said
    assert "nor how many there were" in said


def test_a_search_is_recorded_before_its_number_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    values = found(*NOISE, "--trials", "geometric", "--ledger", path)
    assert values["make"] >= 1
    with Ledger(path, create=False) as book:
        (record,) = book.runs()
        assert book.event().event == RepeatAndSelectEvent(RUN.event, 8.0, 1.0)  # type: ignore[union-attr]
    assert record.run_id == values["run"]
    assert record.description["search"] == {"runs": 8, "trials": "geometric"}
    assert "Tell nobody how many" in search(*NOISE, "--trials", "poisson", "--ledger", path)


def test_a_search_that_passes_the_budget_is_refused_and_not_recorded(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with Ledger(path) as book:
        book.set_budget(RUN.epsilon, 1e-5)
    with pytest.raises(BudgetError, match="does not fit, and nothing of it was released"):
        search(*NOISE, "--trials", "geometric", "--ledger", path)
    with Ledger(path, create=False) as book:
        assert book.runs() == []


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    cases: list[tuple[list[object], type[Exception], str]] = [
        ([], SettingsError, "Give --epsilon for the whole search"),
        ([*NOISE, "--epsilon", "1"], SettingsError, "Give --epsilon for the whole search"),
        ([*NOISE, "--ledger", tmp_path / "l"], SettingsError, "choose --trials"),
        (
            [*NOISE, "--trials", "fixed", "--ledger", tmp_path / "l"],
            SettingsError,
            "the ledger adds them up",
        ),
        ([*NOISE, "--trials", "binomial"], AccountingError, "trials must be one of"),
        ([*NOISE, "--epochs", "3"], PlanError, "not both"),
        ([*NOISE, "--delta", "2"], PlanError, "delta"),
    ]
    for arguments, error, words in cases:
        with pytest.raises(error, match=words):
            search(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_without_noise_no_search_is_private() -> None:
    values = found("--noise-multiplier", "0")
    assert {each["epsilon"] for each in values["options"]} == {None}
