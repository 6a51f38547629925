from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from deniable.accounting import ACCOUNTANTS
from deniable.cli.explain import explain_command
from deniable.errors import PlanError

app = typer.Typer()
app.command()(explain_command)

KNOWN = ["--examples", "60000", "--batch-size", "256", "--steps", "14040"]
KNOWN += ["--noise-multiplier", "1.1", "--delta", "1e-5"]


def explain(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


def test_the_plan_of_the_slides_is_explained_without_importing_torch() -> None:
    code = (
        "import sys\nfrom deniable.cli import main\n"
        "try:\n    main(['explain'])\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert 'torch' not in sys.modules\nassert 'matplotlib' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed_there = ("12,000", "360", "1.25")
    by_formula = ("11,996", "407", "8.141", "2.399")
    ours = ("13,960", "9,192", "14.19", "1.259", "1.036", "0.9470")
    for expected in (*printed_there, *by_formula, *ours):
        assert expected in done.stdout


def test_another_plan_is_explained_without_the_slides() -> None:
    said = explain(*KNOWN)
    for name, each in ACCOUNTANTS.items():
        assert name in said
        assert each.summary.split()[-1] in said
    assert "2.595" in said and "2.380" in said
    assert "printed" not in said


def test_the_relation_is_printed_beside_every_epsilon() -> None:
    """Pitfall: privacy 14."""
    assert "add-or-remove: one example more or less" in explain(*KNOWN)


def test_json_holds_every_accountant_and_what_the_slides_say() -> None:
    found = json.loads(explain("--json"))
    assert list(found["accountants"]) == list(ACCOUNTANTS)
    assert found["accountants"]["moments"]["epsilon"] == pytest.approx(1.2586, abs=5e-5)
    assert found["accountants"]["pld"]["valid"] is True
    assert found["slides"]["strong"]["printed"] == "360"
    assert found["slides"]["strong"]["holds"] > found["slides"]["strong"]["epsilon"]
    assert "slides" not in json.loads(explain(*KNOWN, "--json"))


def test_a_plan_without_noise_says_that_it_is_not_private() -> None:
    bare = ["--examples", "100", "--batch-size", "10", "--steps", "5", "--noise-multiplier", "0"]
    assert "NOT PRIVATE" in explain(*bare)
    assert json.loads(explain(*bare, "--json"))["accountants"]["basic"]["epsilon"] is None


def test_who_does_not_know_the_sampling_says_so() -> None:
    """Pitfall: privacy 1."""
    said = explain("--sampling", "fixed-size")
    assert "not valid here: This accountant knows" in said
    assert "printed" not in said
    found = json.loads(explain("--sampling", "fixed-size", "--json"))["accountants"]
    assert [name for name, each in found.items() if not each["valid"]] == ["moments"]
    assert found["moments"]["epsilon"] is None


def test_a_loader_of_the_users_own_has_nothing_amplified() -> None:
    """Pitfall: privacy 1."""
    assert "No amplification by sampling is claimed" in explain("--sampling", "own-loader")
    found = json.loads(explain("--sampling", "own-loader", "--json"))["accountants"]
    assert found["amplified"]["epsilon"] == pytest.approx(found["strong"]["epsilon"])


def test_a_figure_is_drawn_where_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "ladder.png"
    assert str(path) in explain(*KNOWN[:4], "--steps", "5", "--noise-multiplier", "2",
                                "--figure", str(path)).replace(" ", "")  # fmt: skip
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("given", [["--noise-multiplier", "2"], KNOWN[2:]])
def test_half_a_plan_is_refused_with_what_is_missing(given: list[str]) -> None:
    with pytest.raises(PlanError, match="needs --examples, and three of"):
        explain(*given)
