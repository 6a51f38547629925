"""`deniable ledger`: what a person sees of a data set's ledger, and what they can do to it."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from deniable.accounting import spent
from deniable.cli import main
from deniable.cli.ledger import ledger_app
from deniable.errors import BudgetError, LedgerError
from deniable.events import ComposedEvent, GaussianEvent, PoissonSampledEvent, SelfComposedEvent
from deniable.ledger import Budget, Ledger

STEP = PoissonSampledEvent(0.01, GaussianEvent(1.0))
ONCE = GaussianEvent(20.0)
LIMIT = ["--epsilon", "3", "--delta", "1e-5"]


def invoke(*arguments: object, answer: str | None = None) -> Result:
    return CliRunner().invoke(
        ledger_app, [str(each) for each in arguments], input=answer, catch_exceptions=False
    )


def said(*arguments: object) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


def shown(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(said("show", path, "--json"), parse_constant=pytest.fail)
    return found


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as book:
        book.recognise("0123456789abcdef")
        run = book.run("first", planned=100, description={"plan": {"delta": 1e-6}})
        for _ in range(100):
            run.release(STEP)
        run.settle()
        book.release("mean of ages", ONCE)
    return path


def test_it_lists_runs_and_other_releases_and_says_whose_they_are(ledger: Path) -> None:
    """Pitfall: users 12."""
    text = said("show", ledger)
    for words in ("first", "mean of ages", "one example", "add-or-remove", "0123456789abcdef"):
        assert words in text
    found = shown(ledger)
    assert [(run["run"], run["steps"]) for run in found["runs"]] == [
        ("first", 100),
        ("mean of ages", 1),
    ]
    assert found["fingerprints"] == ["0123456789abcdef"]
    assert (found["unit"], found["neighbouring"]) == ("one example", "add-or-remove")


def test_it_says_what_was_spent_at_the_smallest_delta_of_a_plan(ledger: Path) -> None:
    event = ComposedEvent((SelfComposedEvent(STEP, 100), ONCE))
    found = shown(ledger)
    assert found["spent"] == {"epsilon": pytest.approx(spent(event, 1e-6).epsilon), "delta": 1e-6}
    assert found["budget"] is found["left"] is None
    assert "none is set" in said("show", ledger)


def test_a_budget_is_set_and_shown_with_what_is_left_and_every_one_before(ledger: Path) -> None:
    said("budget", ledger, "--epsilon", "5", "--delta", "1e-6")
    said("budget", ledger, *LIMIT, "--accountant", "rdp")
    with Ledger(ledger, create=False) as book:
        contents = book.contents()
        assert contents.budget == Budget(3.0, 1e-5, "rdp")
        cost = spent(contents.event(), 1e-5, "rdp").epsilon
    found = shown(ledger)
    assert found["spent"] == {"epsilon": cost, "delta": 1e-5}
    assert found["left"] == 3.0 - cost
    assert [each["epsilon"] for each in found["budgets"]] == [5.0, 3.0]
    text = said("show", ledger)
    assert "at most epsilon 3 at delta 1e-05, counted by rdp" in text
    assert "at most epsilon 5 at delta 1e-06, counted by pld" in text


def test_what_is_left_is_rounded_down(ledger: Path) -> None:
    said("budget", ledger, *LIMIT)
    left = shown(ledger)["left"]
    text = said("show", ledger).split("left │ epsilon ")[1]
    assert 0 <= left - float(text.split()[0]) < 0.001


def test_a_ledger_can_begin_with_its_budget(tmp_path: Path) -> None:
    path = tmp_path / "people.ledger"
    with pytest.raises(LedgerError, match=r"no such file.*--new"):
        invoke("budget", path, *LIMIT)
    assert list(tmp_path.iterdir()) == []
    assert "0.000 is spent" in said("budget", path, *LIMIT, "--new")
    found = shown(path)
    assert (found["spent"]["epsilon"], found["left"], found["runs"]) == (0, 3.0, [])


@pytest.mark.parametrize("epsilon", ["0", "-1", "nan", "inf"])
def test_a_budget_that_cannot_be_makes_no_ledger(tmp_path: Path, epsilon: str) -> None:
    with pytest.raises(BudgetError, match="finite and above 0"):
        invoke("budget", tmp_path / "l", "--epsilon", epsilon, "--delta", "1e-5", "--new")
    assert list(tmp_path.iterdir()) == []


def test_a_budget_below_what_is_spent_is_refused(ledger: Path) -> None:
    with pytest.raises(BudgetError, match="already"):
        invoke("budget", ledger, "--epsilon", "0.01", "--delta", "1e-5")


def test_closing_asks_first(ledger: Path) -> None:
    assert invoke("close", ledger, answer="n\n").exit_code == 1
    assert shown(ledger)["closed"] is None
    result = invoke("close", ledger, answer="y\n")
    assert result.exit_code == 0
    assert "cannot be undone" in " ".join(result.stdout.split())
    assert shown(ledger)["closed"] is not None
    assert "closed at" in said("show", ledger)


def test_closing_without_a_question_forbids_every_further_release(ledger: Path) -> None:
    said("close", ledger, "--yes")
    with pytest.raises(BudgetError, match="closed"), Ledger(ledger) as book:
        book.release("more", ONCE)
    with pytest.raises(BudgetError, match="cannot be undone"):
        invoke("close", ledger)


@pytest.mark.parametrize("command", [["show"], ["close", "--yes"], ["budget", *LIMIT]])
def test_a_run_folder_stands_for_the_ledger_that_its_record_names(
    ledger: Path, tmp_path: Path, command: list[str]
) -> None:
    own, shared = tmp_path, tmp_path / "run"
    shared.mkdir()
    (shared / "run.json").write_text(json.dumps({"ledger": str(ledger)}))
    name, *options = command
    assert "ledger.sqlite" in said(name, own, *options)
    with Ledger(ledger, create=False) as book:
        if book.contents().closed:
            return
    assert "ledger.sqlite" in said(name, shared, *options)


@pytest.mark.parametrize("name", ["show", "close"])
def test_a_ledger_that_is_not_there_is_refused_and_not_made(tmp_path: Path, name: str) -> None:
    with pytest.raises(LedgerError, match="there is no such file"):
        invoke(name, tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


def test_a_ledger_that_was_changed_is_a_message_and_status_2(
    ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "hash chain │ holds" in said("show", ledger)
    connection = sqlite3.connect(ledger)
    with connection:
        connection.execute("DROP TRIGGER entry_update")
        connection.execute("UPDATE entry SET content = replace(content, '20.0', '90.0')")
    connection.close()
    with pytest.raises(SystemExit) as stop:
        main(["ledger", "show", str(ledger)])
    assert stop.value.code == 2
    assert "cannot be trusted" in capsys.readouterr().err


def test_a_ledger_without_noise_has_spent_everything(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l") as book:
        book.release("bare", GaussianEvent(0.0))
    assert shown(tmp_path / "l")["spent"]["epsilon"] is None
    assert "∞" in said("show", tmp_path / "l")
