from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from deniable.cli.plan import plan_command
from deniable.errors import PlanError

app = typer.Typer()
app.command()(plan_command)

SIZES = ["--examples", "60000", "--batch-size", "256"]
KNOWN = [*SIZES, "--epochs", "60", "--noise-multiplier", "1.1", "--delta", "1e-5"]


def plan(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


def test_the_known_plan_without_importing_torch() -> None:
    code = (
        "import sys\nfrom deniable.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "plan", *KNOWN], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for expected in ("2.59", "2.38", "14,040", "256/60,000"):
        assert expected in done.stdout


def test_it_says_what_batches_are_and_what_epsilon_bounds() -> None:
    """Rate, expected size, relation, and an attacker's best rate. Pitfall: users 7."""
    said = plan(*KNOWN)
    assert "0.00426667" in said
    assert "expected batch size │ 256" in said
    assert "Batch sizes vary" in said
    assert "wrongly names 1 in every 100 people" in said
    assert "at most 4.1 in every 100" in said


def test_the_relation_is_printed_beside_every_epsilon() -> None:
    """Pitfall: privacy 14."""
    assert "add-or-remove: one example more or less" in plan(*KNOWN)
    assert json.loads(plan(*KNOWN, "--json"))["neighbouring"] == "add-or-remove"


def test_json_is_one_object_and_nothing_else() -> None:
    found = json.loads(plan(*KNOWN, "--json"))
    assert found["steps"] == 14_040
    assert found["epochs"] == 60
    assert found["epsilons"]["rdp"] == pytest.approx(2.5944, abs=1e-4)
    assert found["epsilons"]["pld"] == found["epsilon"] == pytest.approx(2.380, abs=1e-3)
    assert found["attacker"]["false_positive_rate"] == 0.01
    assert found["non_private"] is False


def test_an_epsilon_is_solved_for_noise() -> None:
    found = json.loads(plan(*SIZES, "--steps", "3510", "--epsilon", "3", "--json"))
    assert 2.97 <= found["epsilon"] <= 3
    assert 0.72 < found["noise_multiplier"] < 0.74


def test_an_epsilon_and_a_noise_are_solved_for_steps() -> None:
    found = json.loads(plan(*SIZES, "--epsilon", "3", "--noise-multiplier", "1.1", "--json"))
    assert 2.97 <= found["epsilon"] <= 3
    assert 21_000 < found["steps"] < 21_500


def test_a_plan_without_noise_says_that_it_is_not_private() -> None:
    bare = [*SIZES, "--epochs", "1", "--noise-multiplier", "0"]
    assert "NOT PRIVATE" in plan(*bare)
    found = json.loads(plan(*bare, "--json"))
    assert found["epsilon"] is None
    assert found["epsilons"] == {"rdp": None, "pld": None}
    assert found["attacker"]["true_positive_rate"] == 1
    assert found["non_private"] is True


def test_a_delta_that_promises_nothing_is_pointed_out() -> None:
    few = ["--examples", "1000", "--batch-size", "10", "--steps", "5", "--noise-multiplier", "2"]
    assert "Delta is too large" in plan(*few, "--delta", "0.001")
    assert "Delta is too large" not in plan(*few, "--delta", "1e-5")


def test_too_few_quantities_are_refused_with_what_to_give() -> None:
    with pytest.raises(PlanError, match="Give exactly three of"):
        plan(*SIZES, "--epochs", "60")


def test_the_batch_size_is_solved_when_it_is_left_out() -> None:
    asked = (
        "--examples",
        "60000",
        "--steps",
        "1000",
        "--epsilon",
        "3",
        "--noise-multiplier",
        "1.1",
    )
    found = json.loads(plan(*asked, "--json"))
    assert found["batch_size"] > 256
    assert found["epsilon"] <= 3


def test_neighbouring_plans_stand_beside_it() -> None:
    said = plan(*KNOWN)
    assert "Epsilon by PLD, with other noise and other lengths" in said
    assert "120 epochs" in said
    assert "Phases" not in said


def test_a_schedule_is_shown_phase_by_phase() -> None:
    said = plan(*KNOWN, "--noise-schedule", "stairs:0.5:2", "--batch-schedule", "1:1,1:2")
    assert "1.1 to 0.55" in said
    assert "256 to 512" in said
    assert "Phases" in said


def test_no_number_is_cut_off_in_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    said = plan(*KNOWN)
    for number in ("60,000", "14,040", "1e-05", "2.595", "2.380"):
        assert number in said
    assert "…" not in said


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    said = plan(*KNOWN, "--figure", str(tmp_path / "trade.svg"))
    assert "Figure:" in said
    assert (tmp_path / "trade.svg").stat().st_size > 0
