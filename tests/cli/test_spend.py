from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from deniable.accounting import spent
from deniable.cli.spend import spend_command
from deniable.errors import LedgerError
from deniable.events import (
    ComposedEvent,
    GaussianEvent,
    PoissonSampledEvent,
    PureEvent,
    SelfComposedEvent,
)
from deniable.ledger import Ledger

app = typer.Typer()
app.command()(spend_command)

STEP = PoissonSampledEvent(0.01, GaussianEvent(1.0))
ONCE = GaussianEvent(20.0)


def spend(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """A run folder's ledger: 100 sampled steps of one run, one release of another."""
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as book:
        first = book.run("first", planned=100, description={"plan": {"delta": 1e-6}})
        for _ in range(100):
            first.release(STEP)
        second = book.run("second", description={"plan": {"delta": 1e-5}})
        second.release(ONCE)
        second.settle()
    return path


def test_runs_on_one_data_set_compose(ledger: Path) -> None:
    """Pitfall: users 12."""
    found = json.loads(spend(ledger, "--json"))
    event = ComposedEvent((SelfComposedEvent(STEP, 100), ONCE))
    for name in ("rdp", "pld"):
        assert found["epsilons"][name] == pytest.approx(spent(event, 1e-6, name).epsilon)
    assert [(run["run"], run["steps"]) for run in found["runs"]] == [("first", 100), ("second", 1)]


def test_one_run_can_be_asked_for(ledger: Path) -> None:
    found = json.loads(spend(ledger, "--run", "second", "--json"))
    assert found["epsilons"]["pld"] == pytest.approx(spent(ONCE, 1e-5).epsilon)
    assert [run["run"] for run in found["runs"]] == ["second"]


def test_delta_is_the_smallest_that_a_plan_names_unless_given(ledger: Path) -> None:
    assert json.loads(spend(ledger, "--json"))["delta"] == 1e-6
    assert json.loads(spend(ledger, "--delta", "1e-7", "--json"))["delta"] == 1e-7


def test_a_run_folder_stands_for_its_ledger(ledger: Path) -> None:
    assert json.loads(spend(ledger.parent, "--json")) == json.loads(spend(ledger, "--json"))


def test_the_table_states_releases_relation_and_meaning(ledger: Path) -> None:
    """Pitfall: privacy 14, users 7."""
    said = spend(ledger)
    assert "first" in said
    assert "everyone" in said
    assert "add-or-remove: one example more or less" in said
    assert "wrongly names 1 in every 100 people" in said


def test_reserved_steps_count_as_released(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.sqlite") as book:
        book.run("killed", planned=40).release(STEP)
    assert json.loads(spend(tmp_path / "a.sqlite", "--json"))["runs"][0]["steps"] == 40


def test_a_run_without_noise_is_said_not_to_be_private(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.sqlite") as book:
        book.run("bare").release(GaussianEvent(0.0))
    assert "NOT PRIVATE" in spend(tmp_path / "a.sqlite")
    assert json.loads(spend(tmp_path / "a.sqlite", "--json"))["epsilons"]["pld"] is None


def test_a_ledger_that_is_not_there_is_refused_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="there is no such file"):
        spend(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_not_there_is_refused_with_those_that_are(ledger: Path) -> None:
    with pytest.raises(LedgerError, match=r"No run 'third' .* 'first', 'second'"):
        spend(ledger, "--run", "third")


def test_an_epsilon_that_is_no_guarantee_stands_beside_the_one_that_holds(tmp_path: Path) -> None:
    """A run whose bound's source takes the sensitivity for a tenth of what it is."""
    path = tmp_path / "ledger.sqlite"
    described = {"bound": {"sensitivity": 10.0, "nominal_sensitivity": 1.0}}
    with Ledger(path) as book:
        run = book.run("tanh", planned=100, description=described)
        for _ in range(100):
            run.release(PoissonSampledEvent(0.01, GaussianEvent(0.1)))
        other = book.run("clip", description={"bound": {"sensitivity": 1.0}})
        other.release(ONCE)
        other.settle()
    found = json.loads(spend(path, "--json"))
    nominal = ComposedEvent((SelfComposedEvent(STEP, 100), ONCE))
    assert found["nominal"]["epsilon"] == pytest.approx(spent(nominal, 1e-5).epsilon)
    assert "not a guarantee" in found["nominal"]["says"]
    assert found["epsilons"]["pld"] > 10 * found["nominal"]["epsilon"]
    text = spend(path)
    assert "epsilon, nominal (not a guarantee)" in text
    assert json.loads(spend(path, "--run", "clip", "--json"))["nominal"] is None


def test_a_choice_is_shown_with_its_epsilon(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as book:
        book.release("threshold", PureEvent(0.25))
    assert "epsilon 0.25" in spend(path)
    assert json.loads(spend(path, "--json"))["epsilons"]["pld"] == pytest.approx(0.25, rel=1e-3)
