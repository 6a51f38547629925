"""The entry of the command line: what every command shares."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import typer

import deniable.cli
from deniable.errors import DeniableWarning, PlanError

PLAN = "plan --examples 60000 --batch-size 256 --epochs 60 --noise-multiplier 1.1 --delta 1e-5"


def exit_status(arguments: list[str]) -> int | str | None:
    with pytest.raises(SystemExit) as stop:
        deniable.cli.main(arguments)
    return stop.value.code


def failing_app(problem: Exception) -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)

    @app.command()
    def fail() -> None:
        raise problem

    return app


def test_an_error_raised_on_purpose_is_a_message_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(deniable.cli, "app", failing_app(PlanError("Say epsilon.")))
    assert exit_status([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "deniable: Say epsilon.\n"


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deniable.cli, "app", failing_app(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        deniable.cli.main([])


def test_an_unknown_command_is_refused_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(["trian"]) == 2
    assert "trian" in capsys.readouterr().err


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    exit_status([])
    said = capsys.readouterr()
    assert "train" in said.out + said.err


def test_plan_answers_without_loading_torch() -> None:
    """The known answer of 14,040 steps at noise multiplier 1.1, computed by dp-accounting alone."""
    program = (
        "import sys\n"
        "from deniable.cli import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "finally:\n"
        "    assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *PLAN.split()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "2.59" in done.stdout
    assert "2.38" in done.stdout
    assert "14,040" in done.stdout or "14040" in done.stdout


def test_the_module_can_be_run() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deniable", "--help"], capture_output=True, text=True, check=True
    )
    assert "spend" in done.stdout


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(["--version"]) == 0
    assert capsys.readouterr().out == f"deniable {deniable.__version__}\n"


def test_a_warning_given_on_purpose_is_a_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def warn() -> None:
        warnings.simplefilter("default")
        warnings.warn("Delta is large.", DeniableWarning, stacklevel=1)
        warnings.warn("Of another library.", UserWarning, stacklevel=1)

    monkeypatch.setattr(deniable.cli, "app", app)
    monkeypatch.setattr(deniable.cli, "_SHOW_OTHER", lambda said, *_: print(f"shown: {said}"))
    assert exit_status([]) == 0
    said = capsys.readouterr()
    assert said.err == "deniable: Delta is large.\n"
    assert said.out == "shown: Of another library.\n"
