from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deniable.cli import app
from deniable.errors import DataError, SettingsError
from deniable.runfolder import RunFolder


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A private run of the digits, and one without privacy."""
    folder = tmp_path_factory.mktemp("runs")
    common = ("train", "--seed", "1", "--epochs", "10", "--batch-size", "128")
    private, plain = folder / "private", folder / "plain"
    invoke(*common, "--epsilon", "2", "--out", str(private))
    invoke(*common, "--noise-multiplier", "0", "--clip", "1000", "--out", str(plain))
    return private, plain


def test_membership_shows_every_attack_beside_what_epsilon_allows(runs: tuple[Path, Path]) -> None:
    said = invoke("attack", "membership", str(runs[0]), "--shadows", "2", "--seed", "0")
    for words in (
        *("loss", "calibrated loss", "quantile", "LiRA"),
        *("an attack, no guarantee", "the most that any", "needs 1,000"),
        *("keep it as private as", "1,437 members, 180 non-members"),
    ):
        assert words in said, words
    assert (runs[0] / "attack-membership.png").read_bytes().startswith(b"\x89PNG")


def test_membership_as_json_says_that_it_guarantees_nothing(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    picture = str(tmp_path / "curves.svg")
    values = json.loads(invoke("attack", "membership", str(runs[1]), "--out", picture, "--json"))
    assert values["guarantee"] is None
    assert values["the_most_that_any_attack_can_find"] is None
    assert set(values["found"]) == {"loss", "quantile"}
    for found in values["found"].values():
        value, low, high = found["auc"]
        assert 0 <= low <= value <= high <= 1
        assert list(found["true_positive_rate"]) == ["0.01"]
    assert Path(picture).exists()


def test_inversion_writes_a_sheet_and_says_how_alike_it_is(runs: tuple[Path, Path]) -> None:
    said = invoke("attack", "inversion", str(runs[1]), "--steps", "40")
    assert "an attack, no guarantee" in said
    assert (runs[1] / "attack-inversion.png").exists()
    values = json.loads(invoke("attack", "inversion", str(runs[1]), "--raw", "--json"))
    assert list(values["correlation"]) == [str(each) for each in range(10)]


def test_rare_examples_are_those_that_the_private_run_learned_least(
    runs: tuple[Path, Path],
) -> None:
    private, plain = runs
    rare = ("attack", "rare", str(private), str(plain))
    values = json.loads(invoke(*rare, "--count", "7", "--json"))
    differences = [first - second for first, second in (e["losses"] for e in values["examples"])]
    assert len(differences) == 7
    assert differences == sorted(differences, reverse=True)
    assert differences[-1] > 0
    said = invoke(*rare, "--count", "5")
    assert "keep it as private as the data" in said
    assert (private / "attack-rare.png").exists()
    for other in runs:
        with pytest.raises(SettingsError, match="must be a run with less privacy than"):
            invoke("attack", "rare", str(other), str(private))


def changed(run: Path, to: Path, **changes: Any) -> Path:
    """A copy of a run with other values in its record."""
    folder = RunFolder(to)
    folder.create()
    record = RunFolder(run).read() | changes
    folder.write(record)
    folder.model.write_bytes(RunFolder(run).model.read_bytes())
    return to


def test_a_run_that_is_not_complete_is_refused(runs: tuple[Path, Path], tmp_path: Path) -> None:
    run = changed(runs[0], tmp_path / "run", status="interrupted")
    with pytest.raises(SettingsError, match="must be complete"):
        invoke("attack", "inversion", str(run))
    with pytest.raises(SettingsError, match=r"run\.json"):
        invoke("attack", "inversion", str(tmp_path / "nothing"))


def test_a_run_on_other_data_is_refused(runs: tuple[Path, Path], tmp_path: Path) -> None:
    data = RunFolder(runs[0]).read()["data"] | {"fingerprint": "0" * 64}
    run = changed(runs[0], tmp_path / "run", data=data)
    with pytest.raises(DataError, match="trained on digits data with the fingerprint 000"):
        invoke("attack", "inversion", str(run))


@pytest.mark.parametrize("attack", ["membership", "inversion"])
def test_a_picture_that_cannot_be_written_is_refused_before_anything_else(
    tmp_path: Path, attack: str
) -> None:
    with pytest.raises(SettingsError, match=r"ends in \.svg, \.png or \.pdf"):
        invoke("attack", attack, str(tmp_path / "no run"), "--out", str(tmp_path / "a.jpg"))


def test_one_shadow_model_is_refused(runs: tuple[Path, Path]) -> None:
    with pytest.raises(SettingsError, match="at least 2"):
        invoke("attack", "membership", str(runs[0]), "--shadows", "1")
