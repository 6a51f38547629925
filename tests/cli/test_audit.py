"""`deniable audit` and `deniable train --audit`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from deniable.cli import app


def test_a_folder_without_a_run_is_refused_before_torch_is_loaded(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom deniable.cli import main\n"
        f"try:\n    main(['audit', {str(tmp_path)!r}])\n"
        "except SystemExit as stopped:\n    print(stopped.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"]
    assert "holds no run" in done.stderr


def test_a_run_trained_with_audit_ends_with_its_verdict(tmp_path: Path) -> None:
    options = ["--batch-size", "256", "--epochs", "2", "--canaries", "500", "--audit"]
    result = CliRunner().invoke(app, ["train", *options, "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert "Audit          " in result.output
    values = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert values["claim"]["delta"] == 1e-5


def test_canaries_without_an_audit_are_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["train", "--canaries", "5", "--out", str(tmp_path / "run")])
    assert result.exception is not None
    assert "come with audit" in str(result.exception)
