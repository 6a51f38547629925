"""The audit of a run folder: what it writes, what it refuses, what the command does with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from benchmarks.planted import BUGS
from deniable.audit.gate import audit
from deniable.audit.one_run import FEWEST
from deniable.cli import app
from deniable.errors import DataError, SettingsError
from deniable.report import render
from deniable.runfolder import RunFolder
from deniable.settings import Settings
from deniable.training import begin, fit
from deniable.training.start import joined, load_data

QUICK = {"batch_size": 256, "epochs": 6, "canaries": 2000, "mislabelled": 60, "audit": True}


def trained(path: Path, **settings: Any) -> Path:
    run = begin(Settings.choose("digits", **(QUICK | settings)), path)
    assert fit(run)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = trained(tmp_path_factory.mktemp("audited") / "run")
    audit(path)
    return path


@pytest.fixture
def values(run: Path) -> dict[str, Any]:
    return dict(json.loads(RunFolder(run).audit.read_text()))


def test_a_correct_run_is_not_refuted_and_its_canaries_show_something(
    values: dict[str, Any],
) -> None:
    """Refuted in 1 of 100; nothing shown in fewer than 1 of 100: a bound of 0 is rare at mu 0.7."""
    assert values["holds"]
    bounds = {each["name"]: each["bound"] for each in values["findings"]}
    assert 0 < bounds["gradient canaries"]["epsilon"] < values["claim"]["epsilon"]
    assert bounds["mislabelled examples"]["epsilon"] < values["claim"]["epsilon"]
    assert {each["kind"] for each in values["findings"]} == {"one step", "sampling", "whole run"}
    assert values["roc"][0] == [0.0, 0.0]
    assert values["roc"][-1] == [1.0, 1.0]


def test_the_plan_counts_canaries_and_draws_everyone_as_often_as_without(run: Path) -> None:
    record = RunFolder(run).read()
    plan, without = record["plan"], begin_only(run.parent / "plain")
    assert record["canaries"] == {"gradients": 2000, "examples": 60}
    assert plan["examples"] == 1437 + 2000
    assert record["data"]["examples"] == 1437
    rate, plain_rate = (each["batch_size"] / each["examples"] for each in (plan, without))
    assert plain_rate * 0.99 < rate <= plain_rate
    assert plan["steps"] == without["steps"]
    assert plan["noise_multiplier"] == pytest.approx(without["noise_multiplier"], rel=0.01)


def test_no_example_is_in_the_data_twice_for_being_mislabelled() -> None:
    settings = Settings.choose("digits", **QUICK)
    data = load_data(settings)
    rows = joined(data, settings, "a run")
    assert sorted(map(bytes, rows.inputs)) == sorted(map(bytes, data.train.inputs))
    targets = {bytes(x): y for x, y in zip(data.train.inputs, data.train.targets, strict=True)}
    assert len(targets) == 1437  # no two look alike
    wrong = [targets[bytes(x)] != y for x, y in zip(rows.inputs, rows.targets, strict=True)]
    assert wrong == [False] * (1437 - 60) + [True] * 60


def test_not_every_example_can_be_mislabelled(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="must be below that, got 1,437"):
        begin(Settings.choose("digits", **(QUICK | {"mislabelled": 1437})), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_data_than_the_run_was_trained_on_are_refused(run: Path, tmp_path: Path) -> None:
    """Rows that it never saw would show that nothing leaks."""
    shutil.copytree(run, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    record = folder.read()
    record["data"]["fingerprint"] = "0" * 64
    folder.run_json.write_text(json.dumps(record))
    with pytest.raises(DataError, match="fingerprint 000"):
        audit(folder.path)


def begin_only(path: Path) -> dict[str, Any]:
    plain = {"audit": False, "canaries": None, "mislabelled": None}
    begun = begin(Settings.choose("digits", **(QUICK | plain)), path)
    begun.private.detach()
    return dict(begun.record["plan"])


def test_the_report_shows_claim_and_measurement_and_nothing_where_there_is_none(run: Path) -> None:
    shown = render(run).read_text()
    assert "What an audit measured" in shown
    assert 'id="brackets-' in shown
    assert 'id="measured-roc-' in shown
    kept = RunFolder(run).audit.read_bytes()
    try:
        RunFolder(run).audit.unlink()
        assert "What an audit measured" not in render(run).read_text()
        RunFolder(run).audit.write_text('{"findings": [3, {"bound": "x"}], "roc": [["a", 2]]}')
        assert "does not hold" in render(run).read_text()
    finally:
        RunFolder(run).audit.write_bytes(kept)


def with_scores(run: Path, path: Path, scores: Any) -> Path:
    """A copy of the run whose canaries scored otherwise."""
    shutil.copytree(run, path)
    saved = safetensors.torch.load_file(RunFolder(path).canaries)
    inside = saved["inside"].numpy().astype(bool)[int(saved["examples"]) :]
    saved["scores"] = torch.from_numpy(np.asarray(scores(inside), dtype=np.float64))
    safetensors.torch.save_file(saved, RunFolder(path).canaries)
    return path


def test_the_command_exits_with_1_when_more_is_measured_than_claimed(
    run: Path, tmp_path: Path
) -> None:
    """Canaries that are told apart with certainty: no epsilon of 3 allows that."""
    leaking = with_scores(run, tmp_path / "leaking", lambda inside: inside.astype(float))
    arguments = ["audit", str(leaking), "--json"]
    result = CliRunner().invoke(app, [*arguments, "--fail-above-claim"])
    assert result.exit_code == 1, result.output
    found = json.loads(result.stdout)
    assert not found["holds"]
    refuted = [each["name"] for each in found["findings"] if not each["holds"]]
    assert refuted == ["gradient canaries, if Gaussian", "the claim's curve"]
    page = RunFolder(leaking).report.read_text()
    assert "What was measured exceeds what is claimed" in page


def test_the_command_says_what_it_found_and_exits_with_0_when_nothing_is_refuted(
    run: Path, tmp_path: Path
) -> None:
    path = with_scores(run, tmp_path / "quiet", lambda inside: np.arange(len(inside)))
    result = CliRunner().invoke(app, ["audit", str(path), "--fail-above-claim"])
    assert result.exit_code == 0, result.output
    assert "Nothing refutes the claim" in result.output


def test_a_gate_finds_noise_that_was_too_small_while_the_run_trained(tmp_path: Path) -> None:
    """By its canaries alone, when the code has been mended since: halved three times over."""
    half = BUGS["noise scaled by half"]
    with half(0), half(0), half(0):
        path = trained(tmp_path / "run", epsilon=1.0, mislabelled=None)
    refuted = [each.name for each in audit(path).failed()]
    assert "gradient canaries, if Gaussian" in refuted or "the claim's curve" in refuted


def test_a_run_without_canaries_is_audited_by_its_mechanism(tmp_path: Path) -> None:
    plain = {"audit": False, "canaries": None, "mislabelled": None, "bound": "adaptive"}
    path = trained(tmp_path / "run", **plain)
    found = audit(path)
    assert found.holds
    assert found.lower is None
    assert found.roc == []


def test_a_run_without_noise_claims_nothing(tmp_path: Path) -> None:
    path = trained(tmp_path / "run", noise_multiplier=0.0, epochs=1)
    with pytest.raises(SettingsError, match="nothing to audit"):
        audit(path)


def test_too_few_canaries_are_left_out(tmp_path: Path) -> None:
    path = trained(tmp_path / "run", canaries=FEWEST - 1, mislabelled=None)
    assert audit(path).lower is None
