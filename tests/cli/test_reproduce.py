from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from deniable.cli.reproduce import reproduce_command
from deniable.errors import SettingsError

app = typer.Typer()
app.command()(reproduce_command)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def test_the_list_shows_every_claim_with_its_verdict_and_runs_nothing(tmp_path: Path) -> None:
    result = run("--list", "--out", str(tmp_path))
    assert result.exit_code == 0
    assert "abadi/table" in result.stdout
    assert "not run  MNIST, epsilon 8: 97%" in result.stdout
    assert f"No results were found in {tmp_path.as_posix()}" in result.stdout
    assert "give that folder of a clone with --out" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_quick_experiment_runs_and_says_that_it_says_nothing(tmp_path: Path) -> None:
    result = run("amian/recurrent", "--quick", "--out", str(tmp_path))
    assert result.exit_code == 0
    assert "Without a cure gradients explode: error" in result.stdout
    assert "say nothing about the papers" in result.stdout
    assert (tmp_path / "amian-recurrent.png").read_bytes().startswith(b"\x89PNG")
    assert "A quick run" in (tmp_path / "amian.md").read_text(encoding="utf-8")


def test_without_a_name_it_asks_for_one() -> None:
    with pytest.raises(SettingsError, match="Say what to reproduce"):
        run()
