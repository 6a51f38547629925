from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from deniable.cli.report import report_command
from deniable.cli.train import train_command
from deniable.errors import SettingsError

RUN = Path(__file__).parent.parent / "report" / "run.json"

app = typer.Typer()
app.command()(report_command)


def test_the_report_is_written_again_and_its_path_printed(tmp_path: Path) -> None:
    shutil.copy(RUN, tmp_path)
    for _ in range(2):
        result = CliRunner().invoke(app, [str(tmp_path)], catch_exceptions=False)
        assert result.exit_code == 0
        assert result.stdout == f"{tmp_path / 'report.html'}\n"
    assert "95.9%" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"run\.json"):
        CliRunner().invoke(app, [str(tmp_path)], catch_exceptions=False)


def test_every_setting_that_a_report_repeats_is_an_option_of_train() -> None:
    settings = json.loads(RUN.read_text(encoding="utf-8"))["settings"]
    assert set(settings) <= set(inspect.signature(train_command).parameters)
